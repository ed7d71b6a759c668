"""pyroformer interpolate."""

from ..common import chosen_decoding, load_run, say_json, two_texts
from ..ranges import parse_ranges

__all__ = ["interpolate"]


def interpolate(
    run: str,
    *,
    text: str | None = None,
    other: str | None = None,
    steps: int = 5,
    layers: str | None = None,
    condition: str | None = None,
    seed: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    trust: list[str] | None = None,
) -> None:
    """Write the texts on the way from one text's latents to another's: one line of JSON for each.

    Latents of layers go in a straight line; mixtures are mixed, each with its share.

    Examples:
      pyroformer interpolate runs/snli --text "a man sleeps" --other "two dogs run" --layers 1-2
      pyroformer interpolate runs/reviews --text "The food was good." --other "We waited for an hour."

    Arguments:
        run: The folder that fit wrote.
        text: The text to begin with.
        other: The text to end with.
        steps: How many texts to write, both ends included.
        layers: Layers whose latents move, such as 2 or 1-3 (default: all); the others keep those of the first text.
            Only where latents belong to layers.
        condition: What both texts answer to, if the run was trained on pairs.
        seed: Of the draws.
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Draw from so many most probable tokens; 0 is all of them.
        top_p: Draw from the most probable tokens that together have this share of the probability.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from ...generation.interpolation import interpolate as between

    chosen = None if layers is None else parse_ranges(layers, of="layers")
    given = chosen_decoding(temperature, top_k, top_p) | {"seed": seed, "condition": condition}
    first, second = two_texts(text, other)
    for found in between(load_run(run, trust), first, second, steps, layers=chosen, **given):
        say_json({"share": round(found.share, 6), "text": found.text})
