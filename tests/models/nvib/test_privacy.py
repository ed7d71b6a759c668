"""Rényi divergences against Monte Carlo, quadrature and limits; worst cases against a search over the bounds."""

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Dirichlet, Independent, Normal, kl_divergence

from pyroformer.models.nvib.privacy import (
    Clip,
    approximate_epsilon,
    dirichlet_renyi,
    gaussian_renyi,
    mixture_renyi,
)

CLIP = Clip(norm=0.5, least_variance=1.0, most_variance=1.3, least_alpha=0.8, most_alpha=1.1)


def unchecked(function: Any) -> Any:
    """A function without the tests' own checks of shapes."""
    return getattr(function, "__wrapped__", function)


def by_draws(p: Any, q: Any, order: float, count: int = 200_000) -> tuple[float, float]:
    """The divergence from draws of q, and its standard error."""
    x = q.sample((count,))
    ratio = (order * (p.log_prob(x) - q.log_prob(x))).double().exp()
    error = float(ratio.std() / ratio.mean() / math.sqrt(count) / abs(order - 1))
    return float(ratio.mean().log() / (order - 1)), error


def gaussians() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.tensor([0.3, -0.2]), torch.tensor([0.9, 1.2]), torch.tensor([0.0, 0.1]), torch.tensor([1.1, 1.0])


@pytest.mark.parametrize("order", [0.3, 1.5, 2.0])
def test_of_gaussians_by_draws_in_both_directions(order: float) -> None:
    mean, variance, other_mean, other_variance = gaussians()
    p, q = (Independent(Normal(m, v.sqrt()), 1) for m, v in ((mean, variance), (other_mean, other_variance)))
    there = float(gaussian_renyi(mean, variance, other_mean, other_variance, order))
    back = float(gaussian_renyi(other_mean, other_variance, mean, variance, order))
    for found, pair in ((there, (p, q)), (back, (q, p))):
        expected, error = by_draws(*pair, order)
        assert found == pytest.approx(expected, abs=5 * error)
    if order > 1:
        assert there != pytest.approx(back, rel=1e-2)
    else:  # skew symmetry
        assert (1 - order) * there == pytest.approx(
            order * float(gaussian_renyi(other_mean, other_variance, mean, variance, 1 - order)), rel=1e-9
        )


@pytest.mark.parametrize("order", [0.3, 1.5, 2.0])
def test_of_dirichlets_by_draws_in_both_directions(order: float) -> None:
    alpha, other = torch.tensor([1.2, 0.9, 2.0]), torch.tensor([1.0, 1.1, 1.7])
    for first, second in ((alpha, other), (other, alpha)):
        expected, error = by_draws(Dirichlet(first), Dirichlet(second), order)
        assert float(dirichlet_renyi(first, second, order)) == pytest.approx(expected, abs=5 * error)


def test_one_dimension_by_quadrature() -> None:
    p, q = stats.norm(0.7, 1.1), stats.norm(-0.2, 1.3)
    integral = integrate.quad(lambda x: p.pdf(x) ** 3 * q.pdf(x) ** -2, -30, 30)[0]
    found = gaussian_renyi(*(torch.tensor([v], dtype=torch.float64) for v in (0.7, 1.21, -0.2, 1.69)), 3.0)
    assert float(found) == pytest.approx(math.log(integral) / 2, rel=1e-7)
    p, q = stats.beta(1.4, 2.0), stats.beta(1.1, 1.8)
    integral = integrate.quad(lambda x: p.pdf(x) ** 3 * q.pdf(x) ** -2, 0, 1)[0]
    found = dirichlet_renyi(*(torch.tensor(v, dtype=torch.float64) for v in ([1.4, 2.0], [1.1, 1.8])), 3.0)
    assert float(found) == pytest.approx(math.log(integral) / 2, rel=1e-6)


def test_order_one_is_the_limit() -> None:
    mean, variance, other_mean, other_variance = (x.double() for x in gaussians())
    kl = float(kl_divergence(Normal(mean, variance.sqrt()), Normal(other_mean, other_variance.sqrt())).sum())
    alpha, other = torch.tensor([1.2, 0.9]).double(), torch.tensor([1.0, 3.0]).double()
    for order in (1 - 1e-5, 1 + 1e-5):
        assert float(gaussian_renyi(mean, variance, other_mean, other_variance, order)) == pytest.approx(kl, rel=1e-4)
        expected = float(kl_divergence(Dirichlet(alpha), Dirichlet(other)))
        assert float(dirichlet_renyi(alpha, other, order)) == pytest.approx(expected, rel=1e-4)


def test_parts_add_up_and_order_raises_it() -> None:
    alpha, other = torch.tensor([1.2, 0.9]), torch.tensor([1.0, 1.1])
    mean, variance, other_mean, other_variance = (x.expand(2, 2) for x in gaussians())
    values = [
        float(mixture_renyi(alpha, mean, variance, other, other_mean, other_variance, order))
        for order in (0.5, 2.0, 3.0)
    ]
    assert values == sorted(values)
    parts = float(dirichlet_renyi(alpha, other, 2.0))
    parts += 2 * float(gaussian_renyi(mean[0], variance[0], other_mean[0], other_variance[0], 2.0))
    assert values[1] == pytest.approx(parts)


def test_infinite_where_one_is_too_wide_or_too_sharp() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    assert gaussian_renyi(zero, 1.99 * one, zero, one, 2.0).isfinite()
    assert gaussian_renyi(zero, 2 * one, zero, one, 2.0) == math.inf
    assert gaussian_renyi(zero, one, zero, 100 * one, 2.0).isfinite()  # the other way round it is not
    assert dirichlet_renyi(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 1.0]), 2.0) == math.inf


@pytest.mark.parametrize("order", [1.1, 2.0, 3.5])
def test_nothing_within_the_bounds_exceeds_the_worst_case(order: float) -> None:
    worst = CLIP.worst_case(components=2, width=3, order=order)
    torch.manual_seed(0)
    draws = 4000
    sides = []
    for _ in range(2):
        mean = torch.randn(draws, 2, 3)
        variance = 1.0 + 0.3 * torch.rand(draws, 2, 3)
        alpha = 0.8 + 0.3 * torch.rand(draws, 2)
        sides.append(CLIP.apply(alpha, mean, variance))
    assert float(mixture_renyi(*sides[0], *sides[1], order).max()) < worst
    corners = [
        float(gaussian_renyi(torch.tensor([d]), torch.tensor([v]), torch.zeros(1), torch.tensor([w]), order))
        for d, v, w in itertools.product((0.0, 1.0), (1.0, 1.15, 1.3), (1.0, 1.15, 1.3))
    ]
    only_vectors = CLIP._replace(least_alpha=1.0, most_alpha=1.0)
    assert only_vectors.worst_case(components=1, width=1, order=order) == pytest.approx(max(corners))


@pytest.mark.parametrize("order", [1.1, 3.5])
def test_the_worst_case_of_weights_is_that_of_gammas_by_quadrature(order: float) -> None:
    """The larger of both directions between the ends of the interval; the second one here."""

    def divergence(first: float, second: float) -> float:
        p, q = stats.gamma(first), stats.gamma(second)
        integral = integrate.quad(lambda x: p.pdf(x) ** order * q.pdf(x) ** (1 - order), 0, 60, points=[1.0])[0]
        return float(math.log(integral) / (order - 1))

    ends = divergence(1.1, 0.8), divergence(0.8, 1.1)
    assert ends[0] < ends[1]
    certain = CLIP._replace(least_alpha=1.0, most_alpha=1.0)
    weights = CLIP.worst_case(components=1, width=3, order=order) - certain.worst_case(1, 3, order)
    assert weights == pytest.approx(ends[1], rel=1e-5)


def test_clipping_leaves_what_is_within_and_shortens_means() -> None:
    mean = torch.tensor([[0.3, 0.0], [3.0, 4.0], [3e30, 4e30]])
    variance = torch.tensor([[0.2, 1.1], [9.0, 1.0], [1.0, 1.0]])
    alpha, shrunk, variance = CLIP.apply(torch.tensor([0.1, 1.0, 9.0]), mean, variance)
    assert alpha.tolist() == pytest.approx([0.8, 1.0, 1.1])
    torch.testing.assert_close(shrunk, torch.tensor([[0.3, 0.0], [0.3, 0.4], [0.3, 0.4]]))
    torch.testing.assert_close(variance, torch.tensor([[1.0, 1.1], [1.3, 1.0], [1.0, 1.0]]))


def test_epsilon_of_the_gaussian_mechanism() -> None:
    """Noise 4 on a sum of sensitivity 2: (order, order * (2 / 4)^2 / 2), and its conversion, by hand."""
    clip = Clip(norm=1.0, least_variance=16.0, most_variance=16.0, least_alpha=1.0, most_alpha=1.0)
    assert clip.worst_case(components=1, width=5, order=8.0) == pytest.approx(8 * 0.25 / 2)
    assert approximate_epsilon(1.0, order=8.0, delta=1e-6) == pytest.approx(1 + 6 * math.log(10) / 7)
    assert approximate_epsilon(0.0, order=2.0, delta=0.1) == pytest.approx(math.log(10))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_renyi(*(torch.ones(1),) * 4, 1.0), "order is 1.0: give a number above 0 other than 1"),
        (lambda: dirichlet_renyi(torch.ones(2), torch.ones(2), -2.0), "order is -2.0: give a number above 0"),
        (
            lambda: unchecked(gaussian_renyi)(torch.ones(2), torch.ones(3), torch.ones(2), torch.ones(2), 2.0),
            "there are 2 and 3 dimensions: give texts with as many as each other",
        ),
        (
            lambda: unchecked(dirichlet_renyi)(torch.ones(2), torch.ones(3), 2.0),
            "there are 2 and 3 components: give texts with as many as each other",
        ),
        (lambda: CLIP.worst_case(1, 2, 0.5), "order is 0.5: give a number above 1"),
        (lambda: CLIP.worst_case(0, 2, 2.0), "components is 0: give a whole number of at least 1"),
        (lambda: CLIP.worst_case(1, 2, 9.0), "order is 9, at which variance between 1 and 1.3 has no finite guarantee"),
        (
            lambda: CLIP._replace(most_alpha=1.6).worst_case(1, 2, 2.0),
            "order is 2, at which alpha between 0.8 and 1.6 has no finite guarantee",
        ),
        (lambda: CLIP._replace(norm=0.0).worst_case(1, 2, 2.0), "norm is 0.0: give a finite number above 0"),
        (
            lambda: CLIP._replace(norm=math.inf).apply(torch.ones(1), torch.ones(1, 2), torch.ones(1, 2)),
            "norm is inf: give a finite number",
        ),
        (lambda: CLIP._replace(most_alpha=0.1).worst_case(1, 2, 2.0), "least_alpha is 0.8 and most_alpha 0.1: give"),
        (lambda: approximate_epsilon(1.0, 2.0, 0.0), "delta is 0.0: give a probability above 0 and below 1"),
        (lambda: approximate_epsilon(1.0, 2.0, 1.0), "delta is 1.0: give a probability above 0 and below 1"),
        (lambda: approximate_epsilon(math.inf, 2.0, 0.1), "renyi is inf: give a finite divergence, 0 or more"),
        (lambda: approximate_epsilon(-1.0, 2.0, 0.1), "renyi is -1.0: give a finite divergence, 0 or more"),
        (lambda: approximate_epsilon(1.0, 1.0, 0.1), "order is 1.0: give a number above 1"),
    ],
)
def test_refused_in_one_line(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
