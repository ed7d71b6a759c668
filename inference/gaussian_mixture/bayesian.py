"""Mixtures of Gaussians as Pyro models whose parameters have conjugate priors."""

from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ...models.attention.em.conjugate_priors import ConjugatePriors
from ...models.attention.mixture import Mixture
from ...models.attention.variances import Covariances
from ...models.mixture_attention.correlation import split_covariances
from ...models.mixture_attention.model import MixtureAttention
from ...models.priors.components import GaussianVectors
from .fitting import CovarianceType, rate_of_one_row

__all__ = ["default_priors", "model_of", "sites_of"]


def default_priors(priors: ConjugatePriors | None) -> ConjugatePriors:
    """The priors of a fit or, after maximum likelihood, weak ones: means are worth a hundredth of a row."""
    return ConjugatePriors(pseudo_counts=0.01) if priors is None else priors


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

    Full covariances have in addition correlations :math:`L_k L_k^T`, with a uniform prior; a tied one is fixed.

    Arguments:
        mixture: The mixture.
        kind: The form of its covariances.
        moments: Mean and variance of the columns, at which the priors are centered.
        priors: The priors.

    Raises:
        ValueError: If a prior is improper.
    """
    if not priors.pseudo_counts > 0:
        raise ValueError(
            f"priors.pseudo_counts is {priors.pseudo_counts}: give a positive number, such as 0.01, for which the "
            "prior over means is proper."
        )
    mean, variance = (part.to(mixture.means) for part in moments)
    options: dict[str, Any] = {}
    if kind != "tied":
        options["precision"] = _prior_of_precisions(kind, variance, mixture.components, priors)
    if kind == "full" and mixture.width > 1:
        options["correlation"] = dist.LKJCholesky(mixture.width, mixture.means.new_ones(()))
    return MixtureAttention(
        mixture if kind != "full" else _without_correlations(mixture),
        keys=GaussianVectors(mean.expand_as(mixture.means).clone(), priors.pseudo_counts),
        weights=dist.Dirichlet(mixture.means.new_full((mixture.components,), priors.concentration)),
        **options,
    )


def _prior_of_precisions(
    kind: CovarianceType, variance: Tensor, components: int, priors: ConjugatePriors
) -> dist.Distribution:
    """The prior of precisions, of every component and coordinate or, if these are spherical, of every component."""
    rate = rate_of_one_row(variance, components, kind)
    rate = (rate if priors.rate is None else torch.full_like(rate, priors.rate)).expand(components, -1)
    if not bool((rate > 0).all()):
        raise ValueError(
            f"priors.rate is {priors.rate}: give a positive number or None, for which the prior is proper."
        )
    concentration = torch.full_like(rate, priors.shape)
    if kind == "spherical":
        return dist.Gamma(concentration[:, 0], rate[:, 0])
    return dist.Gamma(concentration, rate).to_event(1)


def _without_correlations(mixture: Mixture) -> Mixture:
    """The mixture with the variances of each coordinate alone."""
    assert isinstance(mixture.variances, Covariances)
    return replace(mixture, variances=mixture.variances.matrices.diagonal(dim1=-2, dim2=-1))


def sites_of(mixture: Mixture, kind: CovarianceType) -> dict[str, Tensor]:
    """The values of the sites of the model at a mixture."""
    sites = {"weights": mixture.log_weights.exp(), "keys": mixture.means}
    if kind == "tied":
        return sites
    split, factors = split_covariances(mixture)
    assert isinstance(split.variances, Tensor)
    precision = 1 / split.variances
    sites["precision"] = precision[:, 0] if kind == "spherical" else precision
    if factors is not None and mixture.width > 1:
        sites["correlation"] = factors
    return sites
