"""pyroformer edit."""

from typing import Any

from ..common import chosen_decoding, load_run, needed_text, say_json
from ..ranges import assigned, parse_ranges

__all__ = ["edit"]


def edit(
    run: str,
    *,
    text: str | None = None,
    drop: str | None = None,
    scale: str | None = None,
    swap: str | None = None,
    other: str | None = None,
    seed: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    trust: list[str] | None = None,
) -> None:
    """Write a text from its mixture with vectors dropped, scaled or swapped: one line of JSON.

    Without --drop, --scale and --swap: a line for each vector, with the number by which these know it. Number 0 is the
    prior's own vector, which stays; the others are those of the tokens.

    Examples:
      pyroformer edit runs/reviews --text "The food was good."
      pyroformer edit runs/reviews --text "The food was good." --drop 2,4-5 --scale 3=0.1
      pyroformer edit runs/reviews --text "The food was good." --swap 2=1 --other "We waited for an hour."

    Arguments:
        run: The folder that fit wrote.
        text: The text to encode.
        drop: Vectors that leave, such as 2 or 1-3 or 2,4-5.
        scale: What weights are multiplied by, such as 3=0.1 or 3=0.1,6=2.
        swap: Vectors of --text that become those of --other, such as 3=5: the weight stays.
        other: The text whose vectors come in.
        seed: Of the draws.
        temperature: Below 1 sharpens the distribution of each token, above 1 flattens it.
        top_k: Draw from so many most probable tokens; 0 is all of them.
        top_p: Draw from the most probable tokens that together have this share of the probability.
        trust: Classes outside pyroformer that the run may import, such as my_priors.Sticky.
    """
    from ...generation.editing import edit as edited
    from ...generation.editing import vectors

    text = needed_text("--text", text)
    asked: dict[str, Any] = {
        "drop": () if drop is None else parse_ranges(drop, of="vectors"),
        "scale": {} if scale is None else assigned(scale, "--scale", float, "3=0.1"),
        "swap": {} if swap is None else assigned(swap, "--swap", int, "3=5"),
        "other": None if other is None else needed_text("--other", other),
    }
    given = chosen_decoding(temperature, top_k, top_p)
    loaded = load_run(run, trust)
    if not any(asked.values()):
        for vector in vectors(loaded, text):
            say_json(vector._asdict())
        return
    found = edited(loaded, text, seed=seed, **asked, **given)._asdict()
    done = {name: value for name, value in found.items() if value}
    say_json({"original": done.pop("original"), "text": found["text"]} | done)
