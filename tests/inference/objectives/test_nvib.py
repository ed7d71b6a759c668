r"""The paper's regularizer: equal to its definition to 100 digits, and not a bound."""

import math
from typing import Any

import mpmath as mp
import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Dirichlet, Normal, kl_divergence

from pyroformer.inference.objectives.nvib import NVIB, vector_regularizer, weight_regularizer
from pyroformer.inference.objectives.registry import describe_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.models.base import Model
from pyroformer.models.della import DELLA
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.log_dirichlet_math import dirichlet_kl, sample_log_dirichlet
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.weights import GEM, GammaDirichletProcess, conditional_concentration
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.vae import VAE

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-11}


def textbook(log_alpha0: float, prior_alpha0: float, components: float) -> tuple[mp.mpf, mp.mpf]:
    """Equation (5) and its derivative by log alpha_0, with 300 digits."""
    with mp.workdps(300):
        q, p, k = mp.exp(mp.mpf(log_alpha0)), mp.mpf(prior_alpha0), mp.mpf(components)
        value = mp.loggamma(q) - mp.loggamma(p) + (q - p) * (mp.digamma(q / k) - mp.digamma(q))
        value += k * (mp.loggamma(p / k) - mp.loggamma(q / k))
        return value, q * (q - p) * (mp.polygamma(1, q / k) / k - mp.polygamma(1, q))


class TestWeights:
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
    @pytest.mark.parametrize("log_alpha0", [-30.0, -3.0, 0.0, 2.0, 6.5, 11.3, 19.4, 35.4, 51.4, 100.0, 200.0])
    @pytest.mark.parametrize("length", [1, 30])
    def test_equals_a_100_digit_reference(self, log_alpha0: float, length: int, dtype: torch.dtype) -> None:
        x = torch.tensor(log_alpha0, dtype=dtype, requires_grad=True)
        value = weight_regularizer(x, math.log(1 + 0.25 * length), length + 1)
        (slope,) = torch.autograd.grad(value, x)
        for result, truth in zip((value, slope), textbook(x.item(), 1 + 0.25 * length, length + 1), strict=True):
            assert abs(mp.mpf(result.item()) - truth) < TOLERANCE[dtype] * (1 + abs(truth))

    @settings(max_examples=50, deadline=None)
    @given(st.floats(-30, 200), st.floats(1e-3, 1e3), st.integers(1, 600))
    def test_is_the_divergence_of_symmetric_dirichlets(self, log_alpha0: float, prior: float, components: int) -> None:
        log_alpha0, prior = torch.tensor([log_alpha0, prior], dtype=torch.float64)
        a = (log_alpha0 - math.log(components)).expand(components)
        b = (prior.log() - math.log(components)).expand(components)
        value = weight_regularizer(log_alpha0, prior.log(), components)
        torch.testing.assert_close(value, dirichlet_kl(a, b), rtol=1e-10, atol=1e-10)
        assert value > -1e-10

    def test_equals_torch_in_a_batch(self) -> None:
        components = torch.tensor([2, 5, 9])
        alpha0, prior = torch.tensor([3.0, 1.0, 30.0]).double(), torch.tensor([1.3, 2.0, 3.4]).double()
        expected = [
            kl_divergence(Dirichlet((a / k).expand(k)), Dirichlet((p / k).expand(k)))
            for a, p, k in zip(alpha0, prior, components.tolist(), strict=True)
        ]
        torch.testing.assert_close(weight_regularizer(alpha0.log(), prior.log(), components), torch.stack(expected))


class TestVectors:
    def arguments(self, *batch: int) -> dict[str, Tensor]:
        return {
            "log_alpha": torch.randn(*batch, 5),
            "mean": torch.randn(*batch, 5, 3),
            "variance": torch.rand(*batch, 5, 3) + 0.1,
            "prior_mean": torch.randn(3),
            "prior_variance": torch.rand(3) + 0.1,
        }

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_equals_torch_weighted_by_expected_counts(self, reduction: str) -> None:
        x = self.arguments(2)
        each = kl_divergence(
            Normal(x["mean"], x["variance"].sqrt()), Normal(x["prior_mean"], x["prior_variance"].sqrt())
        )
        each = each.sum(-1) if reduction == "sum" else each.mean(-1)
        expected = 7 * (x["log_alpha"].softmax(-1) * each).sum(-1)
        torch.testing.assert_close(vector_regularizer(**x, components=7, reduction=reduction), expected)

    def test_counts_the_components_that_exist(self) -> None:
        x = self.arguments(2)
        assert torch.equal(vector_regularizer(**x), vector_regularizer(**x, components=5))
        mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
        value = vector_regularizer(**x, mask=mask)
        short = {name: t[1, :3] if t.dim() > 1 else t for name, t in x.items()}
        torch.testing.assert_close(value[1], vector_regularizer(**short))
        x["mean"][1, 3:], x["log_alpha"][1, 3:] = math.nan, math.inf
        x["mean"].requires_grad_()
        again = vector_regularizer(**x, mask=mask)
        assert torch.equal(again, value)
        assert torch.autograd.grad(again.sum(), x["mean"])[0][:, :3].isfinite().all()

    def test_isotropic_variances(self) -> None:
        x = self.arguments(2)
        x["variance"] = x["variance"][..., :1]
        full = vector_regularizer(**{**x, "variance": x["variance"].expand(2, 5, 3)})
        torch.testing.assert_close(vector_regularizer(**x), full)
        mean = vector_regularizer(**x, reduction="mean")
        torch.testing.assert_close(mean, full / 3)

    def test_finite_for_extreme_concentrations(self) -> None:
        x = self.arguments()
        x["log_alpha"] = torch.tensor([-60.0, 200.0, 0.0, 199.0, -1e30]).requires_grad_()
        value = vector_regularizer(**x)
        assert value.isfinite() and torch.autograd.grad(value, x["log_alpha"])[0].isfinite().all()

    def test_refuses_another_reduction(self) -> None:
        reduction: Any = "max"
        with pytest.raises((ValueError, TypeError), match="max"):  # under the tests the annotation speaks first
            vector_regularizer(**self.arguments(), reduction=reduction)


def test_concentration_grows_with_the_length() -> None:
    total = conditional_concentration(torch.tensor(2.0), 0.5, torch.tensor([0, 1, 4]))
    assert total.tolist() == [2.0, 2.5, 4.0]


def test_is_not_a_bound() -> None:
    """Subtracted from the expected log likelihood, (5) + (6) exceeds log p(x); the exact divergence never does.

    Two components, one query. The posterior gives the second a tiny weight and a precise vector far away: attention
    finds it through its key in nearly every draw, and (6) charges for it in proportion to its weight.
    """
    query, seen, noise = torch.tensor([8.0, 0.0]).double(), 2.5, 0.01
    prior = torch.full((2,), 0.65, dtype=torch.float64).log()

    def log_likelihood(log_weights: Tensor, vectors: Tensor) -> Tensor:
        share = (log_weights + vectors @ query - vectors.square().sum(-1) / 2).softmax(-1)
        sight = Normal((share * vectors[..., 1]).sum(-1), noise).log_prob(torch.tensor(seen))
        blunder = Normal(0.0, 2.0).log_prob(torch.tensor(seen))  # a floor, so that rare draws do not rule the mean
        return torch.logaddexp(sight + math.log(0.999), blunder + math.log(0.001))

    samples = 100_000
    weights = sample_log_dirichlet(prior.expand(samples, 2))
    evidence = log_likelihood(weights, torch.randn(samples, 2, 2, dtype=torch.float64)).exp()
    error = 5 * evidence.std() / math.sqrt(samples)

    log_alpha = torch.tensor([1.0, 0.05]).double().log()
    mean, scale = torch.tensor([[0.0, 0.0], [5.0, 2.5]]).double(), torch.tensor([[1.0, 1.0], [0.3, 0.01]]).double()
    weights = sample_log_dirichlet(log_alpha.expand(samples, 2))
    fits = log_likelihood(weights, mean + scale * torch.randn(samples, 2, 2, dtype=torch.float64))
    fit, fit_error = fits.mean(), 5 * fits.std() / math.sqrt(samples)

    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    regularizer = weight_regularizer(log_alpha.logsumexp(-1), math.log(1.3), 2)
    regularizer += vector_regularizer(log_alpha, mean, scale.square(), zero, one)
    exact = dirichlet_kl(log_alpha, prior) + kl_divergence(Normal(mean, scale), Normal(0.0, 1.0)).sum()
    assert fit - fit_error - regularizer > (evidence.mean() + error).log()
    assert fit + fit_error - exact < (evidence.mean() - error).log()


@pytest.mark.compile
def test_compiles_into_one_graph() -> None:
    def both(log_alpha: Tensor, mean: Tensor, mask: Tensor) -> Tensor:
        components = mask.sum(-1)
        prior = conditional_concentration(1.0, 0.3, components - 1)
        total = torch.where(mask, log_alpha, -1e30).logsumexp(-1)
        vectors = vector_regularizer(log_alpha, mean, mean.square() + 0.1, mean.new_zeros(3), mean.new_ones(3), mask)
        return weight_regularizer(total, prior.log(), components) + vectors

    arguments = torch.randn(2, 5), torch.randn(2, 5, 3), torch.tensor([[True] * 5, [True, True, True, False, False]])
    torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="aot_eager")(*arguments), both(*arguments))


def sites(weights: Any) -> dict[str, Any]:
    """Sites of two texts of two tokens, with these weights."""
    vectors = pyro.distributions.Normal(torch.zeros(2, 3, 4), 1.0).to_event(2)
    return {"length": {"value": torch.tensor([2, 2])}, "weights": {"fn": weights}, "vectors": {"fn": vectors}}


@pytest.mark.parametrize("side", [0, 1])
def test_weights_on_both_sides_are_dirichlet_and_need_no_mask(side: int) -> None:
    log_alpha, kl, every = torch.randn(2, 3), {"vectors": torch.zeros(2)}, torch.ones(2, 3, dtype=torch.bool)
    pair = [sites(LogDirichlet(log_alpha * factor, every)) for factor in (1, 2)]
    expected = NVIB().penalties(kl, *pair), NVIB().counts(*pair)
    pair[side] = sites(LogDirichlet(log_alpha * (side + 1)))
    torch.testing.assert_close((NVIB().penalties(kl, *pair), NVIB().counts(*pair)), expected)
    pair[side] = sites(GEM(1.0)(every))
    with pytest.raises(
        ValueError, match="the nvib objective needs Dirichlet weights, not LogStickBreaking: take the E"
    ):
        NVIB().penalties(kl, *pair)
    with pytest.raises(ValueError, match="the nvib objective needs an NVAE: the model has no site 'vectors'"):
        NVIB().penalties(kl, {name: site for name, site in pair[0].items() if name != "vectors"}, pair[1])


def test_half_precision_is_computed_in_float32() -> None:
    x = {name: value.bfloat16() for name, value in TestVectors().arguments(2).items()}
    expected = vector_regularizer(**{name: value.float() for name, value in x.items()})
    torch.testing.assert_close(vector_regularizer(**x), expected)
    total = x["log_alpha"].logsumexp(-1)
    torch.testing.assert_close(weight_regularizer(total, 0.5, 5), weight_regularizer(total.float(), 0.5, 5))


def test_a_check_draws_nothing_from_the_generator() -> None:
    model = NVAE(
        TransformerConfig(vocabulary=20, max_length=8, width=16, heads=2), weight_prior=GammaDirichletProcess()
    )
    before = torch.get_rng_state()
    described = describe_objective(model, TrainingOptions(objective="nvib", num_particles=2))
    assert torch.equal(torch.get_rng_state(), before) and described["num_particles"] == 2
    assert NVIB.remarks(described) == []


@pytest.mark.parametrize(
    ("cls", "latents"), [(LanguageModel, "none"), (VAE, "vectors"), (DELLA, "z_1, z_2")], ids=["lm", "vae", "della"]
)
def test_is_refused_without_a_mixture(cls: type[Model], latents: str) -> None:
    model = cls(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=2, heads=2))
    with pytest.raises(
        ValueError, match=f"about weights and vectors, and the latents of {cls.__name__} are {latents}:"
    ):
        describe_objective(model, TrainingOptions(objective="nvib"))
