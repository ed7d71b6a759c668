"""Mixtures of Gaussians as Pyro models whose parameters have conjugate priors."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ...models.attention.m_step import ConjugatePriors
from ...models.attention.mixture import Covariances, Mixture
from ...models.mixture_attention import MixtureAttention
from ...models.priors.components import GaussianVectors
from .fitting import CovarianceType, typical_variances

__all__ = ["default_priors", "model_of", "sites_of"]


def default_priors(priors: ConjugatePriors | None) -> ConjugatePriors:
    """The priors of a fit or, after maximum likelihood, weak ones: means are worth a hundredth of a row."""
    return ConjugatePriors(means=0.01) if priors is None else priors


def model_of(
    mixture: Mixture,
    kind: CovarianceType,
    moments: tuple[Float[Tensor, " d"], Float[Tensor, " d"]],
    priors: ConjugatePriors,
) -> MixtureAttention:
    r"""The model of rows under a mixture with the priors of EM.

    .. math::
        \pi \sim \text{Dirichlet}(c), \qquad \alpha_k \sim \text{Gamma}(a, b), \qquad
        \mu_k \sim N(m, (\kappa \alpha_k)^{-1})

    Arguments:
        mixture: The mixture.
        kind: The form of its covariances.
        moments: Mean and variance of the columns, at which the priors are centered.
        priors: The priors.

    Raises:
        ValueError: If components have full covariances, or a prior is improper.
    """
    if isinstance(mixture.variances, Covariances):
        raise ValueError(
            f"covariance_type is {kind!r}; a model has one precision for each coordinate: fit "
            "covariance_type='diag' or 'spherical'"
        )
    if not priors.means > 0:
        raise ValueError(
            f"priors.means is {priors.means}; a proper prior over means needs a positive number: give 0.01"
        )
    mean, variance = (part.to(mixture.means) for part in moments)
    if priors.rate is None:
        rate = 0.5 * typical_variances(variance, mixture.components, kind)
        rate = rate * mixture.width if kind == "spherical" else rate
    else:
        rate = torch.full_like(typical_variances(variance, mixture.components, kind), priors.rate)
    if not bool((rate > 0).all()):
        raise ValueError(f"priors.rate is {priors.rate}; a proper prior over precisions needs a positive one, or None")
    precision = dist.Gamma(torch.full_like(rate, priors.shape), rate)
    return MixtureAttention(
        mixture,
        keys=GaussianVectors(mean.expand_as(mixture.means).clone(), priors.means),
        precision=dist.Gamma(precision.concentration[:, 0], rate[:, 0])
        if kind == "spherical"
        else precision.to_event(1),
        weights=dist.Dirichlet(mixture.means.new_full((mixture.components,), priors.weights)),
    )


def sites_of(mixture: Mixture) -> dict[str, Tensor]:
    """The values of the sites of the model at a mixture.

    Raises:
        ValueError: If components have full covariances.
    """
    if not isinstance(mixture.variances, Tensor):
        raise ValueError("full covariances are no sites: fit covariance_type='diag' or 'spherical'")
    precision = 1 / mixture.variances
    return {
        "weights": mixture.log_weights.exp(),
        "keys": mixture.means,
        "precision": precision[:, 0] if precision.shape[-1] == 1 else precision,
    }
