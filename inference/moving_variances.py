"""Variances of queries, noise included: the form in which EM moves them."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.attention.em.expected_statistics import Covariance
from ..models.attention.em.m_step import with_least_eigenvalue
from ..models.attention.mixture import Mixture
from ..models.attention.query_variances import query_covariances, query_variances
from ..models.attention.variances import Covariances

__all__ = ["moving_variances", "scale_of", "with_noise_in_variances"]


def moving_variances(mixture: Mixture) -> Float[Tensor, "..."]:
    """The tensor of the variances of :func:`with_noise_in_variances`."""
    if isinstance(mixture.variances, Covariances):
        return mixture.variances.matrices
    assert isinstance(mixture.variances, Tensor)
    return mixture.variances


def with_noise_in_variances(mixture: Mixture, covariance: Covariance, floor: Float[Tensor, "*batch"]) -> Mixture:
    """The mixture with its noise added to its variances, in the form ``covariance`` and at least ``floor``.

    Absent components are cleared, as even NaN may stand there.
    """
    present = mixture.present[..., None]
    shape = torch.broadcast_shapes(mixture.means.shape, present.shape)
    means, least = torch.where(present, mixture.means, 0), floor[..., None, None]
    if isinstance(mixture.variances, Covariances):
        matrices = with_least_eigenvalue(query_covariances(mixture), least)
        return replace(mixture, means=means, variances=Covariances(matrices), noise_variance=0.0)
    total = torch.maximum(torch.where(present, query_variances(mixture), 1), least)
    if covariance == "full":
        full = Covariances(torch.diag_embed(total.expand(shape)))
        return replace(mixture, means=means, variances=full, noise_variance=0.0)
    columns = 1 if covariance == "isotropic" else shape[-1]
    return replace(mixture, means=means, variances=total.expand(*shape[:-1], columns), noise_variance=0.0)


def scale_of(squares: Float[Tensor, "*batch"], mixture: Mixture) -> Float[Tensor, "*batch"]:
    """A mean square of queries plus the mean variance of the mixture: positive even where all queries are equal."""
    if isinstance(mixture.variances, Covariances):
        own = query_covariances(mixture).diagonal(dim1=-2, dim2=-1).mean(-1)
    else:
        own = query_variances(mixture).mean(-1)
    own = torch.where(mixture.present, own, 0)
    return squares + own.sum(-1) / mixture.present.sum(-1).clamp_min(1)
