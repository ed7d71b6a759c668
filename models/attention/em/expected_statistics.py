r"""The expected sufficient statistics of EM in a mixture, without a matrix of all weights.

The E-step is :func:`~.attention.bayes_rule.responsibilities`. The M-steps need of it, for every component n,

.. math::
    N_n = \sum_m w_{mn}, \qquad \sum_m w_{mn} u_m, \qquad \sum_m w_{mn} u_m u_m^T

which :func:`expected_statistics` adds up, a chunk of queries at a time.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ...utils.precision import at_least_float32
from ..bayes_rule import log_joint
from ..centering import common_center
from ..kernel.natural_parameters import natural
from ..kernel.packed import side_by_side
from ..log_space import finite_max
from ..mixture import Mixture
from ..observations import Observations
from ..variances import Covariances

__all__ = ["Covariance", "Statistics", "expected_statistics"]

Covariance = Literal["isotropic", "diagonal", "full"]
Joint = Callable[[Observations], tuple[Tensor, Tensor]]


class Statistics(NamedTuple):
    r"""Expected sufficient statistics of every component, from the E-step.

    Arguments:
        counts: :math:`N_n = \sum_m w_{mn}`, with shape :math:`(*, N)`.
        queries: :math:`\sum_m w_{mn} u_m`, with shape :math:`(*, N, D)`.
        squares: :math:`\sum_m w_{mn} |u_m|^2` with shape :math:`(*, N, 1)`, or of each dimension's square with shape
            :math:`(*, N, D)`, or of :math:`u_m u_m^T` with shape :math:`(*, N, D, D)`; None unless requested.
        value_counts: :math:`\sum_m w_{mn}` over the queries whose value is known; None without values.
        values: :math:`\sum_m w_{mn} v_m` over the same, with shape :math:`(*, N, V)`; None without values.
        evidence: :math:`\sum_m \log p(u_m)`, with known values, with shape :math:`(*)`.
    """

    counts: Float[Tensor, "*batch n"]
    queries: Float[Tensor, "*batch n d"]
    squares: Float[Tensor, "..."] | None
    value_counts: Float[Tensor, "*batch n"] | None
    values: Float[Tensor, "*batch n v"] | None
    evidence: Float[Tensor, "*batch"]


def expected_statistics(
    observations: Observations, mixture: Mixture, squares: Covariance | None = None, about_means: bool = False
) -> Statistics:
    r"""The statistics of the E-step, in memory :math:`O(M + N)`.

    Arguments:
        observations: The :math:`M` queries, and the values that are known.
        mixture: The mixture, with :math:`N` components.
        squares: The second moments to add up, if any.
        about_means: Whether ``queries`` and ``squares`` are those of the differences to each component's mean, which
            then are taken one by one: nothing cancels, at the cost of :math:`M N D` differences.

    The statistics of queries in half precision are float32, as all that is computed of them.

    Raises:
        ValueError: If there are no queries, or there are values and the mixture has no ``value_variances`` for them.

    Examples:
        >>> mixture = pf.Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), noise_variance=1.0)
        >>> observations = Observations(torch.tensor([[0.0], [0.0], [4.0]]))
        >>> expected_statistics(observations, mixture).counts.round(decimals=2).tolist()
        [2.0, 1.0]
    """
    observations = _at_least_float32(observations.with_all_rows())
    queries, joint = observations.queries, _joint(mixture, observations.values is not None, about_means)
    means = torch.where(mixture.present[..., None], mixture.means, 0) if about_means else None
    batch = torch.broadcast_shapes(queries.shape[:-2], mixture.means.shape[:-2], mixture.log_weights.shape[:-1])
    size = max(1, _entries(queries, "full" if about_means else squares) // (batch.numel() * mixture.components))
    totals: list[Tensor] | None = None
    for start in range(0, len(observations), size):
        sums = _sums(joint, observations[start : start + size], squares, means)
        totals = sums if totals is None else [total + new for total, new in zip(totals, sums, strict=True)]
    if totals is None:
        raise ValueError("there are no queries: give at least one.")
    count, first, evidence, *rest = [total.to(queries.dtype) for total in totals]
    second = rest.pop(0) if squares is not None else None
    value_count, value_sum = rest or (None, None)
    return Statistics(count, first, second, value_count, value_sum, evidence)


def _at_least_float32(observations: Observations) -> Observations:
    """Queries and values in float32 at least: float16 ends at 65504, and thousands of log densities add up to more."""
    values = observations.values
    values = None if values is None else at_least_float32(values)
    return replace(observations, queries=at_least_float32(observations.queries), values=values)


def _entries(queries: Tensor, squares: Covariance | None) -> int:
    """The number of weights in a chunk: as many as a CPU's cache takes; more on a GPU; fewer for full covariances."""
    entries = 2**18 if queries.device.type == "cpu" else 2**24
    return entries // queries.shape[-1] if squares == "full" else entries


def _joint(mixture: Mixture, with_values: bool, explicit: bool) -> Joint:
    """A function from observations to their log joint as a matrix, and the term common to each row."""
    if explicit or isinstance(mixture.variances, Covariances):

        def one_by_one(part: Observations) -> tuple[Tensor, Tensor]:
            joint = log_joint(part.queries, mixture, part.attn_mask, part.values, part.value_mask)
            return joint, part.queries.new_zeros(())

        return one_by_one
    center = common_center(mixture.means, mixture.present)
    terms = natural(replace(mixture, means=mixture.means - center), mixture.query_variance)
    value_terms = natural(_values_alone(mixture), 0.0) if with_values else None

    def fused(part: Observations) -> tuple[Tensor, Tensor]:
        logits, own = terms.joint(part.queries - center)
        if value_terms is not None:
            assert part.values is not None
            values, known = part.values, part.value_mask
            if known is not None:
                values = torch.where(known[..., None], values, 0)
            value_logits, value_own = value_terms.joint(values)
            logits = logits + (value_logits if known is None else torch.where(known[..., None], value_logits, 0))
            own = own + (value_own if known is None else torch.where(known, value_own, 0))
        return logits if part.attn_mask is None else torch.where(part.attn_mask, logits, -torch.inf), own

    return fused


def _values_alone(mixture: Mixture) -> Mixture:
    """The components' values and value variances as a mixture of their own."""
    if mixture.values is None or mixture.value_variances is None:
        raise ValueError("values are known but the mixture has no value_variances: give it values and their variances.")
    zeros = torch.zeros_like(mixture.log_weights)
    return replace(
        mixture, log_weights=zeros, means=mixture.values, variances=mixture.value_variances,
        values=None, value_variances=None, noise_variance=0.0,
    )  # fmt: skip


def _sums(joint: Joint, part: Observations, squares: Covariance | None, means: Tensor | None) -> list[Tensor]:
    """Counts, first moments, evidence, and second moments and values if there are any; in double precision.

    Moments are about the means, if these are given.
    """
    logits, own = joint(part)
    top = finite_max(logits)
    # In place, as nothing costs more than these passes. The exponential is very slow where it underflows, and
    # so are products of subnormal numbers: a share that is this small beside its row's largest, 1, becomes zero.
    least = 0.7 * math.log(torch.finfo(logits.dtype).tiny)
    shares = F.threshold(logits.sub_(top).clamp_min_(least).exp_(), 2 * math.exp(least), 0.0)
    total = shares.sum(-1, keepdim=True)
    counted = total > 0 if part.mask is None else (total > 0) & part.mask[..., None]
    counted = counted if part.counts is None else counted & (part.counts > 0)[..., None]
    columns = _columns(part, squares if means is None else None)
    scale = total if part.counts is None else total / part.counts[..., None]
    features = torch.where(counted, side_by_side(columns) / scale, 0)
    sums = (shares.mT @ features).double().split([column.shape[-1] for column in columns], -1)
    log_p = (top + total.log())[..., 0] + own
    log_p = log_p if part.counts is None else part.counts * log_p
    evidence = torch.where(counted[..., 0], log_p, 0).double().sum(-1)
    result = [sums[0][..., 0], sums[1], evidence]
    if means is not None:
        shares = torch.where(counted, shares / scale, 0)
        result[1], about = _moments_about(means, part.queries, shares, squares)
        result += [] if about is None else [about]
    elif squares is not None:
        width = part.queries.shape[-1]
        result.append(sums[2].unflatten(-1, (width, width)) if squares == "full" else sums[2])
    if part.values is not None:
        result += [sums[-2][..., 0], sums[-1]]
    return result


def _moments_about(
    means: Tensor, queries: Tensor, shares: Tensor, squares: Covariance | None
) -> tuple[Tensor, Tensor | None]:
    """First and second moments of the differences to every mean."""
    difference = queries[..., :, None, :] - means[..., None, :, :]
    first = (shares[..., None] * difference).sum(-3).double()
    if squares is None:
        return first, None
    if squares == "full":
        return first, torch.einsum("...mn,...mnd,...mne->...nde", shares, difference, difference).double()
    second = (shares[..., None] * difference.square()).sum(-3).double()
    return first, second if squares == "diagonal" else second.sum(-1, keepdim=True)


def _columns(part: Observations, squares: Covariance | None) -> list[Tensor]:
    """The columns to average: ones, queries and, if there are any, squares, flags of known values and values."""
    queries, values, value_mask = part.queries, part.values, part.value_mask
    ones = torch.ones_like(queries[..., :1])
    columns = [ones, queries]
    if squares is not None:
        columns.append(_squared(queries, squares))
    if values is not None:
        known = ones if value_mask is None else value_mask[..., None].to(queries.dtype)
        columns += [known, known * torch.where(known > 0, values, 0)]
    return columns


def _squared(queries: Tensor, squares: Covariance) -> Tensor:
    if squares == "full":
        return (queries[..., :, None] * queries[..., None, :]).flatten(-2)
    return queries.square() if squares == "diagonal" else queries.square().sum(-1, keepdim=True)
