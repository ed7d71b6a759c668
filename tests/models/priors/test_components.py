"""Priors over the parts of a mixture, against closed forms, integration and torch's transforms."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

from pyroformer.models.distributions.stick_breaking import LogStickBreaking
from pyroformer.models.priors.components import ComponentPrior, DirichletProcess, GaussianVectors, StickBreaking


def sticks(parts: Tensor) -> Tensor:
    """Weights of broken sticks, by the definition."""
    weights, rest = [], torch.ones_like(parts[0])
    for part in parts:
        weights.append(part * rest)
        rest = rest * (1 - part)
    return torch.stack(weights)


@pytest.mark.parametrize("concentration", [0.3, 1.0, 4.0])
def test_density_is_that_of_the_broken_sticks(concentration: float) -> None:
    parts = torch.rand(4, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(sticks, parts)
    a = torch.tensor(concentration, dtype=torch.double)
    expected = dist.Beta(torch.ones_like(a), a).log_prob(parts).sum() - jacobian.det().log()
    weights = sticks(parts)
    weights = torch.cat([weights, 1 - weights.sum(0, keepdim=True)])
    torch.testing.assert_close(StickBreaking(a, 5).log_prob(weights), expected, rtol=1e-10, atol=1e-10)


def test_two_pieces_are_a_dirichlet() -> None:
    a, weights = torch.tensor([0.5, 3.0]).double(), torch.rand(7, 1).double()
    weights = torch.cat([weights, 1 - weights], -1)
    for concentration in a:
        expected = dist.Dirichlet(torch.stack([torch.ones_like(concentration), concentration])).log_prob(weights)
        torch.testing.assert_close(StickBreaking(concentration, 2).log_prob(weights), expected)


def test_draws_are_weights_with_the_stated_mean_and_gradients() -> None:
    concentration = torch.tensor([[0.5], [3.0]], requires_grad=True)
    distribution = StickBreaking(concentration, 6)
    draws = distribution.rsample((20_000,))
    assert draws.shape == (20_000, 2, 1, 6)
    assert constraints.simplex.check(draws).all()
    standard_error = draws.std(0) / 20_000**0.5
    assert ((draws.mean(0) - distribution.mean).abs() <= 5 * standard_error + 1e-6).all()
    draws[..., 0].sum().backward()
    assert (concentration.grad < 0).all()  # a larger concentration leaves less for the first piece


def test_expanded_law_is_the_same_law() -> None:
    distribution = StickBreaking(torch.tensor(2.0), 4)
    weights = torch.rand(3, 4).softmax(-1)
    torch.testing.assert_close(distribution.expand((3,)).log_prob(weights), distribution.log_prob(weights))
    assert distribution.expand((5, 3)).sample().shape == (5, 3, 4)


def test_concentration_has_a_prior_of_its_own() -> None:
    prior = DirichletProcess(dist.Gamma(2.0, 4.0))
    trace = pyro.poutine.trace(prior).get_trace(torch.ones(5, dtype=torch.bool))
    distribution = trace.nodes["_RETURN"]["value"]
    assert torch.equal(distribution.concentration, trace.nodes["concentration"]["value"])
    assert trace.nodes["concentration"]["fn"].mean == 0.5
    assert sorted(prior.double().state_dict()) == ["hyperprior.at_concentration", "hyperprior.at_rate"]


def test_fixed_concentration_is_a_buffer() -> None:
    prior = DirichletProcess(2.0)
    assert dict(prior.named_buffers())["concentration"] == 2
    assert prior(torch.ones(3, 1, 5, dtype=torch.bool)).batch_shape == (3, 1)


@pytest.mark.parametrize("concentration", [1.0, 0.1, 0.01])
def test_small_concentrations_keep_their_density(concentration: float) -> None:
    """The mean log density of single-precision draws is the closed form, and so is its derivative."""
    a = torch.tensor(concentration, requires_grad=True)
    distribution = DirichletProcess(1.0)
    distribution.concentration = a.detach()
    prior = distribution(torch.ones(12, dtype=torch.bool))
    draws = prior.sample((20_000,))
    assert draws.isfinite().all()
    exact = torch.tensor(concentration, dtype=torch.double, requires_grad=True)
    log_taken = torch.digamma(torch.ones_like(exact)) - torch.digamma(1 + exact)
    log_left = torch.digamma(exact) - torch.digamma(1 + exact)
    expected = 11 * (log_taken + exact * log_left + exact.log())
    assert float(prior.log_prob(draws).mean()) == pytest.approx(float(expected.detach()), rel=0.03, abs=0.03)
    score = torch.autograd.grad(LogStickBreaking(a, torch.ones(12, dtype=torch.bool)).log_prob(draws).mean(), a)[0]
    assert abs(float(score)) < 0.3 / concentration  # the mean score is zero


def test_vectors_are_worth_their_pseudo_counts() -> None:
    initial, prior_counts, precision = torch.randn(4, 3), torch.rand(4) + 0.5, torch.rand(4, 1) + 0.5
    distribution = GaussianVectors(initial, prior_counts)(precision)
    assert distribution.batch_shape == (4,) and distribution.event_shape == (3,)
    torch.testing.assert_close(distribution.variance, (1 / (prior_counts[:, None] * precision)).expand(4, 3))
    assert torch.equal(distribution.mean, initial)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GaussianVectors(torch.zeros(2, 2), 0.0), "pseudo_counts is 0.0: give (a )?positive"),
        (lambda: StickBreaking(torch.tensor(1.0), 1), "components is 1: give a whole number of at least 2"),
        (lambda: DirichletProcess(-1.0), "concentration is -1.0: give a positive number"),
    ],
)
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_role_asks_for_its_method() -> None:
    with pytest.raises(NotImplementedError, match="write forward"):
        ComponentPrior()(torch.ones(1, 1))
