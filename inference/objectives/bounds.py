r"""Lower bounds of log p(x) from many draws of a guide, in memory that does not grow with their number."""

import math
from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ...models.base import TEXTS
from .elbo import ELBO

__all__ = ["importance_sweep", "importance_weighted"]


@torch.no_grad()
def importance_weighted(
    model: Any, guide: Any, batch: Any, num_particles: int = 64, data_size: int | None = None
) -> Float[Tensor, " B"]:
    r"""The importance-weighted bound of each text's log evidence, in nats.

    .. math::

        \log p(x) \ge \mathbb{E} \Big[ \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)} \Big],
        \qquad z_k \sim q

    It is the ELBO at :math:`K = 1`, and grows with :math:`K` towards :math:`\log p(x)`. The draws are taken one after
    the other and added up in float64. Sites outside the plate ``texts`` belong to all texts, so that one draw of them
    serves all :math:`K`: with more, the sum over texts would bound nothing.

    Arguments:
        model: The generative model.
        guide: Its posterior, or None where nothing is latent.
        batch: What both are called with.
        num_particles: Number of draws :math:`K`.
        data_size: Number of texts that share the global sites, as in :class:`ELBO`.

    Raises:
        ValueError: If ``num_particles`` is not positive.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

    Examples:
        >>> from pyroformer.models.batch import Batch
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer.stacks import TransformerConfig
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

    Each takes the first draws of the same row, so that they differ by their number and not by their noise. How much the
    bound still rises tells how far it may be from log p(x).

    Arguments: as in :func:`importance_weighted`, with several numbers of draws.

    Raises:
        ValueError: If there is none, or one is not positive.
    """
    if not num_particles or min(num_particles) < 1:
        shown = min(num_particles, default="empty")
        raise ValueError(f"particles is {shown}: at least one draw is needed.")
    elbo = ELBO(data_size=data_size)
    guide = _with_shared_sites(guide, batch)
    found, total = {}, None
    for drawn in range(1, max(num_particles) + 1):
        weight = elbo.log_weights(model, guide, batch).double()
        total = weight if total is None else torch.logaddexp(total, weight)
        if drawn in num_particles:
            found[drawn] = total - math.log(drawn)
    return found


def _with_shared_sites(guide: Any, batch: Any) -> Any:
    """The guide with its global sites held at one draw."""
    if guide is None:
        return None
    shared = Trace()
    for name, site in prune_subsample_sites(poutine.trace(guide).get_trace(batch)).nodes.items():
        if site["type"] == "sample" and all(frame.name != TEXTS for frame in site["cond_indep_stack"]):
            shared.add_node(name, **{key: value for key, value in site.items() if key != "name"})
    return poutine.replay(guide, trace=shared) if len(shared.nodes) else guide
