"""The M-steps of EM in a mixture: closed forms of its expected statistics."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...utils.scalars import tensor_like
from .conjugate_priors import ConjugatePriors, rate_of_variances
from .expected_statistics import Statistics

__all__ = ["update_log_weights", "update_means", "update_variances", "with_least_eigenvalue"]


def update_means(
    total: Float[Tensor, "*batch n d"],
    count: Float[Tensor, "*batch n"],
    initial: Float[Tensor, "*#batch n d"],
    current: Float[Tensor, "*#batch n d"],
    pseudo_counts: float | Float[Tensor, "*#batch n"],
) -> Float[Tensor, "*batch n d"]:
    r"""Posterior means of Gaussian means: keys given queries, or values given known values.

    .. math:: \mu_n \leftarrow \frac{\kappa \mu_n^0 + \sum_m w_{mn} u_m}{\kappa + N_n}

    A component with neither queries nor a prior keeps its mean.

    Arguments:
        total: :math:`\sum_m w_{mn} u_m`.
        count: :math:`N_n`.
        initial: :math:`\mu_n^0`.
        current: The current means.
        pseudo_counts: :math:`\kappa`.
    """
    prior_counts = tensor_like(pseudo_counts, total)[..., None]
    strength = prior_counts + count[..., None]
    empty = strength < 10 * torch.finfo(total.dtype).eps
    return torch.where(empty, current, (prior_counts * initial + total) / torch.where(empty, 1, strength))


def update_variances(
    statistics: Statistics,
    means: Float[Tensor, "*batch n d"],
    initial: Float[Tensor, "*#batch n d"],
    priors: ConjugatePriors,
    floor: float | Float[Tensor, "*#batch"] = 0.0,
    current: Float[Tensor, "..."] | None = None,
    initial_variances: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    r"""Posterior modes of variances given the means, in the form of ``statistics.squares``.

    .. math::
        \sigma_n^2 \leftarrow \frac{\sum_m w_{mn} |u_m - \mu_n|^2 + \kappa |\mu_n - \mu_n^0|^2 + 2 b}
        {D (N_n + [\kappa > 0]) + 2 (a - 1)}

    for isotropic variances; for diagonal ones the same in each dimension, with :math:`D = 1`; for full covariances with
    outer products, and :math:`2 b I`. These are variances of queries, noise included. Under the floor's constraint the
    mode is the larger of both, for full covariances in each eigenvalue.

    Arguments:
        statistics: Statistics with squares.
        means: The new means.
        initial: The prior's means.
        priors: The prior.
        floor: The smallest variance that the model allows, for components that shrink onto equal queries.
        current: The current variances, which a component with neither queries nor a prior keeps.
        initial_variances: :math:`V^0`, where the prior has no rate of its own.

    Raises:
        ValueError: If the statistics have no squares.
    """
    second = statistics.squares
    if second is None:
        raise ValueError("variances need second moments: call expected_statistics with squares.")
    full, smallest = second.ndim > means.ndim, torch.finfo(means.dtype).tiny
    prior_counts = tensor_like(priors.pseudo_counts, means)[..., None]
    count, moved = statistics.counts[..., None], means - initial
    degrees = count + (prior_counts > 0)
    if full:
        cross = statistics.queries[..., :, None] * means[..., None, :]
        scatter = second - cross - cross.mT + count[..., None] * means[..., :, None] * means[..., None, :]
        scatter = scatter + prior_counts[..., None] * moved[..., :, None] * moved[..., None, :]
        degrees = degrees[..., None]
    else:
        each = count * means.square() - 2 * means * statistics.queries
        pulled = prior_counts * moved.square()
        if second.shape[-1] == 1:
            each, pulled = each.sum(-1, keepdim=True), pulled.sum(-1, keepdim=True)
            degrees = degrees * means.shape[-1]
        scatter = (second + each).clamp_min(0) + pulled
    degrees = degrees + 2 * (priors.shape - 1)
    scatter = scatter + 2 * rate_of_variances(priors, means, initial_variances, full)
    empty = degrees < 10 * torch.finfo(means.dtype).eps
    variances = scatter / torch.where(empty, 1, degrees.clamp_min(smallest))
    if current is not None:
        variances = torch.where(empty, current, variances)
    least = tensor_like(floor, means)[..., None, None]
    return with_least_eigenvalue(variances, least) if full else torch.maximum(variances, least)


def with_least_eigenvalue(
    matrices: Float[Tensor, "*batch d d"], least: Float[Tensor, "..."]
) -> Float[Tensor, "*batch d d"]:
    """Symmetric matrices whose eigenvalues are at least ``least``."""
    matrices = 0.5 * (matrices + matrices.mT)
    values, vectors = torch.linalg.eigh(matrices)
    low = (values < least).any(-1)[..., None, None]
    raised = (vectors * torch.maximum(values, least)[..., None, :]) @ vectors.mT
    return torch.where(low, 0.5 * (raised + raised.mT), matrices)


def update_log_weights(
    count: Float[Tensor, "*batch n"],
    concentration: float = 1.0,
    current: Float[Tensor, "*#batch n"] | None = None,
    present: Bool[Tensor, "*#batch n"] | None = None,
) -> Float[Tensor, "*batch n"]:
    r"""Posterior mode of the weights of the components that are present; the others get none.

    .. math:: \log \pi_n \leftarrow \log \frac{N_n + c - 1}{\sum_k (N_k + c - 1)}

    Arguments:
        count: :math:`N_n`.
        concentration: :math:`c`.
        current: The current log weights, which stay where there are neither queries nor a prior.
        present: True for the components that are present; None is all.

    Examples:
        >>> update_log_weights(torch.tensor([3.0, 1.0])).exp().tolist()
        [0.75, 0.25]
    """
    raised = count + (concentration - 1)
    raised = raised if present is None else torch.where(present, raised, 0)
    total = raised.sum(-1, keepdim=True)
    new = raised.log() - total.log()
    return new if current is None else torch.where(total > 0, new, current)
