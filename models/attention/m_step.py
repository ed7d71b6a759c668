r"""The M-steps of EM in a mixture: closed forms of expected statistics, without a matrix of all weights.

The E-step is :func:`~.bayes_rule.responsibilities`. The M-steps need of it, for every component n,

.. math::
    N_n = \sum_m w_{mn}, \qquad \sum_m w_{mn} u_m, \qquad \sum_m w_{mn} u_m u_m^T

which :func:`expected_statistics` adds up, a chunk of queries at a time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..utils.numbers import check_not_negative, declared_number
from ..utils.precision import at_least_float32
from ..utils.scalars import tensor_like
from .bayes_rule import log_joint
from .centering import common_center
from .kernel.natural_parameters import natural
from .kernel.packed import side_by_side
from .log_space import finite_max
from .mixture import Covariances, Mixture
from .observations import Observations

__all__ = [
    "ConjugatePriors",
    "Statistics",
    "checked_priors",
    "expected_statistics",
    "rate_of_variances",
    "update_log_weights",
    "update_means",
    "update_variances",
    "with_least_eigenvalue",
]

Covariance = Literal["isotropic", "diagonal", "full"]


@dataclass(frozen=True)
class ConjugatePriors:
    r"""Conjugate priors of a mixture's parameters, for which M-steps have a closed form.

    .. math::
        \mu_n \sim N\left(\mu_n^0, \frac{\sigma_n^2 + s}{\kappa}\right), \qquad
        \frac{1}{\sigma_n^2 + s} \sim \text{Gamma}(a, b), \qquad \pi \sim \text{Dirichlet}(c)

    and likewise for values. The first two together are the Normal-Gamma prior. By default the initial means and
    variances are worth one query, and the prior of the weights is flat.

    Arguments:
        pseudo_counts: :math:`\kappa`, the number of queries that the initial mean is worth: a number, or one for each
            component with shape :math:`(*, N)`. A fixed prior precision :math:`\theta` is
            :math:`\kappa_n = \theta (\sigma_n^2 + s)`. With 0 the means are those of maximum likelihood.
        value_pseudo_counts: The same for values: the number of known values that the initial one is worth.
        shape: :math:`a \ge 1`, the shape of the Gamma prior of each precision :math:`1 / (\sigma_n^2 + s)`.
        rate: :math:`b \ge 0`, its rate. For full covariances the density is
            :math:`|\Lambda|^{a - 1} \exp(-b \, \text{tr} \Lambda)`. With None the
            initial variance :math:`V^0` is worth one query where :math:`\kappa > 0`, so that with :math:`a = 1` a
            component without queries keeps it: :math:`b` is :math:`D V^0 / 2`, for diagonal variances
            :math:`V^0 / 2` in each dimension, and for full ones :math:`b I` is :math:`V^0 / 2`. With 0 a component
            that shrinks onto equal queries ends at the floor.
        concentration: :math:`c \ge 1`, of the Dirichlet prior of the weights.

    Raises:
        ValueError: If one of them is out of range.

    Examples:
        >>> ConjugatePriors(pseudo_counts=-1.0)
        Traceback (most recent call last):
        ValueError: pseudo_counts is -1.0: give a finite number of at least 0, or one for each component.
    """

    pseudo_counts: float | Float[Tensor, "*batch n"] = 1.0
    value_pseudo_counts: float | Float[Tensor, "*batch n"] = 1.0
    shape: float = 1.0
    rate: float | None = None
    concentration: float = 1.0

    def __post_init__(self) -> None:
        _check_counts("pseudo_counts", self.pseudo_counts)
        _check_counts("value_pseudo_counts", self.value_pseudo_counts)
        for name in ("shape", "concentration"):
            number = declared_number(name, getattr(self, name), float)
            if not 1 <= number < math.inf:
                raise ValueError(f"{name} is {number}: give a finite number of at least 1.")
        self._check_rate()

    def _check_rate(self) -> None:
        if self.rate is not None:
            check_not_negative(rate=self.rate)

    @property
    def batch(self) -> torch.Size:
        """The leading dimensions of the pseudo-counts."""
        counts = (torch.as_tensor(each) for each in (self.pseudo_counts, self.value_pseudo_counts))
        return torch.broadcast_shapes(*(each.shape[:-1] for each in counts))


def checked_priors(priors: object, mixture: Mixture) -> ConjugatePriors:
    """The priors of a mixture, those by default if they are None.

    Raises:
        ValueError: If they are none, or their pseudo-counts are neither numbers nor one for each component.
    """
    if priors is None:
        return ConjugatePriors()
    if not isinstance(priors, ConjugatePriors):
        raise ValueError(f"priors has type {type(priors).__name__}: give pf.em.ConjugatePriors(...), or None.")
    for name in ("pseudo_counts", "value_pseudo_counts"):
        shape = torch.as_tensor(getattr(priors, name)).shape
        if shape[-1:] not in ((), (1,), (mixture.components,)):
            raise ValueError(
                f"{name} has shape {tuple(shape)}: give a number, or one for each of the {mixture.components} "
                "components."
            )
    return priors


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


def rate_of_variances(
    priors: ConjugatePriors, means: Float[Tensor, "*batch n d"], initial: Float[Tensor, "..."] | None, full: bool
) -> Float[Tensor, "..."]:
    """The rate :math:`b` of the prior over precisions, of a shape that broadcasts to the variances."""
    identity = torch.eye(means.shape[-1], dtype=means.dtype, device=means.device) if full else means.new_ones(1)
    if priors.rate is not None:
        return priors.rate * identity
    if initial is None:
        return 0 * identity
    # one query, as the density of the means under their prior is one more factor of the variances, whatever kappa
    informed = (torch.as_tensor(priors.pseudo_counts, device=means.device) > 0)[..., None]
    dimensions = means.shape[-1] if not full and initial.shape[-1] == 1 else 1
    return 0.5 * dimensions * (informed[..., None] if full else informed) * initial


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


def _at_least_float32(observations: Observations) -> Observations:
    """Queries and values in float32 at least: float16 ends at 65504, and thousands of log densities add up to more."""
    values = observations.values
    values = None if values is None else at_least_float32(values)
    return replace(observations, queries=at_least_float32(observations.queries), values=values)


def _check_counts(name: str, value: object) -> None:
    """Raises a ValueError unless pseudo-counts are finite and not negative."""
    way_out = "give a finite number of at least 0, or one for each component."
    try:
        numbers = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {value!r}: {way_out}") from None
    if numbers.dtype == torch.bool:
        raise ValueError(f"{name} is {value!r}: {way_out}")
    allowed = (numbers >= 0) & numbers.isfinite()
    if not bool(allowed.all()):
        raise ValueError(f"{name} is {float(numbers[~allowed].flatten()[0])}: {way_out}")


def _entries(queries: Tensor, squares: Covariance | None) -> int:
    """The number of weights in a chunk: as many as a CPU's cache takes; more on a GPU; fewer for full covariances."""
    entries = 2**18 if queries.device.type == "cpu" else 2**24
    return entries // queries.shape[-1] if squares == "full" else entries


Joint = Callable[[Observations], tuple[Tensor, Tensor]]


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
