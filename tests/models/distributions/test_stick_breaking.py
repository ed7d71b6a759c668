"""Stick-breaking over log weights: against the distribution over weights, under masks, and where weights underflow."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import Beta, kl_divergence

from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.stick_breaking import LogStickBreaking
from pyroformer.models.priors.components import StickBreaking
from pyroformer.models.priors.weights import GEM, GammaDirichletProcess, PitmanYor, SymmetricDirichlet

MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


def distribution(discount: float = 0.4, mask: torch.Tensor = MASK) -> LogStickBreaking:
    return LogStickBreaking(torch.tensor(1.5).double(), mask, torch.tensor(discount).double())


def test_density_is_that_of_the_weights_in_another_measure() -> None:
    value = torch.distributions.Dirichlet(torch.ones(7, 4).double()).sample()
    plain = StickBreaking(torch.tensor(1.5).double(), components=4).log_prob(value)
    torch.testing.assert_close(distribution(0.0, MASK[0]).log_prob(value.log()), plain + value.log().sum(-1))


def test_draws_of_the_weights_have_the_means_of_the_stick() -> None:
    weights = distribution(0.0, MASK[0]).sample((50_000,)).exp()
    expected = StickBreaking(torch.tensor(1.5).double(), components=4).mean
    torch.testing.assert_close(weights.mean(0), expected, atol=0.006, rtol=0.0)  # 4 standard errors


@pytest.mark.parametrize("mask", [[True, True, True, True], [True, False, True, True], [False, True, False, True]])
@pytest.mark.parametrize(("a", "d"), [(1.5, 0.0), (1.5, 0.4), (-0.3, 0.4)])
def test_shares_are_those_of_independent_betas(a: float, d: float, mask: list[bool]) -> None:
    """Density, mean and divergences from torch's Betas, by the order of the components that exist."""
    present = torch.tensor(mask)
    stick = LogStickBreaking(torch.tensor(a).double(), present, torch.tensor(d).double())
    order = torch.arange(1, int(present.sum())).double()
    beta = Beta(torch.full_like(order, 1 - d), a + order * d)
    log_weights = stick.sample()
    weights = log_weights[present].exp()
    rest = weights.flip(-1).cumsum(-1).flip(-1)[:-1]
    shares = weights[:-1] / rest
    expected = (beta.log_prob(shares) + shares.log() + (1 - shares).log()).sum()  # in the measure of the log odds
    torch.testing.assert_close(stick.log_prob(log_weights), expected)

    log_share, log_left = (
        x.digamma() - (a + 1 + order * d - d).digamma() for x in (beta.concentration1, a + order * d)
    )
    mean = torch.cat([log_share, torch.zeros(1).double()])
    mean[1:] += log_left.cumsum(-1)
    torch.testing.assert_close(stick.mean[present], mean)

    other = LogStickBreaking(torch.tensor(0.7).double(), present, torch.tensor(0.2).double())
    of_other = Beta(torch.full_like(order, 0.8), 0.7 + order * 0.2)
    torch.testing.assert_close(kl_divergence(stick, other), kl_divergence(beta, of_other).sum())
    alpha = torch.rand(4).double() + 0.5
    later = alpha[present].flip(-1).cumsum(-1).flip(-1)[1:]
    exact = kl_divergence(Beta(alpha[present][:-1], later), beta).sum()
    torch.testing.assert_close(kl_divergence(LogDirichlet(alpha.log(), present), stick), exact)


def test_masked_components_change_nothing() -> None:
    value = distribution().sample()
    assert (value.exp() * ~MASK == 0).all()
    alone = distribution(mask=MASK[1:, :2])
    torch.testing.assert_close(distribution().log_prob(value)[1:], alone.log_prob(value[1:, :2]))
    torch.testing.assert_close(distribution().mean[1, :2], alone.mean[0])
    q = LogDirichlet(torch.randn(2, 4).double(), MASK)
    alone_q = LogDirichlet(q.log_concentration[1:, :2], MASK[1:, :2])
    torch.testing.assert_close(kl_divergence(q, distribution())[1:], kl_divergence(alone_q, alone))
    for other in (q, LogDirichlet(q.log_concentration), distribution()):  # of other components: infinite
        assert kl_divergence(other, distribution(mask=~MASK)).isinf().all()


@pytest.mark.parametrize("components", [0, 1])
def test_nothing_to_break_is_certain(components: int) -> None:
    mask = torch.arange(3) < components
    certain = distribution(mask=mask)
    assert certain._validate_args is not None
    certain._validate_args = False  # nothing sums to one where there is nothing
    assert certain.log_prob(certain.rsample()) == 0


@pytest.mark.parametrize("low", [-20.0, -700.0])
def test_finite_where_weights_underflow(low: float) -> None:
    log_weights = torch.tensor([low, 0.0, low, 3 * low]).double().log_softmax(-1).requires_grad_()
    log_prob = distribution(mask=MASK[0]).log_prob(log_weights)
    log_prob.backward()
    assert log_prob.isfinite() and log_weights.grad is not None and log_weights.grad.isfinite().all()


@pytest.mark.parametrize("a", [1e-2, 1e-4, 1e-6])
def test_small_concentrations_in_float32(a: float) -> None:
    """Log weights of -1e7: draws still sum to one, and densities and pathwise gradients are those of float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        concentration = torch.tensor(a, dtype=dtype, requires_grad=True)
        stick = LogStickBreaking(concentration, torch.ones(12, dtype=torch.bool))
        draws = stick.rsample((4000,))
        torch.testing.assert_close(draws.detach().exp().sum(-1), torch.ones(4000, dtype=dtype), atol=1e-6, rtol=0.0)
        density = stick.log_prob(draws).mean()
        (slope,) = torch.autograd.grad(density, concentration)
        found.append((density.item(), a * slope.item()))
    # E log p = (N - 1) (E log b + a E log (1 - b) + log a) with b ~ Beta(1, a), in the measure of the log odds
    psi = torch.tensor([1.0, 1.0 + a, a], dtype=torch.float64).digamma()
    expected = 11 * (psi[0] - psi[1] + a * (psi[2] - psi[1]) + math.log(a))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[1][0] == pytest.approx(expected.item(), abs=0.3)  # 4 standard errors
    assert found[1][1] == pytest.approx(11.0, rel=0.02)


def test_gradients_of_densities_and_divergences() -> None:
    log_alpha = torch.randn(2, 4).double().requires_grad_()
    a, d = torch.tensor(1.5).double().requires_grad_(), torch.tensor(0.3).double().requires_grad_()

    def both(log_alpha: Any, a: Any, d: Any) -> Any:
        p = LogStickBreaking(a, MASK, d)
        score = torch.where(MASK, log_alpha, -1e30).log_softmax(-1)
        with torch.no_grad():
            p._validate_args = False
        return p.log_prob(score), kl_divergence(LogDirichlet(log_alpha, MASK), p)

    assert torch.autograd.gradcheck(both, (log_alpha, a, d))


def test_draws_carry_gradients() -> None:
    a = torch.tensor(1.5, requires_grad=True)
    LogStickBreaking(a, MASK).rsample()[:, 0].sum().backward()
    assert a.grad is not None and a.grad < 0  # more concentration leaves less to the first


def test_expands() -> None:
    wide = distribution(mask=MASK[0]).expand([3, 2])
    assert wide.sample().shape == (3, 2, 4) and wide.log_prob(wide.sample()).shape == (3, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymmetricDirichlet(0.0), "concentration is 0.0: give a positive, finite number"),
        (lambda: GEM(-1.0), "concentration is -1.0: give a positive, finite number"),
        (lambda: PitmanYor(1.0, 1.0), "discount is 1.0: give a number of at least 0"),
        (lambda: GammaDirichletProcess(shape=0.0), "shape is 0.0: give a positive, finite number"),
        (lambda: GammaDirichletProcess(rate=0.0), "rate is 0.0: give a positive, finite number"),
        (
            lambda: LogStickBreaking(torch.tensor(-1.0), MASK),
            "concentration is -1.0: give a number above 0, or above minus",
        ),
        (lambda: LogStickBreaking(torch.tensor(-0.4), MASK, torch.tensor(0.4)), "concentration is -0.4: give a number"),
    ],
)
def test_refuses(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
