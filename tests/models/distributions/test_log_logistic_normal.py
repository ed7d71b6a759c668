"""The logistic normal over log weights: against SciPy's Gaussian of log ratios, and whatever the padding."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import pad

from pyroformer.models.distributions.log_dirichlet_math import LOG_ZERO
from pyroformer.models.distributions.log_logistic_normal import LogLogisticNormal

LOC, SCALE = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([1.5, 0.7, 2.0]).double()


def padded(*places: int, components: int) -> tuple[Any, Tensor]:
    """The distribution whose components are at some places, with other numbers elsewhere, and its mask."""
    mask = torch.zeros(components, dtype=torch.bool)
    mask[list(places)] = True
    loc, scale = (torch.full((components,), 3.0).double().masked_scatter(mask, each) for each in (LOC, SCALE))
    return LogLogisticNormal(loc, scale, mask), mask


PADDED = [padded(0, 1, 2, components=3), padded(0, 1, 2, components=7), padded(1, 4, 5, components=6)]


def at(log_weights: Tensor, mask: Tensor) -> Tensor:
    value = torch.full((*log_weights.shape[:-1], len(mask)), LOG_ZERO).double()
    value[..., mask] = log_weights
    return value


@pytest.mark.parametrize(("distribution", "mask"), PADDED)
class TestWhateverThePadding:
    def test_log_ratios_are_gaussian(self, distribution: Any, mask: Tensor) -> None:
        log_weights = (3 * torch.randn(5, 3).double()).log_softmax(-1)
        covariance = np.diag(SCALE[:2].square().numpy()) + float(SCALE[2]) ** 2
        ratios = multivariate_normal((LOC[:2] - LOC[2]).numpy(), covariance)
        expected = torch.from_numpy(ratios.logpdf((log_weights[:, :2] - log_weights[:, 2:]).numpy()))
        torch.testing.assert_close(distribution.log_prob(at(log_weights, mask)), expected)

    def test_integrates_to_one(self, distribution: Any, mask: Tensor) -> None:
        u = torch.linspace(-30, 30, 301).double()
        ratios = torch.stack([*torch.meshgrid(u, u, indexing="ij"), torch.zeros(301, 301).double()], -1)
        density = distribution.log_prob(at(ratios.log_softmax(-1), mask)).exp()
        assert torch.trapezoid(torch.trapezoid(density, u), u).item() == pytest.approx(1, abs=1e-6)

    def test_draws_are_those_of_the_density(self, distribution: Any, mask: Tensor) -> None:
        draws = distribution.sample((20_000,))
        assert distribution.support.check(draws).all() and (draws[:, ~mask] == LOG_ZERO).all()
        ratios = draws[:, mask][:, :2] - draws[:, mask][:, 2:]
        covariance = SCALE[:2].square().diag() + SCALE[2].square()
        torch.testing.assert_close(ratios.mean(0), LOC[:2] - LOC[2], atol=0.08, rtol=0)
        torch.testing.assert_close(ratios.T.cov(), covariance, atol=0.25, rtol=0)  # 4 standard errors


def test_weights_that_underflow_have_densities_and_gradients() -> None:
    loc = torch.tensor([0.0, -3000.0], requires_grad=True)
    distribution = LogLogisticNormal(loc, torch.ones(2))
    draw = distribution.rsample()
    assert draw.isfinite().all()
    distribution.log_prob(draw.detach() + torch.tensor([0.0, 1.0])).backward()
    assert loc.grad is not None and loc.grad.isfinite().all() and loc.grad.any()


def test_expands() -> None:
    distribution, mask = PADDED[1]
    expanded = distribution.expand([2, 3])
    draw = expanded.sample()
    assert draw.shape == (2, 3, 7) and torch.equal(expanded.log_prob(draw), distribution.log_prob(draw))


def test_one_component_has_all_the_weight() -> None:
    distribution = LogLogisticNormal(torch.zeros(2), torch.ones(2), torch.tensor([False, True]))
    torch.testing.assert_close(distribution.log_prob(pad(torch.zeros(1), (1, 0), value=LOG_ZERO)), torch.tensor(0.0))


@pytest.mark.parametrize("components", [2, 64, 1024])
def test_the_density_has_the_digits_of_its_inputs(components: int) -> None:
    loc, scale = torch.randn(components).double(), 0.5 + torch.rand(components).double()
    log_weights = torch.randn(components).double().log_softmax(-1)
    ratios = torch.cat([torch.eye(components - 1), -torch.ones(components - 1, 1)], -1).double()
    gaussian = MultivariateNormal(ratios @ loc, ratios @ scale.square().diag() @ ratios.T)
    actual = LogLogisticNormal(loc, scale).log_prob(log_weights)
    torch.testing.assert_close(actual, gaussian.log_prob(ratios @ log_weights), rtol=1e-12, atol=0)
    with default_dtype(torch.double):
        assert LogLogisticNormal(loc.float(), scale.float()).log_prob(log_weights.float()).dtype == torch.float


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
