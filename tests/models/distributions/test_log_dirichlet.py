"""LogDirichlet and Lengths as Pyro distributions: shapes, plates, masks, divergences, capture."""

import math
from typing import Any

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyroformer.models.distributions.lengths import Lengths
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.log_dirichlet_math import LOG_ZERO, dirichlet_kl
from pyroformer.models.distributions.log_simplex import log_simplex

MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


@pytest.fixture
def weights() -> Any:
    return LogDirichlet(torch.randn(2, 4), MASK)


class TestLogDirichlet:
    def test_shapes(self, weights) -> None:
        assert weights.batch_shape == (2,) and weights.event_shape == (4,) and weights.event_dim == 1
        assert weights.rsample((5, 3)).shape == (5, 3, 2, 4)
        assert weights.log_prob(weights.sample((5,))).shape == (5, 2)
        assert weights.entropy().shape == (2,)
        assert weights.mean.shape == weights.log_mean.shape == (2, 4)

    @pytest.mark.parametrize("mask", [MASK, MASK[:1], MASK[1], None], ids=["full", "row", "vector", "none"])
    def test_expands(self, mask: Tensor | None) -> None:
        small = LogDirichlet(torch.randn(1, 4), mask[:1] if mask is not None and mask.dim() > 1 else mask)
        large = small.expand((3, 2))
        value = large.sample()
        assert value.shape == (3, 2, 4)
        assert torch.equal(large.log_prob(value), small.log_prob(value))
        torch.testing.assert_close(kl_divergence(large, large), torch.zeros(3, 2))
        assert large._validate_args == small._validate_args

    def test_draws_lie_in_the_support(self, weights) -> None:
        draws = weights.sample((100,))
        assert log_simplex.check(draws).all()
        assert (draws[..., 1, 2:] == LOG_ZERO).all()

    def test_moments_equal_monte_carlo(self, weights) -> None:
        draws = weights.sample((40_000,)).double()
        for row, present in enumerate(MASK):
            kept = draws[:, row, present]
            error = 5 * kept.std(0) / 200  # five standard errors
            assert ((kept.mean(0) - weights.mean[row, present]).abs() < error).all()
            shares = kept.exp()
            assert ((shares.mean(0) - weights.log_mean[row, present].exp()).abs() < 5 * shares.std(0) / 200).all()
        information = -weights.log_prob(draws)
        assert ((information.mean(0) - weights.entropy()).abs() < 5 * information.std(0) / 200).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_follows_the_concentration(self, dtype: torch.dtype) -> None:
        distribution = LogDirichlet(torch.randn(4, dtype=dtype))
        value = distribution.sample()
        assert {
            value.dtype,
            distribution.log_prob(value).dtype,
            distribution.entropy().dtype,
            distribution.mean.dtype,
        } == {dtype}

    def test_the_divergence_is_registered_for_masked_and_expanded_forms(self, weights) -> None:
        prior = LogDirichlet(torch.zeros(2, 4), MASK)
        expected = dirichlet_kl(weights.log_concentration, torch.zeros(2, 4), MASK)
        assert torch.equal(kl_divergence(weights, prior), expected)
        assert torch.equal(kl_divergence(weights.to_event(1), prior.to_event(1)), expected.sum())
        rows = torch.tensor([True, False])
        assert torch.equal(kl_divergence(weights.mask(rows), prior.mask(rows)), expected * rows)

    def test_the_divergence_is_infinite_where_components_differ(self, weights) -> None:
        plain, whole = (LogDirichlet(torch.randn(2, 4), mask) for mask in (None, torch.ones_like(MASK)))
        assert torch.equal(kl_divergence(plain, whole), kl_divergence(plain, LogDirichlet(whole.log_concentration)))
        for one in (plain, whole):
            for divergence in (kl_divergence(one, weights), kl_divergence(weights, one)):
                assert torch.equal(divergence.isinf(), ~MASK.all(-1))

    def test_validates_values_and_parameters(self, weights) -> None:
        with pytest.raises(ValueError, match="within the support"):
            weights.log_prob(torch.zeros(2, 4))
        with pytest.raises(ValueError, match="log_concentration"):
            LogDirichlet(torch.tensor([0.0, math.nan]))
        loose = LogDirichlet(torch.zeros(2), validate_args=False)
        assert loose.log_prob(torch.zeros(2)).isfinite()


def model(prior: Tensor, _posterior: Tensor) -> None:
    with pyro.plate("texts", 2, dim=-1):
        pyro.sample("weights", LogDirichlet(prior, MASK))


def guide(_prior: Tensor, posterior: Tensor) -> None:
    with pyro.plate("texts", 2, dim=-1):
        pyro.sample("weights", LogDirichlet(posterior, MASK))


class TestInPyro:
    prior, posterior = torch.tensor([0.5, 0.5, -1.0, 0.0]), torch.tensor([1.0, -1.0, 2.0, 0.0])

    def test_mean_field_objective_is_the_divergence(self) -> None:
        loss = TraceMeanField_ELBO().loss(model, guide, self.prior, self.posterior)
        expected = dirichlet_kl(self.posterior, self.prior, MASK).sum()
        assert loss == pytest.approx(expected.item(), rel=1e-5)

    def test_vectorized_particles_average_to_the_divergence(self) -> None:
        num_particles = Trace_ELBO(num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
        expected = dirichlet_kl(self.posterior, self.prior, MASK).sum()
        assert num_particles.loss(model, guide, self.prior, self.posterior) == pytest.approx(expected.item(), abs=0.1)

    def test_handlers(self) -> None:
        masked = pyro.poutine.mask(model, mask=torch.tensor([True, False]))
        trace = pyro.poutine.trace(masked).get_trace(self.prior, self.posterior)
        trace.compute_log_prob()
        site = trace.nodes["weights"]
        expected = LogDirichlet(self.prior, MASK[0]).log_prob(site["value"][0])
        assert site["log_prob_sum"].item() == pytest.approx(expected.item())


class TestLengths:
    def test_is_a_categorical_that_starts_at_one(self) -> None:
        logits = torch.randn(3, 7)
        logits[0, 2] = -torch.inf
        distribution, categorical = Lengths(logits), dist.Categorical(logits=logits)
        values = distribution.enumerate_support()
        assert values.shape == (7, 3) and values.min() == 1 and values.max() == 7
        torch.testing.assert_close(distribution.log_prob(values), categorical.log_prob(values - 1))
        torch.testing.assert_close(distribution.entropy(), categorical.entropy())
        torch.testing.assert_close(distribution.mean, (values.T * distribution.probs).sum(-1))

    def test_draws_follow_the_probabilities(self) -> None:
        distribution = Lengths(torch.tensor([0.5, 0.0, 0.2, 0.3]).log().clamp(min=-1e30))
        draws = distribution.sample((10_000,))
        assert draws.shape == (10_000,) and draws.dtype == torch.long
        share = torch.bincount(draws, minlength=5)[1:] / 10_000
        assert (
            (share - distribution.probs).abs() <= 5 * (distribution.probs * (1 - distribution.probs) / 10_000).sqrt()
        ).all()

    def test_draws_of_a_batch_follow_the_probabilities_of_each(self) -> None:
        certain = torch.tensor([3, 1, 7])
        distribution = Lengths(torch.full((3, 7), -1e30).scatter(1, certain[:, None] - 1, 0.0))
        assert torch.equal(distribution.sample((4,)), certain.expand(4, 3))

    def test_shapes(self) -> None:
        distribution = Lengths(torch.randn(2, 7)).expand((3, 2))
        assert distribution.sample((5,)).shape == (5, 3, 2) and distribution.sample().shape == (3, 2)
        assert distribution.log_prob(torch.tensor(4)).shape == (3, 2)
        assert distribution.log_prob(distribution.sample((5,))).shape == (5, 3, 2)

    @pytest.mark.parametrize("length", [0, 8, -1])
    def test_refuses_other_lengths(self, length: int) -> None:
        with pytest.raises(ValueError, match="within the support"):
            Lengths(torch.zeros(7)).log_prob(torch.tensor(length))


@pytest.mark.compile
def test_objective_is_captured_into_one_graph() -> None:
    """Model, guide, plates and the registered divergence, below Python; draws enter the loss through their gradient."""
    nonstrict_trace = getattr(torch.compiler, "nonstrict_trace", None) or torch._dynamo.nonstrict_trace

    def objective(prior: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
        trace = pyro.poutine.trace(guide).get_trace(prior, posterior)
        replayed = pyro.poutine.trace(pyro.poutine.replay(model, trace)).get_trace(prior, posterior)
        q, p = trace.nodes["weights"], replayed.nodes["weights"]
        monte_carlo = q["fn"].log_prob(q["value"]) - p["fn"].log_prob(p["value"])
        return kl_divergence(q["fn"], p["fn"]).sum(), monte_carlo.sum()

    captured_below = nonstrict_trace(objective)
    prior, posterior = torch.zeros(4), torch.tensor([1.0, -1.0, 40.0, 0.0], requires_grad=True)
    off = {f"validate_{part}": False for part in ("infer", "poutine", "distributions_pyro", "distributions_torch")}
    with pyro.settings.context(**off):
        captured = torch.compile(lambda *x: captured_below(*x), fullgraph=True, backend="aot_eager")(prior, posterior)
        expected, _ = objective(prior, posterior)
    torch.testing.assert_close(captured[0], expected)
    assert captured[1].isfinite()
    gradients = [torch.autograd.grad(x, posterior)[0] for x in (captured[0], expected)]
    torch.testing.assert_close(*gradients)


def test_a_mask_of_another_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), log_concentration \(3,\): give one of the same"):
        LogDirichlet(torch.zeros(3), torch.ones(2, dtype=torch.bool))
