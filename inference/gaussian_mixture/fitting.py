r"""EM for mixtures of Gaussians of every form of covariance, over rows that are read in every step.

E-step and M-steps are those of :mod:`~pyroformer.models.attention.em.expected_statistics` and
:mod:`~pyroformer.models.attention.em.m_step`; a covariance that all components share is the mean of theirs, weighted by
their counts.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.attention.em.conjugate_priors import ConjugatePriors, rate_of_variances
from ...models.attention.em.expected_statistics import Covariance, Statistics
from ...models.attention.em.m_step import update_variances
from ...models.attention.mixture import Mixture
from ...models.attention.variances import Covariances
from ..em_steps import log_prior, log_prior_of_variances, m_step
from ..moving_variances import moving_variances
from .missing import added, observed_statistics
from .table import Rows, Summary

__all__ = [
    "CovarianceType",
    "EMResult",
    "Problem",
    "expected",
    "first_mixture",
    "fit_mixture",
    "needs_differences",
    "rate_of_one_row",
    "typical_variances",
    "updated",
]

CovarianceType = Literal["full", "tied", "diag", "spherical"]
FORMS: dict[CovarianceType, Covariance] = {
    "full": "full", "tied": "full", "diag": "diagonal", "spherical": "isotropic"
}  # fmt: skip
SMALL = 1e-6  # of a column's variance: variances below it need differences, not squares


@dataclass(frozen=True)
class Problem:
    r"""A mixture to be fitted, in coordinates in which the mean of all rows is zero.

    Arguments:
        rows: The rows.
        summary: Their moments.
        kind: The form of the covariances.
        components: The number of components.
        priors: The priors, or None for maximum likelihood.
        regularization: What is added to variances after each M-step.
    """

    rows: Rows
    summary: Summary
    kind: CovarianceType
    components: int
    priors: ConjugatePriors | None
    regularization: float

    @property
    def squares(self) -> Covariance:
        """The form of the second moments."""
        return FORMS[self.kind]

    def anchor(self) -> Mixture:
        """The center of the priors: the mean of all rows, and a typical variance of a component."""
        zeros = self.summary.mean.new_zeros(self.components, len(self.summary.mean))
        spread = typical_variances(self.summary.variance, self.components, self.kind)
        return _mixture(zeros[:, 0] - math.log(self.components), zeros, spread)

    def em_priors(self) -> ConjugatePriors:
        """The priors, with the rate of one row where they have none; flat ones for maximum likelihood."""
        if self.priors is None:
            return ConjugatePriors(pseudo_counts=0.0, rate=0.0)
        if self.priors.rate is not None:
            return self.priors
        rate = rate_of_one_row(self.summary.variance, self.components, self.kind)
        return _RatesOfColumns(**vars(self.priors) | {"rate": rate})


def typical_variances(variance: Float[Tensor, " d"], components: int, kind: CovarianceType) -> Float[Tensor, "..."]:
    r"""A typical variance of a component, :math:`V^0 = \text{Var}[x] / K^{2/D}`, in the form of the covariances."""
    variance = variance / components ** (2 / len(variance))
    variance = torch.where(variance > 0, variance, 1)
    if kind == "spherical":
        return variance.mean().expand(components, 1)
    return variance.expand(components, -1) if kind == "diag" else variance.diag().expand(components, -1, -1)


def rate_of_one_row(variance: Float[Tensor, " d"], components: int, kind: CovarianceType) -> Float[Tensor, "..."]:
    r"""The rate of a prior over precisions that is worth one row with variance :math:`V^0`.

    It is :math:`V^0 / 2` in each dimension and, for spherical covariances, the sum of these.
    """
    typical = typical_variances(variance, components, "spherical" if kind == "spherical" else "diag")[0]
    return 0.5 * typical * (len(variance) / len(typical))


@dataclass(frozen=True)
class _RatesOfColumns(ConjugatePriors):
    """Priors with a rate for each column, or one for spherical covariances."""

    rate: Any = None

    def _check_rate(self) -> None:
        """Nothing: it follows from the rows."""


class EMResult(NamedTuple):
    """The result of EM.

    Arguments:
        mixture: The mixture, centered as the rows are.
        bounds: The objective for each row at the start of each step.
        converged: Whether the last step changed it by less than the tolerance.
    """

    mixture: Mixture
    bounds: list[float]
    converged: bool


def first_mixture(problem: Problem, statistics: Statistics) -> Mixture:
    """The mixture that rows assigned to components give; components without any are broad and light."""
    anchor = problem.anchor()
    state = _mixture(
        anchor.log_weights, anchor.means, typical_variances(problem.summary.variance, problem.components, problem.kind)
    )
    least = 1e-6 * float(statistics.counts.sum())
    state = updated(problem, statistics, state, torch.zeros_like(anchor.means[:1]))
    return replace(state, log_weights=statistics.counts.clamp_min(least).log().log_softmax(-1))


@torch.no_grad()
def fit_mixture(problem: Problem, start: Mixture, steps: int, tolerance: float) -> EMResult:
    """EM from a start until a step changes the objective of each row by less than ``tolerance``.

    Arguments:
        problem: Rows, priors and form.
        start: The first mixture.
        steps: The largest number of steps.
        tolerance: The tolerance.

    Raises:
        ValueError: If a covariance becomes singular.
    """
    state, bounds = start, list[float]()
    for _ in range(steps):
        near = problem.summary.missing or needs_differences(problem, state)
        statistics = expected(problem, state, near)
        bounds.append(float(statistics.evidence + _log_prior(problem, state)) / problem.summary.total)
        state = updated(problem, statistics, state, state.means if near else torch.zeros_like(state.means[:1]))
        if len(bounds) > 1 and abs(bounds[-1] - bounds[-2]) < tolerance:
            return EMResult(state, bounds, True)
    return EMResult(state, bounds, False)


def expected(problem: Problem, state: Mixture, near: bool) -> Statistics:
    """The statistics of all rows; moments are about the means if ``near``, else about zero."""
    parts = list[Statistics]()
    for rows, counts in problem.rows.batches():
        new = observed_statistics(rows - problem.summary.mean, counts, state, problem.squares, near)
        parts = [added([*parts, new])]
    return parts[0]


def updated(problem: Problem, statistics: Statistics, state: Mixture, origin: Tensor) -> Mixture:
    """The M-step of all parameters."""
    priors, anchor, zero = problem.em_priors(), problem.anchor(), state.means.new_zeros(())
    empty = statistics.counts < 1e-12
    if problem.kind == "tied":
        new = m_step(statistics, state, anchor, priors, ("means", "weights"), zero, origin)
        variances = _shared(statistics, new.means - origin, anchor.means - origin, priors)
    else:
        new = m_step(statistics, state, anchor, priors, ("means", "variances", "weights"), zero, origin)
        variances = moving_variances(new)
    if problem.regularization:
        full = problem.squares == "full"
        unit = torch.eye(variances.shape[-1], dtype=variances.dtype, device=variances.device) if full else 1
        kept = empty if problem.kind != "tied" and problem.priors is None else torch.zeros_like(empty)
        kept = kept[:, None, None] if full else kept[:, None]
        variances = torch.where(kept, variances, variances + problem.regularization * unit)
    singular = torch.linalg.cholesky_ex(variances)[1] != 0 if problem.squares == "full" else variances <= 0
    if bool(singular.any()):
        raise ValueError(
            f"a covariance is singular with reg_covar={problem.regularization:g} and "
            f"n_components={problem.components}: raise reg_covar, give priors, or fit fewer components."
        )
    return _mixture(new.log_weights, new.means, variances)


def _shared(statistics: Statistics, means: Tensor, initial: Tensor, priors: ConjugatePriors) -> Tensor:
    """The covariance that all components share: the mean of each one's own, and one prior for all."""
    flat = replace(priors, shape=1.0, rate=0.0)
    own = update_variances(statistics, means, initial, flat)
    degrees = statistics.counts + torch.as_tensor(flat.pseudo_counts > 0).to(statistics.counts)
    rate = rate_of_variances(priors, means, None, True)
    total = (degrees[:, None, None] * own).sum(0) + 2 * rate
    return (total / (degrees.sum() + 2 * (priors.shape - 1))).expand_as(own)


def _log_prior(problem: Problem, state: Mixture) -> Tensor:
    """The log density of the priors, up to a constant; 0 without."""
    if problem.priors is None:
        return state.means.new_zeros(())
    anchor, priors = problem.anchor(), problem.em_priors()
    if problem.kind != "tied":
        return log_prior(state, anchor, priors, ("means", "variances", "weights"), None)
    each = log_prior(state, anchor, priors, ("means", "weights"), None)
    return each + log_prior_of_variances(state, anchor, priors)[0]


def needs_differences(problem: Problem, state: Mixture) -> bool:
    """Whether a variance, relative to its column's, would be lost to rounding in a difference of squares."""
    if isinstance(state.variances, Covariances):
        return True  # they are computed anyway
    scale = problem.summary.variance
    scale = scale.mean() if problem.kind == "spherical" else scale
    return bool((moving_variances(state) < SMALL * scale).any())


def _mixture(log_weights: Tensor, means: Tensor, variances: Tensor) -> Mixture:
    form = Covariances(variances) if variances.ndim == 3 else variances
    return Mixture(log_weights, means, form, noise_variance=0.0)
