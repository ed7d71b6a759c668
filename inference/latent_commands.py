"""Commands on the latents of a run; signature and docstring are their help."""

from typing import Any

from .commands import load_run, rule, say_json
from .numbering import assigned, numbers

__all__ = ["edit", "interpolate", "swap"]


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
    from .generation.interpolation import interpolate as between

    chosen = None if layers is None else numbers(layers, of="layers")
    given = _given(temperature, top_k, top_p) | {"seed": seed, "condition": condition}
    first, second = _both(text, other)
    for found in between(load_run(run, trust), first, second, steps, layers=chosen, **given):
        say_json({"share": round(found.share, 6), "text": found.text})


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
    from .generation.interpolation import swaps

    choices = None if layers is None else [numbers(layers, of="layers")]
    given = _given(temperature, top_k, top_p) | {"seed": seed, "condition": condition}
    for found in swaps(load_run(run, trust), *_both(text, other), choices, **given):
        say_json({"layers": list(found.layers), "text": found.text})


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
    from .generation.editing import edit as edited
    from .generation.editing import vectors

    text = _needed("--text", text)
    asked: dict[str, Any] = {
        "drop": () if drop is None else numbers(drop, of="vectors"),
        "scale": {} if scale is None else assigned(scale, "--scale", float, "3=0.1"),
        "swap": {} if swap is None else assigned(swap, "--swap", int, "3=5"),
        "other": None if other is None else _needed("--other", other),
    }
    given = _given(temperature, top_k, top_p)
    loaded = load_run(run, trust)
    if not any(asked.values()):
        for vector in vectors(loaded, text):
            say_json(vector._asdict())
        return
    found = edited(loaded, text, seed=seed, **asked, **given)._asdict()
    done = {name: value for name, value in found.items() if value}
    say_json({"original": done.pop("original"), "text": found["text"]} | done)


def _both(text: str | None, other: str | None) -> tuple[str, str]:
    return _needed("--text", text), _needed("--other", other)


def _needed(flag: str, text: str | None) -> str:
    if text is None or not text.strip():
        raise ValueError(f"{flag} is {'missing' if text is None else 'empty'}: give a text of at least one word.")
    return text


def _given(temperature: float | None, top_k: int | None, top_p: float | None) -> dict[str, Any]:
    """How tokens are chosen, if it was said."""
    from .generation.decoding import Decoding

    said = rule(temperature, top_k, top_p)
    return {"decoding": Decoding(**said)} if said else {}
