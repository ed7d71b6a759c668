"""Latent traversal: a text decoded with one entry of one latent at several values."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...models.utils.numbers import declared_numbers
from ..runs.fitted import FittedModel
from .decoding import Decoding
from .generate import GREEDY, decode, encode

__all__ = ["Traversal", "traverse"]

VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


class Traversal(NamedTuple):
    """The texts of a latent traversal.

    Arguments:
        latent: Index of the latent, from 1.
        dimension: Index of its entry, from 0.
        values: The values of the entry.
        texts: The text decoded at each value.
        mean: The posterior mean of the entry.
        reconstruction: The text decoded at the posterior mean.
    """

    latent: int
    dimension: int
    values: tuple[float, ...]
    texts: list[str]
    mean: float
    reconstruction: str

    def rows(self) -> list[tuple[float, str, bool]]:
        """Values, texts, and whether that is the reconstruction at the mean, in the order of the values."""
        moved = [(value, text, False) for value, text in zip(self.values, self.texts, strict=True)]
        return sorted([(self.mean, self.reconstruction, True), *moved])


def traverse(
    run: FittedModel,
    text: str,
    latent: int = 1,
    dimension: int | None = None,
    values: Sequence[float] = VALUES,
    *,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | int | None = None,
) -> Traversal:
    """Decode a text with one entry of one latent at several values, all others at their posterior means.

    Arguments:
        run: A run whose posterior has moments, such as one of a DELLA or a VAE.
        text: The text to encode.
        latent: Index of the latent, from 1: of a DELLA the layer, from below; of a VAE the token.
        dimension: Index of the entry, from 0; by default the one with the smallest posterior variance.
        values: Values of the entry; most of the mass of a standard normal prior is within 3 of 0.
        decoding: Decoding strategy; greedy by default.
        seed: Random seed of the sampled tokens.
        condition: The condition of the text, if the run was trained on pairs.

    Raises:
        ValueError: If the posterior has no moments, the latent or entry does not exist, there are no values or one is
            not finite, or the text is longer than the model's max_length.

    Examples:
        >>> model = pf.VAE.for_corpus(run.corpus, base_measure="gaussian", width=16, layers=1, heads=2)
        >>> moved = traverse(pf.fit(model, pf.VAEGuide(model), run.corpus, steps=1), "The food was good.", latent=5)
        >>> len(moved.texts), [at_mean for _, _, at_mean in moved.rows()].count(True)
        (7, 1)
    """
    values = declared_numbers("values", values, float)
    if not values:
        raise ValueError("values is empty: give at least one.")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"values is {values}: give finite numbers.")
    rows = len(values) + 1
    posterior = encode(run, [text] * rows, None if condition is None else [condition] * rows)
    if (moments := posterior.moments()) is None:
        name = type(run.model).__name__
        raise ValueError(f"{name} has no per-dimension latents to traverse: choose a DELLA or a VAE.")
    means, variances = moments
    count, size = means.shape[-2:]
    if not 1 <= latent <= count:
        raise ValueError(f"latent is {latent}: choose one from 1 to {count}.")
    if dimension is None:
        dimension = int(variances[0, latent - 1].argmin())
    if not 0 <= dimension < size:
        raise ValueError(f"dimension is {dimension}: choose one from 0 to {size - 1}.")
    mean = float(means[0, latent - 1, dimension])
    latents = means[:1].repeat(rows, 1, 1)
    latents[:, latent - 1, dimension] = torch.tensor([mean, *values], device=means.device)
    reconstruction, *texts = decode(run, posterior.memory_at(latents), decoding, seed=seed)
    return Traversal(latent, dimension, tuple(values), texts, mean, reconstruction)
