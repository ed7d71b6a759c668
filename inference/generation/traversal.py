"""What a text becomes while one entry of one of its latents is walked from low to high."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...guides.della import LatentPosterior
from ...guides.vae import GaussianPosterior
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
        run: A run of a DELLA or a VAE.
        text: The text to start from.
        latent: Which latent, from 1 at the bottom of a DELLA; in a VAE, that of which token.
        dimension: Which entry, from 0; by default the one that the text says most about, whose posterior variance is
            least.
        values: What the entry is set to.
        decoding: How tokens are chosen; the most probable ones by default.
        seed: Of the noise, where tokens are drawn.
        condition: What the text answers to, if the run was trained on pairs.

    Raises:
        ValueError: If the run is of another model, there is no such latent or entry, no value is given, or the text
            does not fit its max_length.
    """
    if not values:
        raise ValueError("there are no values to walk along: give at least one.")
    found: Any = encode(run, [text], None if condition is None else [condition])
    if not isinstance(found, LatentPosterior | GaussianPosterior):
        raise ValueError(f"the latents of a {type(run.model).__name__} are no table to walk in: take a DELLA or a VAE.")
    count, size = found.mean.shape[-2:]
    if not 1 <= latent <= count:
        raise ValueError(f"latent is {latent}: choose one from 1 to {count}.")
    if dimension is None:
        dimension = int(found.variance[0, latent - 1].argmin())
    if not 0 <= dimension < size:
        raise ValueError(f"dimension is {dimension}: choose one from 0 to {size - 1}.")
    own = float(found.mean[0, latent - 1, dimension])
    rows = len(values) + 1
    several: dict[str, Any] = {
        name: x.expand(rows, *x.shape[1:]) for name, x in found._asdict().items() if isinstance(x, Tensor)
    }
    several["mean"] = several["mean"].clone()
    several["mean"][:, latent - 1, dimension] = torch.tensor([own, *values], device=found.mean.device)
    own_text, *texts = decode(run, found._replace(**several).memory(), decoding, seed=seed)
    return Traversal(latent, dimension, tuple(map(float, values)), texts, own, own_text)
