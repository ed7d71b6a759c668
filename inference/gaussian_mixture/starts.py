"""Starting points of EM: components of rows that lie together, or given parameters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.attention.em.expected_statistics import Statistics
from ...models.attention.mixture import Mixture
from ...models.attention.variances import Covariances
from ...models.utils.k_means import k_means
from .table import Summary

__all__ = ["InitialParameters", "Start", "start_statistics"]

Start = Literal["kmeans", "k-means++", "random_from_data", "random"]
LLOYD_STEPS = 30


class InitialParameters(NamedTuple):
    """Parameters that the user gives EM to start at; None where it finds them.

    Arguments:
        weights: Weights of the components.
        means: Their means, centered as the rows are.
        covariances: Their variances, or full covariance matrices.
    """

    weights: Float[Tensor, " n"] | None
    means: Float[Tensor, "n d"] | None
    covariances: Float[Tensor, "..."] | None

    def applied(self, mixture: Mixture) -> Mixture:
        """A start with the parameters that are given in place of its own."""
        if self.weights is not None:
            mixture = replace(mixture, log_weights=self.weights.log())
        if self.means is not None:
            mixture = replace(mixture, means=self.means)
        if self.covariances is not None:
            full = self.covariances.ndim == 3
            mixture = replace(mixture, variances=Covariances(self.covariances) if full else self.covariances)
        return mixture


def start_statistics(
    summary: Summary,
    components: int,
    how: Start,
    squares: Literal["isotropic", "diagonal", "full"],
    given: InitialParameters,
) -> Statistics:
    """The statistics of a first M-step, from rows that are assigned to components.

    Rows are standardized for that, so that units do not matter, unless components are spherical. What is missing is
    the mean of its column; rows of which nothing is known are left out.

    Arguments:
        summary: The rows' moments, and some of the rows.
        components: The number of components.
        how: ``kmeans``: clusters of k-means, seeded by k-means++; ``k-means++``: rows join the nearest seed;
            ``random_from_data``: rows join the nearest of some of them; ``random``: random shares of each row.
        squares: The form of the second moments.
        given: Where means are given, rows join the nearest.

    Raises:
        ValueError: If there are fewer rows than components.
    """
    some = ~summary.sample.isnan().all(-1)
    rows, counts = summary.sample[some].cpu(), summary.counts[some].cpu()
    if len(rows) < components:
        raise ValueError(
            f"n_components is {components} and X has only n_samples = {len(rows)} that count: give at least one row "
            "for each component."
        )
    mean, deviation = summary.mean.cpu(), summary.variance.sqrt().cpu()
    rows = torch.where(rows.isnan(), 0, rows - mean)
    units = torch.where(deviation > 0, deviation, 1) if squares != "isotropic" else torch.ones_like(deviation)
    points = rows / units
    if given.means is not None:
        shares = _nearest(points, given.means.cpu() / units)
    else:
        shares = _SHARES[how](points, components)
    shares = shares * counts[:, None]
    shares = shares * (summary.total / counts.sum())
    second = {
        "isotropic": lambda: shares.mT @ rows.square().sum(-1, keepdim=True),
        "diagonal": lambda: shares.mT @ rows.square(),
        "full": lambda: torch.stack([(rows * column[:, None]).mT @ rows for column in shares.mT]),
    }[squares]()
    device = summary.mean.device
    moments = (shares.sum(0).to(device), (shares.mT @ rows).to(device), second.to(device))
    return Statistics(*moments, None, None, rows.new_zeros(()).to(device))


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(torch.cdist(points, centers).argmin(-1), len(centers)).to(points.dtype)


def _clusters(points: Tensor, components: int, steps: int) -> Tensor:
    return torch.nn.functional.one_hot(k_means(points, components, steps)[1], components).to(points.dtype)


def _of_random_rows(points: Tensor, components: int) -> Tensor:
    return _nearest(points, points[torch.randperm(len(points))[:components]])


def _random(points: Tensor, components: int) -> Tensor:
    shares = torch.rand(len(points), components, dtype=points.dtype)
    return shares / shares.sum(-1, keepdim=True)


_SHARES: dict[Start, Callable[[Tensor, int], Tensor]] = {
    "kmeans": lambda points, components: _clusters(points, components, LLOYD_STEPS),
    "k-means++": lambda points, components: _clusters(points, components, 0),
    "random_from_data": _of_random_rows,
    "random": _random,
}
