"""Latent traversal: a text as one entry of one of its latents moves from low to high."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..runs.fitted import FittedModel
from .decoding import Decoding
from .generate import GREEDY, decode, encode

__all__ = ["Traversal", "traverse"]

VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


class Traversal(NamedTuple):
    """The texts that were written along the way.

    Arguments:
        latent: Which latent was changed, from 1.
        dimension: Which of its entries, from 0.
        values: What it was set to.
        texts: What the decoder wrote at each.
        own: The entry's posterior mean.
        own_text: What the decoder writes there: the text's reconstruction.
    """

    latent: int
    dimension: int
    values: tuple[float, ...]
    texts: list[str]
    own: float
    own_text: str


def traverse(
    run: FittedModel,
    text: str,
    latent: int = 1,
    dimension: int | None = None,
    values: Sequence[float] = VALUES,
    *,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | None = None,
) -> Traversal:
    """Write a text with one entry of one latent at several values, all else at the posterior's mean.

    Under a prior of unit variance, values beyond 3 are where no text was.

    Arguments:
        run: A run whose posterior has moments, such as one of a DELLA or a VAE.
        text: The text to start from.
        latent: Which latent, from 1 at the bottom of a DELLA; in a VAE, that of which token.
        dimension: Which entry, from 0; by default the one that the text says most about, whose posterior variance is
            least.
        values: What the entry is set to.
        decoding: How tokens are chosen; the most probable ones by default.
        seed: Of the noise, where tokens are drawn.
        condition: What the text answers to, if the run was trained on pairs.

    Raises:
        ValueError: If the latents form no table, there is no such latent or entry, no value is given, or the text is
            longer than the model's max_length.
    """
    if not values:
        raise ValueError("there are no values to walk along: give at least one.")
    rows = len(values) + 1
    posterior = encode(run, [text] * rows, None if condition is None else [condition] * rows)
    if (moments := posterior.moments()) is None:
        name = type(run.model).__name__
        raise ValueError(f"a {name} has no latents with single entries to traverse: take a DELLA or a VAE.")
    mean, variance = moments
    count, size = mean.shape[-2:]
    if not 1 <= latent <= count:
        raise ValueError(f"latent is {latent}: choose one from 1 to {count}.")
    if dimension is None:
        dimension = int(variance[0, latent - 1].argmin())
    if not 0 <= dimension < size:
        raise ValueError(f"dimension is {dimension}: choose one from 0 to {size - 1}.")
    own = float(mean[0, latent - 1, dimension])
    latents = mean[:1].repeat(rows, 1, 1)
    latents[:, latent - 1, dimension] = torch.tensor([own, *values], device=mean.device)
    own_text, *texts = decode(run, posterior.memory_at(latents), decoding, seed=seed)
    return Traversal(latent, dimension, tuple(map(float, values)), texts, own, own_text)
