r"""The E-step of mixtures of Gaussians where coordinates are missing.

With the coordinates that are known, o, and those that are missing, m, of a row x, everything follows from the marginal
:math:`N(x_o; \mu_{n,o}, \Sigma_{n,oo})` and the conditional distribution of :math:`x_m` given :math:`x_o`:

.. math::
    E[x_m - \mu_m \mid x_o] = \Sigma_{mo} \Sigma_{oo}^{-1} (x_o - \mu_o), \qquad
    \text{Cov}[x_m \mid x_o] = \Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}

References:
    Supervised learning from incomplete data via an EM approach (Ghahramani and Jordan, 1994).
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.attention.bayes_rule import log_joint
from ...models.attention.em.expected_statistics import Covariance, Statistics, expected_statistics
from ...models.attention.mixture import Mixture
from ...models.attention.observations import Observations
from ...models.attention.variances import Covariances

__all__ = ["added", "observed_log_joint", "observed_statistics"]

ENTRIES = 2**20  # rows times components times coordinates, in a chunk


def observed_log_joint(rows: Float[Tensor, "m d"], mixture: Mixture) -> Float[Tensor, "m n"]:
    r"""Log joint density of known coordinates and components, :math:`\log \pi_n + \log p(x_o \mid n)`.

    Arguments:
        rows: The rows, NaN where a coordinate is missing. A row without any has the density 1.
        mixture: A mixture whose noise variance is 0.

    Examples:
        >>> mixture = pf.Mixture(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2), noise_variance=0.0)
        >>> observed_log_joint(torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan]]), mixture)
        tensor([[-0.9189],
                [ 0.0000]])
    """
    joint = rows.new_empty(len(rows), mixture.components)
    for index, known in _patterns(rows, isinstance(mixture.variances, Covariances)):
        for part in index.split(_rows_at_once(mixture)):
            joint[part] = _joint(rows[part], known, mixture)
    return joint


def observed_statistics(
    rows: Float[Tensor, "m d"],
    counts: Float[Tensor, " m"] | None,
    mixture: Mixture,
    squares: Covariance,
    about_means: bool = False,
) -> Statistics:
    """:func:`~pyroformer.models.attention.em.expected_statistics.expected_statistics` of rows with missing coordinates.

    Arguments:
        rows: The rows, NaN where a coordinate is missing.
        counts: How many times each row counts; None is once.
        mixture: A mixture whose noise variance is 0.
        squares: The form of the second moments.
        about_means: Whether moments are about each component's mean; they have to be where something is missing.
    """
    complete = ~rows.isnan().any(-1)
    if bool(complete.all()):
        return expected_statistics(Observations(rows, counts=counts), mixture, squares, about_means)
    parts = []
    if bool(complete.any()):
        complete_counts = None if counts is None else counts[complete]
        parts.append(expected_statistics(Observations(rows[complete], counts=complete_counts), mixture, squares, True))
    incomplete = (~complete).nonzero()[:, 0]
    for index, known in _patterns(rows[incomplete], squares == "full"):
        for part in incomplete[index].split(_rows_at_once(mixture)):
            parts.append(_statistics(rows[part], None if counts is None else counts[part], known, mixture, squares))
    return added(parts)


def added(parts: list[Statistics]) -> Statistics:
    """The statistics of all rows, from those of some at a time."""
    total = parts[0]
    for part in parts[1:]:
        assert total.squares is not None and part.squares is not None
        total = total._replace(
            counts=total.counts + part.counts,
            queries=total.queries + part.queries,
            squares=total.squares + part.squares,
            evidence=total.evidence + part.evidence,
        )
    return total


def _patterns(rows: Tensor, full: bool) -> Iterator[tuple[Int[Tensor, " m"], Tensor | None]]:
    """The rows of each pattern of known coordinates, and the pattern: only full covariances need one at a time."""
    known = ~rows.isnan()
    if not full or bool(known.all()):
        yield torch.arange(len(rows), device=rows.device), None
        return
    patterns, which = known.unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield (which == number).nonzero()[:, 0], pattern


def _joint(rows: Tensor, known: Tensor | None, mixture: Mixture) -> Tensor:
    if known is not None:
        return _marginal_joint(rows, known, mixture)
    present = ~rows.isnan()
    if bool(present.all()):
        return log_joint(rows, mixture)
    return _difference_and_joint(rows, mixture)[1]


def _marginal_joint(rows: Tensor, known: Tensor, mixture: Mixture) -> Tensor:
    """The log joint of rows of which the same coordinates are known, under full covariances."""
    if not bool(known.any()):
        return mixture.log_weights.expand(len(rows), -1)
    assert isinstance(mixture.variances, Covariances)
    marginal = Mixture(
        mixture.log_weights,
        mixture.means[:, known],
        Covariances(mixture.variances.matrices[:, known][:, :, known]),
        noise_variance=0.0,
    )
    return log_joint(rows[:, known], marginal)


def _difference_and_joint(rows: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Differences to every mean, zero where missing, and the log joint, under diagonal or isotropic variances."""
    known = ~rows.isnan()
    variances = mixture.dense_variances()
    assert variances is not None
    difference = torch.where(known[:, None], rows[:, None] - mixture.means, 0)
    each = difference.square() / variances + variances.log() + math.log(2 * math.pi)
    return difference, mixture.log_weights - 0.5 * torch.where(known[:, None], each, 0).sum(-1)


def _statistics(
    rows: Tensor, counts: Tensor | None, known: Tensor | None, mixture: Mixture, squares: Covariance
) -> Statistics:
    """The statistics of incomplete rows, about the means; under full covariances, of one pattern of what is known."""
    if known is None:
        difference, joint = _difference_and_joint(rows, mixture)
    else:
        joint = _marginal_joint(rows, known, mixture)
        difference, rest = _conditional(rows, known, mixture)
    evidence = joint.logsumexp(-1)
    shares = (joint - evidence[:, None]).exp()
    shares = shares if counts is None else shares * counts[:, None]
    total = shares.sum(0)
    if known is not None:
        second = torch.einsum("mn,mnd,mne->nde", shares, difference, difference) + total[:, None, None] * rest
    else:
        variances = mixture.dense_variances()
        assert variances is not None
        unknown = rows.isnan().to(rows.dtype)
        second = torch.einsum("mn,mnd->nd", shares, difference.square()) + (shares.mT @ unknown) * variances
        second = second if squares == "diagonal" else second.sum(-1, keepdim=True)
    first = torch.einsum("mn,mnd->nd", shares, difference)
    evidence = evidence.sum() if counts is None else (counts * evidence).sum()
    return Statistics(total, first, second, None, None, evidence)


def _conditional(rows: Tensor, known: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Expected differences to every mean, [M N D], and the conditional covariance of each component, [N D D]."""
    assert isinstance(mixture.variances, Covariances)
    matrices, missing = mixture.variances.matrices, ~known
    difference = rows.new_zeros(len(rows), mixture.components, mixture.width)
    rest = torch.zeros_like(matrices)
    if not bool(known.any()):
        return difference, matrices
    observed = rows[:, None, known] - mixture.means[:, known]
    cross = matrices[:, known][:, :, missing]
    slope = torch.cholesky_solve(cross, torch.linalg.cholesky(matrices[:, known][:, :, known]))
    difference[..., known] = observed
    difference[..., missing] = torch.einsum("mno,nou->mnu", observed, slope)
    columns = missing.nonzero()[:, 0]
    conditional = matrices[:, missing][:, :, missing] - cross.mT @ slope
    rest[:, columns[:, None], columns] = conditional
    return difference, rest


def _rows_at_once(mixture: Mixture) -> int:
    return max(1, ENTRIES // (mixture.components * mixture.width))
