"""M-steps of variances: at their result the posterior of the precisions, written out, has no slope."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyroformer.models.attention.em.conjugate_priors import ConjugatePriors
from pyroformer.models.attention.em.expected_statistics import Statistics, expected_statistics
from pyroformer.models.attention.em.m_step import update_variances
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.observations import Observations

M, N, D = 9, 3, 2


def second_moments(queries: Tensor, kind: str) -> Tensor:
    """The squares of each query, as the statistics have them."""
    if kind == "full":
        return queries[:, :, None] * queries[:, None, :]
    return queries.square() if kind == "diagonal" else queries.square().sum(-1, keepdim=True)


def log_posterior(
    own: Tensor, kind: str, weights: Tensor, away: Tensor, moved: Tensor, prior: dict[str, float]
) -> Tensor:
    """Of precisions, given the means: weighted queries, the means under their prior, and the prior of precisions."""
    precision = own if kind == "full" else torch.diag_embed(own.expand(N, D))
    log_det = precision.logdet()
    density = (weights * (log_det - torch.einsum("mnd,nde,mne->mn", away, precision, away))).sum() / 2
    if prior["pseudo_counts"] > 0:
        pull = prior["pseudo_counts"] * torch.einsum("nd,nde,ne->n", moved, precision, moved)
        density = density + (log_det - pull).sum() / 2
    log_own, trace = (log_det, precision.diagonal(0, -2, -1)) if kind == "full" else (own.log(), own)
    return density + (prior["shape"] - 1) * log_own.sum() - prior.get("rate", 0) * trace.sum()


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
@pytest.mark.parametrize(
    "prior", [{"pseudo_counts": 2.5, "shape": 1.7, "rate": 0.3}, {"pseudo_counts": 0.0, "shape": 1.0}], ids=str
)
def test_variances_are_the_mode(kind: str, prior: dict[str, float]) -> None:
    queries, weights = torch.randn(M, D).double(), torch.rand(M, N).double()
    means, initial = torch.randn(2, N, D).double()
    squares = torch.einsum("mn,m...->n...", weights, second_moments(queries, kind))
    statistics = Statistics(weights.sum(0), weights.mT @ queries, squares, None, None, torch.zeros(()).double())
    variances = update_variances(statistics, means, initial, ConjugatePriors(**prior))
    own = (variances.inverse() if kind == "full" else 1 / variances).requires_grad_()
    density = log_posterior(own, kind, weights, queries[:, None] - means, means - initial, prior)
    (slope,) = torch.autograd.grad(density, own)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_a_component_with_neither_queries_nor_a_prior_keeps_its_variance(kind: str) -> None:
    current = torch.eye(D).expand(N, D, D) if kind == "full" else torch.ones(N, 1 if kind == "isotropic" else D)
    zeros = torch.zeros(N, D)
    statistics = Statistics(torch.zeros(N), zeros, 0 * current, None, None, torch.zeros(()))
    assert torch.equal(
        update_variances(statistics, zeros, zeros, ConjugatePriors(pseudo_counts=0.0), current=current), current
    )


def test_a_scatter_that_rounding_puts_below_zero_is_zero() -> None:
    """Of one query at the mean, whose square is rounded down: the pull of the prior over two degrees is left."""
    statistics = Statistics(
        torch.ones(1), torch.full((1, 1), 10.0), torch.full((1, 1), 99.0), None, None, torch.zeros(())
    )
    mean, initial = torch.full((1, 1), 10.0), torch.full((1, 1), 9.0)
    assert update_variances(statistics, mean, initial, ConjugatePriors(rate=0.0)).item() == 0.5


def test_moments_about_means_do_not_read_the_mean_of_an_absent_component() -> None:
    means, observations = torch.randn(N, D), Observations(torch.randn(M, D))
    means[-1] = torch.nan
    options: dict[str, Any] = {"squares": "diagonal", "about_means": True}
    masked = Mixture(torch.zeros(N), means, mask=torch.tensor([True, True, False]), noise_variance=1.0)
    found = expected_statistics(observations, masked, **options)
    short = expected_statistics(observations, Mixture(torch.zeros(2), means[:2], noise_variance=1.0), **options)
    for ours, theirs in ((found.queries, short.queries), (found.squares, short.squares)):
        assert ours is not None and not ours[2].any()
        torch.testing.assert_close(ours[:2], theirs)


@pytest.mark.parametrize("distance", [4.0, 6.0, 12.0])
def test_small_shares_count(distance: float) -> None:
    """Of a query at the first of two means: exp(-distance^2 / 2) : 1, down to 1e-31."""
    mixture = Mixture(torch.zeros(2).double(), torch.tensor([[0.0], [distance]]).double(), noise_variance=1.0)
    counts = expected_statistics(Observations(torch.zeros(5, 1).double()), mixture).counts
    small = torch.tensor(-0.5 * distance**2).double().sigmoid()
    torch.testing.assert_close(counts, 5 * torch.stack([1 - small, small]), rtol=1e-10, atol=0)
