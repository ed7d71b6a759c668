"""pyroformer sample."""

from ..common import load_run, rule, say_json

__all__ = ["sample"]


def sample(
    run: str,
    *,
    n: int = 5,
    prompt: str = "",
    condition: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    greedy: bool = False,
    trust: list[str] | None = None,
) -> None:
    """Make texts up, from the prior down: one line of JSON for each.

    Example:
      pyroformer sample runs/reviews -n 10 --temperature 0.8

    Arguments:
        run: The folder that fit wrote.
        n: How many.
        prompt: How every text begins.
        condition: What every text answers to, if the run was trained on pairs.
        seed: The same seed gives the same texts; another one others.
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Draw from so many most probable tokens; 0 is all of them.
        top_p: Draw from the most probable tokens that together have this share of the probability.
        greedy: Take the most probable token each time; what is random is the prior's draw.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    chosen = rule(temperature, top_k, top_p, greedy)
    if n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    for text in load_run(run, trust).sample(n, seed=seed, prompt=prompt, condition=condition, **chosen):
        say_json({"text": text})
