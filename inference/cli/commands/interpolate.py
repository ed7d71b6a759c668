"""The command that interpolates between two texts."""

from typing import Unpack

from ..input_texts import require_text
from ..options.ranges import parse_ranges
from ..options.shared_options import DecodingOptions, decoding_strategy, open_run
from ..output import print_json

__all__ = ["interpolate"]


def interpolate(
    *,
    text: str | None = None,
    other: str | None = None,
    steps: int = 5,
    layers: str | None = None,
    condition: str | None = None,
    **options: Unpack[DecodingOptions],
) -> None:
    """Generate the texts on the path between the latents of two texts: one line of JSON each.

    Latents of layers are interpolated linearly; of two mixtures, the weights are.

    Examples:
      pyroformer interpolate runs/snli --text "a man sleeps" --other "two dogs run" --layers 1-2
      pyroformer interpolate runs/reviews --text "The food was good." --other "We waited for an hour."

    Arguments:
        text: The first text.
        other: The last text.
        steps: Number of texts, both ends included.
        layers: Layers whose latents are interpolated, such as 2 or 1-3 (default: all); the others keep those of the
            first text. Only for models with latents in layers.
        condition: Condition of both texts, if the run was trained on pairs.
    """
    from ...generation.interpolation import interpolate as path_between

    selected = None if layers is None else parse_ranges(layers, "--layers", kind="layers")
    decoding = decoding_strategy(options)
    first, second = require_text("--text", text), require_text("--other", other)
    path = path_between(
        open_run(options),
        first,
        second,
        steps,
        layers=selected,
        decoding=decoding,
        seed=options.get("seed", 0),
        condition=condition,
    )
    for step in path:
        print_json({"t": round(step.t, 6), "text": step.text})
