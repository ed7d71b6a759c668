"""The priors of EM as priors of a model's parts."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..attention.em.conjugate_priors import ConjugatePriors, checked_priors, rate_of_variances
from ..attention.mixture import Mixture
from ..utils.choices import chosen
from .components import GaussianVectors

__all__ = ["conjugate_priors"]


def conjugate_priors(mixture: Mixture, priors: ConjugatePriors | None, moves: str | Sequence[str]) -> dict[str, Any]:
    """The priors of the parts in ``moves``, by the names that these have in a model; those of EM by default.

    Raises:
        ValueError: If a prior is improper or does not fit the mixture, or there is no part of such a name.

    Examples:
        >>> mixture = pf.Mixture(torch.zeros(5).log_softmax(-1), torch.randn(5, 2), noise_variance=1.0)
        >>> list(conjugate_priors(mixture, pf.em.ConjugatePriors(), ("means", "weights")))
        ['keys', 'weights']
    """
    arguments: dict[str, Any] = {}
    priors, moves = checked_priors(priors, mixture), chosen("moves", moves, ("means", "values", "variances", "weights"))
    for name in moves:
        if name == "means":
            arguments["keys"] = GaussianVectors(mixture.means, priors.pseudo_counts)
        elif name == "values":
            if mixture.values is None:
                raise ValueError("values cannot have a prior in a mixture without any: give it values.")
            arguments["values"] = GaussianVectors(mixture.values, priors.value_pseudo_counts)
        elif name == "variances":
            arguments["precision"] = _precision_prior(mixture, priors, "means" in moves)
        else:
            arguments["weights"] = dist.Dirichlet(_concentration(mixture, priors))
    return arguments


def _concentration(mixture: Mixture, priors: ConjugatePriors) -> Tensor:
    """Concentration of the prior over weights; 1 for absent components, whose zero weights add nothing to densities."""
    concentration = torch.where(mixture.present, mixture.means.new_tensor(priors.concentration), 1)
    return concentration if concentration.ndim == 1 else concentration[..., None, :]


def _precision_prior(mixture: Mixture, priors: ConjugatePriors, moving: bool) -> Distribution:
    """The Gamma prior of EM over isotropic precisions; conditioned on the means unless they are ``moving``."""
    total = _isotropic_variances(mixture) if priors.rate is None else None
    rate = rate_of_variances(priors, mixture.means, total, full=False)[..., 0]
    if not bool((rate > 0).all()):
        raise ValueError(f"rate is {float(rate.min())}: give a positive one, for a proper prior over precisions.")
    shape = torch.full_like(rate, priors.shape)
    if not moving:
        shape = shape + 0.5 * mixture.width * (torch.as_tensor(priors.pseudo_counts, device=rate.device) > 0)
    prior: Distribution = dist.Gamma(shape, rate)
    return prior


def _isotropic_variances(mixture: Mixture) -> Tensor:
    own = mixture.dense_variances()
    total = (mixture.means.new_zeros(1, 1) if own is None else own) + mixture.query_variance
    if total.shape[-1] > 1:
        raise ValueError("a rate for isotropic precisions does not follow from diagonal variances: give priors a rate.")
    return total.expand(*mixture.means.shape[:-1], 1)
