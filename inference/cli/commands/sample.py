"""The command that samples texts."""

from typing import Unpack

from ..options.shared_options import DecodingOptions, decoding_strategy, open_run
from ..output import print_json, print_notice

__all__ = ["sample"]

PART = 64  # texts that are generated at a time, and printed before the next


def sample(
    *,
    n: int = 5,
    prompt: str = "",
    condition: str | None = None,
    greedy: bool = False,
    **options: Unpack[DecodingOptions],
) -> None:
    """Sample texts from the prior: one line of JSON each.

    Example:
      pyroformer sample runs/reviews -n 10 --temperature 0.8

    Arguments:
        n: Number of texts.
        prompt: Beginning of every text.
        condition: Condition of every text, if the run was trained on pairs.
        greedy: Take the most probable token at each step; only the latents are then random.
    """
    from ...evaluation.verdict import validation_rate
    from ...generation.generate import sample as draw

    decoding = decoding_strategy(options, greedy=greedy)
    if n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    run, seed = open_run(options), options.get("seed", 0)
    for start in range(0, n, PART):
        texts = draw(run, min(PART, n - start), decoding, seed=seed, prompt=prompt, condition=condition, start=start)
        # A large rate copies well, and samples then mean little; said once it is sure that there are some.
        if start == 0 and (rate := validation_rate(run)) is not None:
            print_notice(f"samples from the prior; rate, KL of all latents on validation texts: {rate:,.2f} nats/token")
        for text in texts:
            print_json({"text": text})
