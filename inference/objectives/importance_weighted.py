"""An objective of several draws at a time, whose bound is tighter than the ELBO."""

import math
from typing import Any

import torch

from ...models.base import TEXTS
from .elbo import ELBO, Terms, averaged, trace_pair

__all__ = ["ImportanceWeighted"]


class ImportanceWeighted(ELBO):
    r"""The importance-weighted bound as what is trained: a bound of log p(x) at every number of draws.

    .. math::

        \mathcal{L}_i = -\mathbb{E} \Big[ \log \frac1K \sum_{k=1}^K \frac{p(x_i, z_k)}{q(z_k \mid x_i)} \Big],
        \qquad z_k \sim q

    It is the ELBO, estimated without closed forms, at :math:`K = 1`, and falls with :math:`K` towards
    :math:`-\log p(x_i)`: a posterior that is a good proposal somewhere suffices, so that it pays less to give a latent
    up. A step costs :math:`K` passes. ``terms`` holds the ELBO's terms averaged over the draws, and one
    penalty, ``importance``, that makes of their log-likelihood this loss.

    Arguments:
        num_particles: Number of draws :math:`K`.
        data_size: As in :class:`ELBO`, for observed sites that all texts share.

    Raises:
        ValueError: At the call, if the guide draws a latent that all texts share: one draw of it serves all of them, so
            that weights of single texts would bound nothing.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), Eq. 8, https://arxiv.org/abs/1509.00519

    Examples:
        >>> from pyroformer.guides.della import DELLAGuide
        >>> from pyroformer.models.batch import Batch
        >>> from pyroformer.models.della import DELLA
        >>> from pyroformer.models.transformer.stacks import TransformerConfig
        >>> model = DELLA(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2), latent_size=4)
        >>> loss = ImportanceWeighted(num_particles=4)(model, DELLAGuide(model))
        >>> loss(Batch.pad([[5, 6, 2], [7, 2]])).shape
        torch.Size([])
    """

    name = "iw"

    def __init__(self, num_particles: int = 8, data_size: int | None = None) -> None:
        super().__init__(num_particles, data_size=data_size)

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Terms:
        """The ELBO's terms, averaged over draws, and as their penalty all that the loss has beside the likelihood."""
        draws, log_weights = [], []
        for _ in range(self.num_particles):
            traces = trace_pair(model, guide, *args, **kwargs)
            _check_local(traces[1].nodes)
            draws.append(self._terms(*traces))
            log_weights.append(self.densities(*traces).log_weight)
        terms = averaged(draws)
        bound = torch.stack(log_weights).logsumexp(0) - math.log(self.num_particles)
        return terms._replace(penalty={"importance": terms.log_likelihood - bound})


def _check_local(sites: dict[str, Any]) -> None:
    """Latents have to be texts' own."""
    for name, site in sites.items():
        if site["type"] == "sample" and all(frame.name != TEXTS for frame in site["cond_indep_stack"]):
            raise ValueError(
                f"the objective iw weighs the draws of each text, and all texts share the latent {name!r}: choose the "
                "objective elbo."
            )
