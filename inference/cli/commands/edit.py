"""The command that edits the mixture of a text."""

from typing import Any, Unpack

from ..input_texts import require_text
from ..options.ranges import parse_assignments, parse_ranges
from ..options.shared_options import DecodingOptions, decoding_strategy, open_run
from ..output import print_json

__all__ = ["edit"]


def edit(
    *,
    text: str | None = None,
    drop: str | None = None,
    scale: str | None = None,
    swap: str | None = None,
    other: str | None = None,
    **options: Unpack[DecodingOptions],
) -> None:
    """Generate a text of an NVAE after vectors of its mixture were dropped, scaled or swapped: one line of JSON.

    Without --drop, --scale and --swap it lists the vectors, one line of JSON each, with the numbers that these options
    take. Number 0 is the prior's own vector, which stays; the others are those of the tokens.

    Examples:
      pyroformer edit runs/reviews --text "The food was good."
      pyroformer edit runs/reviews --text "The food was good." --drop 2,4-5 --scale 3=0.1
      pyroformer edit runs/reviews --text "The food was good." --swap 2=1 --other "We waited for an hour."

    Arguments:
        text: The text to encode.
        drop: Numbers of vectors to drop, such as 2 or 1-3 or 2,4-5.
        scale: Factors of the weights of vectors, such as 3=0.1 or 3=0.1,6=2.
        swap: Vectors of --text to replace by vectors of --other, such as 3=5; their weights stay.
        other: The text from which --swap takes vectors.
    """
    from ...generation.editing import edit as edit_text
    from ...generation.editing import vectors

    text = require_text("--text", text)
    edits: dict[str, Any] = {
        "drop": () if drop is None else parse_ranges(drop, "--drop", kind="vectors"),
        "scale": {} if scale is None else parse_assignments(scale, "--scale", float, "3=0.1"),
        "swap": {} if swap is None else parse_assignments(swap, "--swap", int, "3=5"),
        "other": None if other is None else require_text("--other", other),
    }
    decoding = decoding_strategy(options)
    run = open_run(options)
    if not any(edits.values()):
        for vector in vectors(run, text):
            print_json(vector._asdict())
        return
    edited = edit_text(run, text, decoding=decoding, seed=options.get("seed", 0), **edits)._asdict()
    done = {name: value for name, value in edited.items() if value}
    print_json({"original": done.pop("original"), "text": edited["text"]} | done)
