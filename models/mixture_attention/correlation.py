r"""Correlated queries of a mixture: full covariances as standard deviations and correlations.

    covariance_n = diag(scale_n) L_n L_n' diag(scale_n),    scale_n = alpha_n^(-1/2)

with the Cholesky factor L_n of the correlations, so that each part has a prior of its own.
"""

from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from ..attention.mixture import Mixture
from ..attention.query_variances import cholesky, query_covariances
from ..attention.variances import Covariances
from ..priors.checks import check_distribution, check_support
from .sites import gather

__all__ = ["check_correlation_prior", "correlated_query", "covariances", "split_covariances"]


def split_covariances(mixture: Mixture) -> tuple[Mixture, Float[Tensor, "*batch n d d"] | None]:
    r"""A mixture with the variances of each dimension, and the Cholesky factors of its queries' correlations.

    The factors are None for a mixture without full covariances, which comes back as it is.

    Raises:
        ValueError: If a query's covariance is not positive definite.

    Examples:
        >>> matrices = torch.tensor([[[4.0, 1.0], [1.0, 1.0]]])
        >>> diagonal, factors = split_covariances(Mixture(torch.zeros(1), torch.zeros(1, 2), Covariances(matrices)))
        >>> diagonal.variances, factors.shape
        (tensor([[4., 1.]]), torch.Size([1, 2, 2]))
    """
    if not isinstance(mixture.variances, Covariances):
        return mixture, None
    own, total = mixture.variances.matrices.diagonal(dim1=-2, dim2=-1), query_covariances(mixture)
    scale = total.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(total.dtype).tiny).sqrt()
    factors = cholesky(total / (scale[..., :, None] * scale[..., None, :]))
    return replace(mixture, variances=own), factors


def covariances(
    precision: Float[Tensor, "*#batch #n #d"], correlation: Float[Tensor, "*#batch #n d d"]
) -> Float[Tensor, "*batch n d d"]:
    """The covariances of queries, from the precision of each dimension alone and the factors of their correlations.

    Examples:
        >>> covariances(torch.tensor([[0.25, 1.0]]), torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]))[0].round(decimals=4)
        tensor([[4.0000, 1.2000],
                [1.2000, 1.0000]])
    """
    factor = precision.rsqrt()[..., None] * correlation
    return factor @ factor.mT


def correlated_query(
    rows: Float[Tensor, "*#batch n d"],
    precision: Float[Tensor, "*#batch #n #d"],
    correlation: Float[Tensor, "*#batch #n d d"],
    assignment: Int[Tensor, "*tokens m"],
) -> Any:
    """The distribution of a query around its component: a Gaussian with that component's covariance."""
    factors = (precision.rsqrt()[..., None] * correlation).expand(*rows.shape, rows.shape[-1])
    factors = Vindex(factors.unsqueeze(-4))[..., assignment, :, :]
    return dist.MultivariateNormal(gather(rows, assignment), scale_tril=factors)


def check_correlation_prior(distribution: Any, rows: torch.Size, width: int) -> Tensor:
    """A draw of a prior over correlations.

    Raises:
        ValueError: If its draws are no Cholesky factors of correlations, or of another shape.
    """
    check_distribution("correlation", distribution, rows, [(width, width)])
    draw: Tensor = distribution.expand(rows).sample()
    valid = bool(constraints.corr_cholesky.check(draw).all())
    check_support("correlation", distribution, "Cholesky factors of correlations, as dist.LKJCholesky does", valid)
    return draw
