r"""What one text's latents do to another: on the way from one to the other, and layer by layer."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.memory import Context
from .decoding import Decoding
from .generation import GREEDY, decode, encode
from .run import Run

__all__ = ["Mixed", "interpolate", "layer_numbers", "swap", "swaps"]


class Mixed(NamedTuple):
    """A text written from latents of two texts."""

    text: str
    share: float  # of the second one's latents
    layers: tuple[int, ...]  # in these layers, from 1


def interpolate(
    run: Run,
    first: str,
    second: str,
    steps: int = 5,
    *,
    layers: Sequence[int] | None = None,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | None = None,
) -> list[Mixed]:
    r"""What the decoder writes on the straight way from one text's latents to another's.

    .. math:: z_l(\tau) = (1 - \tau) \, z_l^{(1)} + \tau \, z_l^{(2)}, \qquad \tau = 0, \tfrac{1}{S - 1}, \dots, 1

    in the chosen layers; in the others the latents stay those of the first text. They are the means of the posteriors.

    Arguments:
        run: A run whose latents belong to layers.
        first: The text to begin with.
        second: The text to end with.
        steps: How many texts :math:`S` to write, both ends included.
        layers: Layers whose latents move, from 1; all if None.
        decoding: How tokens are chosen; the most probable ones by default.
        seed: Of the noise, where tokens are drawn.
        condition: What both texts answer to, if the run was trained on pairs.

    Raises:
        ValueError: If there are fewer than two steps, the run has no such layers, or a text does not fit its window.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}: give at least 2, the two ends.")
    chosen, moves, found = _pair(run, first, second, layers, condition)
    shares = torch.linspace(0, 1, steps)
    mixed = [torch.lerp(found.latents[0], found.latents[1], share * moves) for share in shares.to(moves.device)]
    texts = _written(run, torch.stack(mixed), found, decoding, seed)
    return [Mixed(text, float(share), chosen) for text, share in zip(texts, shares, strict=True)]


def swap(
    run: Run,
    text: str,
    other: str,
    layers: Sequence[int],
    *,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | None = None,
) -> Mixed:
    """What the decoder writes from a text's latents with those of some layers replaced by another text's.

    Arguments:
        run: A run whose latents belong to layers.
        text: The text that is changed.
        other: The text whose latents come in.
        layers: In which layers, from 1.
        decoding: How tokens are chosen; the most probable ones by default.
        seed: Of the noise, where tokens are drawn.
        condition: What both texts answer to, if the run was trained on pairs.

    Raises:
        ValueError: If the run has no such layers, or a text does not fit its window.
    """
    return swaps(run, text, other, [layers], decoding=decoding, seed=seed, condition=condition)[0]


def swaps(
    run: Run,
    text: str,
    other: str,
    choices: Sequence[Sequence[int]] | None = None,
    *,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | None = None,
) -> list[Mixed]:
    """:func:`swap` for several choices of layers; by default none of them, each alone, and all."""
    every = _numbers(run)
    choices = [(), *([number] for number in every), every] if choices is None else choices
    some = [_pair(run, text, other, layers, condition) for layers in choices]
    found = some[0][2]
    mixed = torch.stack([torch.lerp(found.latents[0], found.latents[1], moves) for _, moves, _ in some])
    texts = _written(run, mixed, found, decoding, seed)
    return [Mixed(text, 1.0, chosen) for text, (chosen, _, _) in zip(texts, some, strict=True)]


def layer_numbers(text: str) -> list[int]:
    """Numbers of layers as one writes them: single ones and ranges.

    Raises:
        ValueError: If it is none of these.

    Examples:
        >>> layer_numbers("1-3, 6")
        [1, 2, 3, 6]
    """
    numbers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"layers {text!r} is no list of layers: write 2, or 1-3, or 1-3,6.")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return numbers


class _Found(NamedTuple):
    latents: Float[Tensor, "two K p"]
    context: Context


def _numbers(run: Run) -> list[int]:
    """The layers that have a latent of their own, from 1."""
    names = run.model.latents
    numbers = [re.fullmatch(r"z_(\d+)", name) for name in names]
    if not names or not all(numbers):
        held = f"one for the whole text, {names[0]}" if names == ("z",) else ", ".join(names) or "none"
        raise ValueError(
            f"the latents of this {type(run.model).__name__} belong to no layers (it has {held}): fit a della whose "
            "structure is chain or independent."
        )
    return [int(number[1]) for number in numbers if number]


def _pair(
    run: Run, first: str, second: str, layers: Sequence[int] | None, condition: str | None
) -> tuple[tuple[int, ...], Float[Tensor, "K 1"], _Found]:
    """The chosen layers, 1 for each latent that is among them, and the latents of both texts."""
    posterior: Any = encode(run, [first, second], None if condition is None else [condition] * 2)
    memory: Context = posterior.memory()
    every = [0] if layers is None and run.model.latents == ("z",) else _numbers(run)
    chosen = every if layers is None else list(layers)
    if unknown := [number for number in chosen if number not in every]:
        raise ValueError(f"layer {unknown[0]} has no latent: choose among {', '.join(map(str, every))}.")
    assert memory.latents is not None
    moves = torch.tensor([[float(number in chosen)] for number in every])
    return tuple(chosen), moves.to(memory.latents), _Found(memory.latents, memory)


def _written(run: Run, latents: Tensor, found: _Found, decoding: Decoding, seed: int) -> list[str]:
    context = found.context
    one = [None if part is None else part[:1] for part in (context.condition, context.condition_mask)]
    return decode(run, Context(latents, *one), decoding, seed=seed)
