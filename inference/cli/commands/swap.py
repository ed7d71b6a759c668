"""The command that swaps latents of one text for those of another."""

from typing import Unpack

from ..input_texts import require_text
from ..options.ranges import parse_ranges
from ..options.shared_options import DecodingOptions, decoding_strategy, open_run
from ..output import print_json

__all__ = ["swap"]


def swap(
    *,
    text: str | None = None,
    other: str | None = None,
    layers: str | None = None,
    condition: str | None = None,
    **options: Unpack[DecodingOptions],
) -> None:
    """Generate a text of a DELLA with latents of some layers of another text: one line of JSON per choice of layers.

    The latents must belong to layers, as those of a DELLA do with --model.structure chain or independent.

    Example:
      pyroformer swap runs/snli --text "a man sleeps" --other "two dogs run" --layers 1-2

    Arguments:
        text: The text that is changed.
        other: The text from which latents are taken.
        layers: Layers to swap, such as 2 or 1-3 (default: none, then each alone, then all).
        condition: Condition of both texts, if the run was trained on pairs.
    """
    from ...generation.interpolation import swaps

    choices = None if layers is None else [parse_ranges(layers, "--layers", kind="layers")]
    decoding = decoding_strategy(options)
    first, second = require_text("--text", text), require_text("--other", other)
    for swapped in swaps(
        open_run(options), first, second, choices, decoding=decoding, seed=options.get("seed", 0), condition=condition
    ):
        print_json({"layers": list(swapped.layers), "text": swapped.text})
