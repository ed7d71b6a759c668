r"""Online EM: one step for each batch of rows, which is then forgotten.

.. math::
    s \leftarrow (1 - \gamma_t) \, s + \gamma_t \, \bar s(x_t), \qquad \gamma_t = t^{-\rho}, \qquad
    \theta \leftarrow \text{M-step}(M s)

with the mean sufficient statistics :math:`\bar s` of a batch under the current parameters, and M rows so far.

References:
    On-line expectation-maximization algorithm for latent data models (Cappé and Moulines, 2009).
    https://arxiv.org/abs/0712.4273
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.attention.em.expected_statistics import Statistics
from ...models.attention.mixture import Mixture
from ...models.attention.variances import Covariances
from .fitting import Problem, expected, needs_differences, updated
from .table import Summary

__all__ = ["OnlineState", "online_step", "state_of"]


@dataclass(frozen=True)
class OnlineState:
    """The state between batches, in coordinates relative to ``origin``.

    Arguments:
        mixture: The mixture.
        averages: Mean statistics of a row.
        origin: The origin, the mean of the rows of the first fit.
        steps: The number of batches so far.
        summary: Moments of all rows so far.
    """

    mixture: Mixture
    averages: Statistics
    origin: Float[Tensor, " d"]
    steps: int
    summary: Summary


def state_of(mixture: Mixture, summary: Summary, full: bool) -> OnlineState:
    """The state after a fit, whose statistics are those that its parameters imply.

    Arguments:
        mixture: The fitted mixture, in coordinates in which the mean of all rows is zero.
        summary: The moments of these rows.
        full: Whether the second moments are matrices.
    """
    counts, means = mixture.log_weights.exp(), mixture.means
    variances = mixture.variances.matrices if isinstance(mixture.variances, Covariances) else mixture.variances
    assert isinstance(variances, Tensor)
    averages = Statistics(counts, counts[:, None] * means, None, None, None, means.new_zeros(()))
    if full:
        squares = counts[:, None, None] * (variances + means[:, :, None] * means[:, None, :])
    elif variances.shape[-1] == 1:
        squares = counts[:, None] * (means.shape[-1] * variances + means.square().sum(-1, keepdim=True))
    else:
        squares = counts[:, None] * (variances + means.square())
    return OnlineState(mixture, averages._replace(squares=squares), summary.mean, 1, summary)


def online_step(problem: Problem, state: OnlineState, decay: float) -> tuple[OnlineState, float]:
    r"""The state after one more batch, and the mean log density of its rows before the step.

    Arguments:
        problem: The batch, and how it is fitted.
        state: The state.
        decay: :math:`\rho`, from above 0.5 to 1: with 1 all batches count alike.

    Raises:
        ValueError: If a covariance becomes singular.
    """
    batch, joined = problem.summary, _joined(state.summary, problem.summary)
    near = batch.missing or needs_differences(problem, state.mixture)
    new = expected(replace(problem, summary=replace(batch, mean=state.origin)), state.mixture, near)
    new = _shifted(new, -state.mixture.means) if near else new  # moments about zero
    rate = (state.steps + 1) ** -decay
    averages = _combined(state.averages, 1 - rate, new, rate / batch.total)
    # priors are centered at the mean of all rows, which is not the origin
    shift = joined.mean - state.origin
    statistics = _shifted(_combined(averages, joined.total, averages, 0.0), shift)
    centered = replace(problem, summary=joined)
    mixture = updated(centered, statistics, _moved(state.mixture, -shift), torch.zeros_like(shift))
    after = OnlineState(_moved(mixture, shift), averages, state.origin, state.steps + 1, joined)
    return after, float(new.evidence) / batch.total


def _combined(one: Statistics, of_one: float, other: Statistics, of_other: float) -> Statistics:
    """A weighted sum of statistics."""
    assert one.squares is not None and other.squares is not None
    return Statistics(
        of_one * one.counts + of_other * other.counts,
        of_one * one.queries + of_other * other.queries,
        of_one * one.squares + of_other * other.squares,
        None,
        None,
        other.evidence,
    )


def _moved(mixture: Mixture, by: Tensor) -> Mixture:
    return replace(mixture, means=mixture.means + by)


def _shifted(statistics: Statistics, by: Tensor) -> Statistics:
    """Moments of rows from which ``by`` is subtracted, with shape [D], or [N D] for each component."""
    counts, first, second = statistics.counts, statistics.queries, statistics.squares
    assert second is not None
    if second.ndim == 3:
        cross = first[:, :, None] * by[..., None, :]
        outer = by[..., :, None] * by[..., None, :]
        squares = second - cross - cross.mT + counts[:, None, None] * outer
    else:
        change = counts[:, None] * by.square() - 2 * first * by
        squares = second + (change.sum(-1, keepdim=True) if second.shape[-1] == 1 else change)
    return statistics._replace(queries=first - counts[:, None] * by, squares=squares)


def _joined(one: Summary, other: Summary) -> Summary:
    """The moments of two sets of rows together; the sample is that of the second."""
    total = one.total + other.total
    share = other.total / total
    shift = other.mean - one.mean
    variance = torch.lerp(one.variance, other.variance, share) + share * (1 - share) * shift.square()
    return replace(other, total=total, mean=one.mean + share * shift, variance=variance)
