r"""The M-steps of EM in a mixture: closed forms of expected statistics, which cost no matrix of weights.

The E-step is :func:`~.mixture.responsibilities`. What the M-steps need of it is, for every component n,

.. math::
    N_n = \sum_m w_{mn}, \qquad \sum_m w_{mn} u_m, \qquad \sum_m w_{mn} u_m u_m^T

which :func:`expected_statistics` adds up over a few queries at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .mixture import Covariances, Mixture, log_joint
from .natural_parameters import natural

__all__ = [
    "ConjugatePriors",
    "Statistics",
    "expected_statistics",
    "update_log_weights",
    "update_means",
    "update_variances",
]

Covariance = Literal["isotropic", "diagonal", "full"]


@dataclass(frozen=True)
class ConjugatePriors:
    r"""What was believed of a mixture before any query, in the form for which M-steps are closed.

    .. math::
        \mu_n \sim N\left(\mu_n^0, \frac{\sigma_n^2 + s}{\kappa}\right), \qquad
        \frac{1}{\sigma_n^2 + s} \sim \text{Gamma}(a, b), \qquad \pi \sim \text{Dirichlet}(c)

    and likewise for values. Together the first two are the Normal-Gamma prior. The defaults of the last two are flat.

    Arguments:
        means: :math:`\kappa`: how many queries the initial mean is worth; a number, or one for each component with
            shape :math:`(*, N)`. A fixed prior precision :math:`\theta` is :math:`\kappa_n = \theta (\sigma_n^2 + s)`.
            With 0 the means are those of maximum likelihood.
        values: The same for values.
        shape: :math:`a \ge 1`.
        rate: :math:`b \ge 0`. For full covariances the density is
            :math:`|\Lambda|^{a - 1} \exp(-b \, \text{tr} \Lambda)`.
        weights: :math:`c \ge 1`.

    Raises:
        ValueError: If one of them is out of range.

    Examples:
        >>> ConjugatePriors(means=-1.0)
        Traceback (most recent call last):
        ValueError: means is -1.0; it must be at least 0
    """

    means: float | Float[Tensor, "*batch n"] = 1.0
    values: float | Float[Tensor, "*batch n"] = 1.0
    shape: float = 1.0
    rate: float = 0.0
    weights: float = 1.0

    def __post_init__(self) -> None:
        least = {"means": 0, "values": 0, "shape": 1, "rate": 0, "weights": 1}
        for field in fields(self):
            value = getattr(self, field.name)
            if not torch.as_tensor(value >= least[field.name]).all():
                shown = value if isinstance(value, float | int) else float(value.min())
                raise ValueError(f"{field.name} is {shown}; it must be at least {least[field.name]}")


class Statistics(NamedTuple):
    r"""What the E-step says of every component.

    Arguments:
        counts: :math:`N_n = \sum_m w_{mn}`, with shape :math:`(*, N)`.
        queries: :math:`\sum_m w_{mn} u_m`, with shape :math:`(*, N, D)`.
        squares: :math:`\sum_m w_{mn} |u_m|^2` with shape :math:`(*, N, 1)`, or of each dimension's square with shape
            :math:`(*, N, D)`, or of :math:`u_m u_m^T` with shape :math:`(*, N, D, D)`; None where it was not asked for.
        value_counts: :math:`\sum_m w_{mn}` over the queries whose value is known; None without values.
        values: :math:`\sum_m w_{mn} v_m` over the same, with shape :math:`(*, N, V)`; None without values.
        evidence: :math:`\sum_m \log p(u_m)`, values that are known included, with shape :math:`(*)`.
    """

    counts: Float[Tensor, "*batch n"]
    queries: Float[Tensor, "*batch n d"]
    squares: Float[Tensor, "..."] | None
    value_counts: Float[Tensor, "*batch n"] | None
    values: Float[Tensor, "*batch n v"] | None
    evidence: Float[Tensor, "*batch"]


def expected_statistics(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    values: Float[Tensor, "*#batch m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch m"] | None = None,
    mask: Bool[Tensor, "*#batch m"] | None = None,
    squares: Covariance | None = None,
) -> Statistics:
    r"""The statistics of the E-step, in memory :math:`O(M + N)`.

    Arguments:
        queries: The queries, with shape :math:`(*, M, D)`.
        mixture: The mixture, with :math:`N` components.
        attn_mask: True where query m may have come from component n.
        values: Values that are known, with shape :math:`(*, M, V)`.
        value_mask: True where a value is known; None is everywhere.
        mask: True for the queries that count, with shape :math:`(*, M)`.
        squares: Which second moment to add up, if any.

    Examples:
        >>> mixture = pf.Mixture(torch.zeros(2), torch.tensor([[0.0], [4.0]]), noise_variance=1.0)
        >>> expected_statistics(torch.tensor([[0.0], [0.0], [4.0]]), mixture).counts.round(decimals=2).tolist()
        [2.0, 1.0]
    """
    joint = _joint(mixture, values is not None)
    batch = torch.broadcast_shapes(queries.shape[:-2], mixture.means.shape[:-2], mixture.log_weights.shape[:-1])
    size = max(1, _entries(queries, squares) // (batch.numel() * mixture.components))
    totals: list[Tensor] | None = None
    for start in range(0, queries.shape[-2], size):
        rows = slice(start, start + size)
        part = [None if x is None else x[..., rows, :] for x in (queries, attn_mask, values)]
        flags = [None if x is None else x[..., rows] for x in (value_mask, mask)]
        sums = _sums(joint, part, flags, squares)
        totals = sums if totals is None else [total + new for total, new in zip(totals, sums, strict=True)]
    if totals is None:
        raise ValueError("there are no queries; statistics need at least one")
    count, first, evidence, *rest = [total.to(queries.dtype) for total in totals]
    second = rest.pop(0) if squares is not None else None
    value_count, value_sum = rest or (None, None)
    return Statistics(count, first, second, value_count, value_sum, evidence)


def update_means(
    total: Float[Tensor, "*batch n d"],
    count: Float[Tensor, "*batch n"],
    initial: Float[Tensor, "*#batch n d"],
    current: Float[Tensor, "*#batch n d"],
    pseudo_counts: float | Float[Tensor, "*#batch n"],
) -> Float[Tensor, "*batch n d"]:
    r"""Posterior means of a Gaussian's mean: keys adapt to queries and values to value_mask ones in the same way.

    .. math:: \mu_n \leftarrow \frac{\kappa \mu_n^0 + \sum_m w_{mn} u_m}{\kappa + N_n}

    A component without any query and without a prior stays where it is.

    Arguments:
        total: :math:`\sum_m w_{mn} u_m`.
        count: :math:`N_n`.
        initial: :math:`\mu_n^0`.
        current: Where the component is now.
        pseudo_counts: :math:`\kappa`.
    """
    prior_counts = torch.as_tensor(pseudo_counts, dtype=total.dtype, device=total.device)[..., None]
    strength = prior_counts + count[..., None]
    empty = strength < 10 * torch.finfo(total.dtype).eps
    return torch.where(empty, current, (prior_counts * initial + total) / torch.where(empty, 1, strength))


def update_variances(
    statistics: Statistics,
    vectors: Float[Tensor, "*batch n d"],
    initial: Float[Tensor, "*#batch n d"],
    priors: ConjugatePriors,
    floor: float | Float[Tensor, ""] = 0.0,
) -> Float[Tensor, "..."]:
    r"""Posterior modes of variances given the means, in the form of ``statistics.squares``.

    .. math::
        \sigma_n^2 \leftarrow \frac{\sum_m w_{mn} |u_m - \mu_n|^2 + \kappa |\mu_n - \mu_n^0|^2 + 2 b}
        {D (N_n + [\kappa > 0]) + 2 (a - 1)}

    for isotropic variances; for diagonal ones the same in each dimension, with :math:`D = 1`; for full covariances with
    outer products, and :math:`2 b I`. It is the variance of queries, noise included.

    Arguments:
        statistics: Statistics with squares.
        vectors: The new means.
        initial: The prior's means.
        priors: The prior.
        floor: The least variance: what is left of a component that shrinks onto one query.

    Raises:
        ValueError: If the statistics have no squares.
    """
    second = statistics.squares
    if second is None:
        raise ValueError("variances need second moments; ask expected_statistics for squares")
    prior_counts = torch.as_tensor(priors.means, dtype=vectors.dtype, device=vectors.device)[..., None]
    count, moved = statistics.counts[..., None], vectors - initial
    degrees = count + (prior_counts > 0)
    if second.ndim > vectors.ndim:
        cross = statistics.queries[..., :, None] * vectors[..., None, :]
        scatter = second - cross - cross.mT + count[..., None] * vectors[..., :, None] * vectors[..., None, :]
        scatter = scatter + prior_counts[..., None] * moved[..., :, None] * moved[..., None, :]
        unit = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
        degrees = (degrees + 2 * (priors.shape - 1)).clamp_min(torch.finfo(vectors.dtype).tiny)[..., None]
        return (scatter + 2 * priors.rate * unit) / degrees + floor * unit
    each = count * vectors.square() - 2 * vectors * statistics.queries
    pulled = prior_counts * moved.square()
    if second.shape[-1] == 1:
        each, pulled = each.sum(-1, keepdim=True), pulled.sum(-1, keepdim=True)
        degrees = degrees * vectors.shape[-1]
    scatter = (second + each).clamp_min(0) + pulled + 2 * priors.rate
    degrees = degrees + 2 * (priors.shape - 1)
    return (scatter / degrees.clamp_min(torch.finfo(vectors.dtype).tiny)).clamp_min(floor)


def update_log_weights(count: Float[Tensor, "*batch n"], concentration: float = 1.0) -> Float[Tensor, "*batch n"]:
    r"""Posterior mode of the weights.

    .. math:: \log \pi_n \leftarrow \log \frac{N_n + c - 1}{\sum_k (N_k + c - 1)}

    Examples:
        >>> update_log_weights(torch.tensor([3.0, 1.0])).exp().tolist()
        [0.75, 0.25]
    """
    raised = count + (concentration - 1)
    return raised.log() - raised.sum(-1, keepdim=True).log()


def _entries(queries: Tensor, squares: Covariance | None) -> int:
    """How many weights to hold at once: what a CPU's cache takes; more on a GPU; fewer for full covariances."""
    entries = 2**18 if queries.device.type == "cpu" else 2**24
    return entries // queries.shape[-1] if squares == "full" else entries


Joint = Callable[[list[Tensor | None], Tensor | None], tuple[Tensor, Tensor]]


def _joint(mixture: Mixture, with_values: bool) -> Joint:
    """The log joint of a few queries as a matrix, and what each adds to all entries of its row."""
    if isinstance(mixture.variances, Covariances):

        def explicit(part: list[Tensor | None], value_mask: Tensor | None) -> tuple[Tensor, Tensor]:
            queries, attn_mask, values = part
            assert queries is not None
            return log_joint(queries, mixture, attn_mask, values, value_mask), queries.new_zeros(())

        return explicit
    terms = natural(mixture, mixture.query_variance)
    value_terms = natural(_values_alone(mixture), 0.0) if with_values else None

    def fused(part: list[Tensor | None], value_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        queries, attn_mask, values = part
        assert queries is not None
        logits, own = terms.joint(queries)
        if value_terms is not None:
            assert values is not None
            if value_mask is not None:
                values = torch.where(value_mask[..., None], values, 0)
            more, also = value_terms.joint(values)
            logits = logits + (more if value_mask is None else torch.where(value_mask[..., None], more, 0))
            own = own + (also if value_mask is None else torch.where(value_mask, also, 0))
        return logits if attn_mask is None else torch.where(attn_mask, logits, -torch.inf), own

    return fused


def _values_alone(mixture: Mixture) -> Mixture:
    """A component's value and its variance as a mixture of their own."""
    if mixture.values is None or mixture.value_variances is None:
        raise ValueError("values are known but the mixture has no value_variances: give it values and their variances")
    zeros = torch.zeros_like(mixture.log_weights)
    return replace(
        mixture, log_weights=zeros, means=mixture.values, variances=mixture.value_variances,
        values=None, value_variances=None, noise_variance=0.0,
    )  # fmt: skip


def _sums(
    joint: Joint, part: list[Tensor | None], flags: list[Tensor | None], squares: Covariance | None
) -> list[Tensor]:
    """Count, first moments, evidence and whatever else was asked for, of a few queries; in double precision."""
    queries, _, values = part
    value_mask, mask = flags
    assert queries is not None
    logits, own = joint(part, value_mask)
    top = logits.detach().amax(-1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    # In place, as nothing costs more than these passes. The exponential is very slow where it underflows, and
    # so are products of subnormal numbers: what is that small beside its row's largest share, 1, becomes zero.
    least = 0.7 * math.log(torch.finfo(logits.dtype).tiny)
    shares = F.threshold(logits.sub_(top).clamp_min_(least).exp_(), 2 * math.exp(least), 0.0)
    total = shares.sum(-1, keepdim=True)
    seen = total > 0 if mask is None else (total > 0) & mask[..., None]
    columns = [torch.ones_like(queries[..., :1]), queries]
    if squares is not None:
        columns.append(_squared(queries, squares))
    if values is not None:
        known = torch.ones_like(queries[..., :1]) if value_mask is None else value_mask[..., None].to(queries.dtype)
        columns += [known, known * torch.where(known > 0, values, 0)]
    features = torch.where(seen, torch.cat(columns, -1) / total, 0)
    sums = (shares.mT @ features).double().split([column.shape[-1] for column in columns], -1)
    log_p = (top + total.log())[..., 0] + own
    evidence = torch.where(seen[..., 0], log_p, 0).double().sum(-1)
    result = [sums[0][..., 0], sums[1], evidence]
    if squares is not None:
        width = queries.shape[-1]
        result.append(sums[2].unflatten(-1, (width, width)) if squares == "full" else sums[2])
    if values is not None:
        result += [sums[-2][..., 0], sums[-1]]
    return result


def _squared(queries: Tensor, squares: Covariance) -> Tensor:
    if squares == "full":
        return (queries[..., :, None] * queries[..., None, :]).flatten(-2)
    return queries.square() if squares == "diagonal" else queries.square().sum(-1, keepdim=True)
