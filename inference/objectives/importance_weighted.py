"""The importance-weighted objective: a bound of several draws, tighter than the ELBO."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from pyro.poutine import Trace
from torch import Tensor

from ...models.base import Model
from ..options import TrainingOptions
from .description import check_no_kl_options, check_particles, weighting_options
from .elbo import ELBO, Terms, averaged
from .trace_pair import trace_pair
from .traces import is_local, sample_sites

__all__ = ["ImportanceWeighted"]

W = TypeVar("W", bound="ImportanceWeighted")


class ImportanceWeighted(ELBO):
    r"""The importance-weighted bound as a training objective: a bound of log p(x) at every number of draws.

    .. math::

        \mathcal{L}_i = -\mathbb{E} \Big[ \log \frac1K \sum_{k=1}^K \frac{p(x_i, z_k)}{q(z_k \mid x_i)} \Big],
        \qquad z_k \sim q

    It is the ELBO, estimated without closed forms, at :math:`K = 1`, and falls with :math:`K` towards
    :math:`-\log p(x_i)`: a posterior that is a good proposal somewhere suffices, so there is less to gain from
    ignoring a latent. A step costs :math:`K` passes. ``terms`` has the ELBO's terms averaged over the draws, and one
    penalty, ``importance``: the difference between this loss and their negative log-likelihood.

    Another objective of several draws at once derives from this class and overrides :meth:`bound`.

    Arguments:
        num_particles: Number of draws :math:`K`.
        data_size: As in :class:`ELBO`, for observed sites that all texts share.

    Raises:
        ValueError: At the call, if the guide draws a latent that all texts share: they share its draw, so weights of
            single texts would not give a bound.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), Eq. 8, https://arxiv.org/abs/1509.00519

    Examples:
        >>> from pyroformer.guides.della import DELLAGuide
        >>> from pyroformer.models.batch import Batch
        >>> from pyroformer.models.della import DELLA
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = DELLA(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2), latent_size=4)
        >>> loss = ImportanceWeighted(num_particles=4)(model, DELLAGuide(model))
        >>> loss(Batch.pad([[5, 6, 2], [7, 2]])).shape
        torch.Size([])
    """

    name = "iw"
    is_bound = True
    default_particles = 8

    def __init__(self, num_particles: int = default_particles, data_size: int | None = None) -> None:
        super().__init__(num_particles, data_size=data_size)

    @classmethod
    def check(cls, options: TrainingOptions, model: Model) -> None:
        """Checks that there are several draws to weight, and no option for a KL.

        Raises:
            ValueError: If ``num_particles`` is 1, an option controls a KL, or the model has a discrete latent.
        """
        check_particles(options, model)
        if "presence" in model.latents:
            raise ValueError(
                f"the objective {cls.name} needs latents with a pathwise gradient, and presence is discrete: choose "
                "the objective elbo or nvib."
            )
        if options.num_particles == 1:
            raise ValueError(f"num_particles is 1: the objective {cls.name} weighs several draws, give 2 or more.")
        for option, value in weighting_options(options).items():
            raise ValueError(
                f"{option} is {value}, which weighs a KL, and the objective {cls.name} has none: choose the objective "
                "elbo."
            )
        check_no_kl_options(options, cls.name)

    @classmethod
    def full_kl_weights(cls, options: TrainingOptions, model: Model) -> dict[str, float]:
        """None: the bound has no KL terms."""
        return {}

    @classmethod
    def from_description(cls: type[W], described: Mapping[str, Any], num_particles: int, data_size: int) -> W:
        """The objective that ``describe`` described, whose number of draws is part of it."""
        return cls(described["num_particles"], data_size)

    @classmethod
    def remarks(cls, described: Mapping[str, Any]) -> list[str]:
        """The number of draws."""
        return [f"{described['num_particles']} draws"]

    def terms(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Terms:
        """The ELBO's terms averaged over draws; their penalty is the rest of the loss beside the likelihood."""
        draws, log_weights = [], []
        for _ in range(self.num_particles):
            traces = trace_pair(model, guide, *args, **kwargs)
            _check_local(traces[1], self.name)
            draws.append(self.trace_terms(*traces))
            log_weights.append(self.densities(*traces).log_weight)
        terms = averaged(draws)
        return terms._replace(penalty={"importance": terms.log_likelihood - self.bound(torch.stack(log_weights))})

    def bound(self, log_weights: Float[Tensor, "K B"]) -> Float[Tensor, " B"]:
        """What is maximized for each text, from the log importance weights of its draws."""
        return log_weights.logsumexp(0) - math.log(len(log_weights))


def _check_local(guide_trace: Trace, name: str) -> None:
    """Raises a ValueError if texts share a latent."""
    for site, node in sample_sites(guide_trace).items():
        if not is_local(node):
            raise ValueError(
                f"the objective {name} weighs the draws of each text, and all texts share the latent {site!r}: choose "
                "the objective elbo."
            )
