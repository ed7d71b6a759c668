"""pyroformer swap."""

from ..common import chosen_decoding, load_run, say_json, two_texts
from ..ranges import parse_ranges

__all__ = ["swap"]


def swap(
    run: str,
    *,
    text: str | None = None,
    other: str | None = None,
    layers: str | None = None,
    condition: str | None = None,
    seed: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    trust: list[str] | None = None,
) -> None:
    """Put the latents of some layers of one text into another and write it: one line of JSON for each choice of layers.

    Example:
      pyroformer swap runs/snli --text "a man sleeps" --other "two dogs run" --layers 1-2

    Arguments:
        run: The folder that fit wrote.
        text: The text that is changed.
        other: The text whose latents come in.
        layers: In which layers, such as 2 or 1-3 (default: none of them, then each alone, then all).
        condition: What both texts answer to, if the run was trained on pairs.
        seed: Of the draws.
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Draw from so many most probable tokens; 0 is all of them.
        top_p: Draw from the most probable tokens that together have this share of the probability.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from ...generation.interpolation import swaps

    choices = None if layers is None else [parse_ranges(layers, of="layers")]
    given = chosen_decoding(temperature, top_k, top_p) | {"seed": seed, "condition": condition}
    for found in swaps(load_run(run, trust), *two_texts(text, other), choices, **given):
        say_json({"layers": list(found.layers), "text": found.text})
