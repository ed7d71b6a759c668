r"""Importance-weighted lower bounds of log p(x), in memory that does not grow with the number of draws."""

import math
from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from .elbo import ELBO
from .traces import is_local, sample_sites

__all__ = ["importance_sweep", "importance_weighted", "with_global_sites_fixed"]


@torch.no_grad()
def importance_weighted(
    model: Any, guide: Any, batch: Any, num_particles: int = 64, data_size: int | None = None
) -> Float[Tensor, " B"]:
    r"""The importance-weighted bound of each text's log evidence, in nats.

    .. math::

        \log p(x) \ge \mathbb{E} \Big[ \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)} \Big],
        \qquad z_k \sim q

    It is the ELBO at :math:`K = 1`, and grows with :math:`K` towards :math:`\log p(x)`. The draws are taken one after
    the other and added up in float64. Sites outside the plate ``texts`` are shared by all texts, so they are drawn once
    for all :math:`K`: with several draws, the sum over texts would not be a bound.

    Arguments:
        model: The generative model.
        guide: Its guide, or None for a model without latents.
        batch: The arguments of both.
        num_particles: Number of draws :math:`K`.
        data_size: Number of texts that share the global sites, as in :class:`ELBO`.

    Raises:
        ValueError: If ``num_particles`` is not positive.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

    Examples:
        >>> from pyroformer.models.batch import Batch
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = LanguageModel(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> importance_weighted(model, None, Batch.pad([[5, 6, 2], [7, 2]]), num_particles=1).shape
        torch.Size([2])
    """
    return importance_sweep(model, guide, batch, [num_particles], data_size)[num_particles]


@torch.no_grad()
def importance_sweep(
    model: Any, guide: Any, batch: Any, num_particles: Collection[int], data_size: int | None = None
) -> dict[int, Float[Tensor, " B"]]:
    r"""The importance-weighted bound of each text for several numbers of draws, at the cost of the largest.

    Every entry uses the first draws of one sequence, so that entries differ by the number of draws and not by noise. If
    the bound still rises with the number, it may be far from log p(x).

    Arguments are those of :func:`importance_weighted`, with several numbers of draws.

    Raises:
        ValueError: If ``num_particles`` is empty, or a number is not positive.
    """
    if not num_particles or min(num_particles) < 1:
        least = min(num_particles, default="empty")
        raise ValueError(f"num_particles is {least}: at least one draw is needed.")
    elbo = ELBO(data_size=data_size)
    guide = with_global_sites_fixed(guide, batch)
    bounds, total = {}, None
    for draw in range(1, max(num_particles) + 1):
        weight = elbo.log_weights(model, guide, batch).double()
        total = weight if total is None else torch.logaddexp(total, weight)
        if draw in num_particles:
            bounds[draw] = total - math.log(draw)
    return bounds


def with_global_sites_fixed(guide: Any, batch: Any) -> Any:
    """The guide with its global sites fixed to one draw."""
    if guide is None:
        return None
    shared = Trace()
    for name, site in sample_sites(poutine.trace(guide).get_trace(batch)).items():
        if not is_local(site):
            shared.add_node(name, **{key: value for key, value in site.items() if key != "name"})
    return poutine.replay(guide, trace=shared) if len(shared.nodes) else guide
