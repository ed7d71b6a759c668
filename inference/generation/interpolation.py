"""What one text's latents do to another's: on the way from one to the other, and layer by layer."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from ...models.transformer.memory import Context, Memory, stacked
from ..runs.fitted import FittedModel
from .decoding import Decoding
from .generate import GREEDY, decode, encode

__all__ = ["Interpolated", "interpolate", "swap", "swaps"]


class Interpolated(NamedTuple):
    """A text written from latents of two texts."""

    text: str
    share: float  # of the second one's latents
    layers: tuple[int, ...]  # in these layers, from 1; none where latents belong to no layers


def interpolate(
    run: FittedModel,
    first: str,
    second: str,
    steps: int = 5,
    *,
    layers: Sequence[int] | None = None,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | None = None,
) -> list[Interpolated]:
    r"""What the decoder writes on the way from one text's posterior mean to another's.

    For latents of layers, the way is a straight line,

    .. math:: z_l(\tau) = (1 - \tau) \, z_l^{(1)} + \tau \, z_l^{(2)}, \qquad \tau = 0, \tfrac{1}{S - 1}, \dots, 1

    in the chosen layers; in the others the latents stay those of the first text. For mixtures it is the mixture of
    both, :math:`(1 - \tau) F_1 + \tau F_2`. Any model says what it is by :meth:`Model.between`.

    Arguments:
        run: A run whose model has latents.
        first: The text to begin with.
        second: The text to end with.
        steps: How many texts :math:`S` to write, both ends included.
        layers: Layers whose latents move, from 1; all if None. Only where latents belong to layers.
        decoding: How tokens are chosen; the most probable ones by default.
        seed: Of the noise, where tokens are drawn.
        condition: What both texts answer to, if the run was trained on pairs.

    Raises:
        ValueError: If there are fewer than two steps, the run has no such layers, or a text does not fit its max_length.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}: give at least 2, the two ends.")
    one, other = _memories(run, first, second, condition)
    shares = [float(share) for share in torch.linspace(0, 1, steps)]
    chosen = tuple(_of_layers(run)) if layers is None else _chosen(run, layers)
    way = [run.model.interpolate(one, other, share) for share in shares]
    if layers is not None:
        way = [_moved(run, one, memory, chosen) for memory in way]
    texts = decode(run, stacked(way), decoding, seed=seed)
    return [Interpolated(text, share, chosen) for text, share in zip(texts, shares, strict=True)]


def swap(
    run: FittedModel,
    text: str,
    other: str,
    layers: Sequence[int],
    *,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | None = None,
) -> Interpolated:
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
        ValueError: If the run has no such layers, or a text does not fit its max_length.
    """
    return swaps(run, text, other, [layers], decoding=decoding, seed=seed, condition=condition)[0]


def swaps(
    run: FittedModel,
    text: str,
    other: str,
    choices: Sequence[Sequence[int]] | None = None,
    *,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | None = None,
) -> list[Interpolated]:
    """:func:`swap` for several choices of layers; by default none of them, each alone, and all."""
    every = _numbers(run)
    if choices is None:
        choices = [(), *([number] for number in every), *([every] if len(every) > 1 else [])]
    some = [_chosen(run, layers) for layers in choices]
    one, two = _memories(run, text, other, condition)
    texts = decode(run, stacked([_moved(run, one, two, chosen) for chosen in some]), decoding, seed=seed)
    return [Interpolated(text, 1.0, chosen) for text, chosen in zip(texts, some, strict=True)]


def _of_layers(run: FittedModel) -> list[int]:
    """The layers that have a latent of their own, from 1; none where latents belong to no layers."""
    numbers = [re.fullmatch(r"z_(\d+)", name) for name in run.model.latents]
    return [int(number[1]) for number in numbers if number] if all(numbers) else []


def _numbers(run: FittedModel) -> list[int]:
    """The layers that have a latent of their own, of which there must be some."""
    if not (found := _of_layers(run)):
        names = run.model.latents
        held = f"one for the whole text, {names[0]}" if names == ("z",) else ", ".join(names) or "none"
        raise ValueError(
            f"the latents of this {type(run.model).__name__} belong to no layers (it has {held}): fit a della whose "
            "structure is chain or independent."
        )
    return found


def _chosen(run: FittedModel, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers whose latents move, all of which must have one."""
    every = _numbers(run)
    if unknown := [number for number in layers if number not in every]:
        raise ValueError(f"layer {unknown[0]} has no latent: choose among {', '.join(map(str, every))}.")
    return tuple(layers)


def _memories(run: FittedModel, first: str, second: str, condition: str | None) -> tuple[Memory, Memory]:
    """The means of the posteriors of two texts."""
    told = None if condition is None else [condition]
    one, other = (encode(run, [text], told).memory() for text in (first, second))
    return one, other


def _moved(run: FittedModel, start: Memory, end: Memory, chosen: Sequence[int]) -> Memory:
    """The memory at the start with the latents of the chosen layers of that at the end."""
    assert isinstance(start, Context) and isinstance(end, Context)
    assert start.latents is not None and end.latents is not None
    moves = torch.tensor([[number in chosen] for number in _numbers(run)], device=start.latents.device)
    return replace(start, latents=torch.where(moves, end.latents, start.latents))
