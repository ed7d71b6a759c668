"""Interpolation between the latents of two texts, and exchange of the latents of single layers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ...guides.posteriors import TextPosterior
from ...models.transformer.memory import Context, Memory, stacked
from ...models.utils.numbers import declared_numbers
from ..runs.fitted import FittedModel
from .decoding import Decoding
from .generate import GREEDY, decode, encode

__all__ = ["Interpolated", "interpolate", "swap", "swap_rows", "swaps"]


class Interpolated(NamedTuple):
    """A text decoded from the latents of two texts.

    Arguments:
        text: The generated text.
        t: Position between the first text, 0, and the second, 1.
        layers: The layers in which latents were interpolated, from 1; empty if latents do not belong to layers.
    """

    text: str
    t: float
    layers: tuple[int, ...]


def interpolate(
    run: FittedModel,
    first: str,
    second: str,
    steps: int = 5,
    *,
    layers: Sequence[int] | None = None,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | int | None = None,
) -> list[Interpolated]:
    r"""Interpolate between the posterior means of two texts, and decode each step.

    Latents of layers are interpolated linearly,

    .. math:: z_l(t) = (1 - t) \, z_l^{(1)} + t \, z_l^{(2)}, \qquad t = 0, \tfrac{1}{S - 1}, \dots, 1

    in ``layers``; the other layers keep the latents of the first text. Between two mixtures it is their mixture,
    :math:`(1 - t) F_1 + t F_2`. Each model defines it in :meth:`~.base.Model.interpolate`.

    Arguments:
        run: A run whose model has latents.
        first: The first text.
        second: The last text.
        steps: Number of texts :math:`S`, both ends included.
        layers: The layers to interpolate in, from 1; all if None. Only for models whose latents belong to layers.
        decoding: Decoding strategy; greedy by default.
        seed: Random seed of the sampled tokens.
        condition: The condition of both texts, if the run was trained on pairs.

    Raises:
        ValueError: If there are fewer than two steps, a layer has no latent, or a text is longer than the model's
            max_length.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}: give at least 2, the two ends.")
    start, end = _posteriors(run, first, second, condition)
    positions = torch.linspace(0, 1, steps).tolist()
    path = [run.model.interpolate(start.memory(), end.memory(), t) for t in positions]
    if layers is None:
        layers = start.layers
    else:
        layers = declared_numbers("layers", layers, int)
        replaced = _selection(run, start, layers)
        path = [_replace_latents(start.memory(), memory, replaced) for memory in path]
    texts = decode(run, stacked(path), decoding, seed=seed)
    return [Interpolated(text, t, tuple(layers)) for text, t in zip(texts, positions, strict=True)]


def swap(
    run: FittedModel,
    text: str,
    other: str,
    layers: Sequence[int],
    *,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | int | None = None,
) -> Interpolated:
    """Decode a text with the latents of some layers replaced by those of another text.

    Arguments:
        run: A run whose latents belong to layers.
        text: The text to change.
        other: The text that the new latents come from.
        layers: The layers whose latents are replaced, from 1.
        decoding: Decoding strategy; greedy by default.
        seed: Random seed of the sampled tokens.
        condition: The condition of both texts, if the run was trained on pairs.

    Raises:
        ValueError: If a layer has no latent, or a text is longer than the model's max_length.
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
    condition: str | int | None = None,
) -> list[Interpolated]:
    """:func:`swap` for several sets of layers: by default for none, for each layer alone, and for all together."""
    start, end = _posteriors(run, text, other, condition)
    every = start.layers
    if choices is None:
        choices = [(), *([layer] for layer in every), *([every] if len(every) > 1 else [])]
    choices = [declared_numbers("layers", layers, int) for layers in choices]
    selections = [_selection(run, start, layers) for layers in choices]
    memories = [_replace_latents(start.memory(), end.memory(), selection) for selection in selections]
    texts = decode(run, stacked(memories), decoding, seed=seed)
    return [Interpolated(text, 1.0, tuple(layers)) for text, layers in zip(texts, choices, strict=True)]


def swap_rows(run: FittedModel, text: str, other: str, **options: Any) -> list[tuple[str, str]]:
    """A name and a text for each row of a table: both texts, and what :func:`swaps` makes of them by default."""
    rows = [("text", text), ("other", other)]
    for swapped in swaps(run, text, other, **options):
        names = "all latents" if len(swapped.layers) > 1 else "".join(f"z_{layer}" for layer in swapped.layers)
        rows.append((f"{names} of other" if names else "reconstruction", swapped.text))
    return rows


def _posteriors(
    run: FittedModel, first: str, second: str, condition: str | int | None
) -> tuple[TextPosterior, TextPosterior]:
    conditions = None if condition is None else [condition]
    return encode(run, [first], conditions), encode(run, [second], conditions)


def _selection(run: FittedModel, posterior: TextPosterior, layers: Sequence[int]) -> list[bool]:
    """For each layer with a latent, whether it is one of ``layers``."""
    if not posterior.layers:
        names = run.model.latents
        latents = f"one for the whole text, {names[0]}" if names == ("z",) else ", ".join(names) or "none"
        raise ValueError(
            f"the latents of this {type(run.model).__name__} belong to no layers (it has {latents}): fit a della whose "
            "structure is chain or independent."
        )
    if unknown := [layer for layer in layers if layer not in posterior.layers]:
        raise ValueError(f"layer {unknown[0]} has no latent: choose among {', '.join(map(str, posterior.layers))}.")
    return [layer in layers for layer in posterior.layers]


def _replace_latents(memory: Memory, other: Memory, replaced: Sequence[bool]) -> Memory:
    """A memory with the latents of some layers replaced by those of another memory."""
    assert isinstance(memory, Context) and isinstance(other, Context)
    assert memory.latents is not None and other.latents is not None
    mask = torch.tensor(replaced, device=memory.latents.device)[:, None]
    return replace(memory, latents=torch.where(mask, other.latents, memory.latents))
