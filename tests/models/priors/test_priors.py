"""Priors: what the shipped ones return, and what a user may hand over in their place."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import Distribution

from pyroformer.models.della import DELLA
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.log_simplex import LogStickBreakingTransform
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.checks import as_prior, check_prior
from pyroformer.models.priors.latents import StandardGaussian
from pyroformer.models.priors.lengths import LengthPrior
from pyroformer.models.priors.roles import LatentPrior, SequencePrior, VectorPrior, WeightPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.priors.weights import BoundedDirichletProcess, GammaDirichletProcess, SymmetricDirichlet
from pyroformer.models.transformer.config import TransformerConfig

MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


class TestBoundedDirichletProcess:
    def test_total_concentration_grows_with_the_text(self) -> None:
        distribution: Any = BoundedDirichletProcess(concentration=2.0, delta=0.5)(MASK)
        assert distribution.batch_shape == (2,) and distribution.event_shape == (4,)
        total = torch.where(MASK, distribution.log_concentration.exp(), 0.0).sum(-1)
        torch.testing.assert_close(total, torch.tensor([2.0 + 3 * 0.5, 2.0 + 1 * 0.5]))

    def test_kappa_draws_share_what_one_had(self) -> None:
        sequential_batches: Any = BoundedDirichletProcess(delta=0.5)(MASK)
        thrice: Any = BoundedDirichletProcess(delta=0.5, samples_per_component=3)(MASK.repeat_interleave(3, -1))
        torch.testing.assert_close(
            thrice.log_concentration[:, ::3].exp() * 3, sequential_batches.log_concentration.exp()
        )

    def test_padding_changes_nothing(self) -> None:
        prior = BoundedDirichletProcess()
        padded, alone = prior(MASK[1:]), prior(MASK[1:, :2])
        value = alone.sample()
        longer = torch.nn.functional.pad(value, (0, 2), value=-1e30)
        torch.testing.assert_close(padded.log_prob(longer), alone.log_prob(value))

    def test_without_components(self) -> None:
        distribution = BoundedDirichletProcess()(torch.zeros(3, dtype=torch.bool))
        with pyro.validation_enabled(False):  # nothing sums to one here, and nothing should be NaN
            assert distribution.log_prob(distribution.rsample()) == 0

    def test_follows_the_module(self) -> None:
        distribution: Any = BoundedDirichletProcess().double()(MASK)
        assert distribution.sample().dtype == torch.float64
        distribution = BoundedDirichletProcess().half()(MASK)
        assert distribution.sample().dtype == torch.float32

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"concentration": 0.0}, "concentration is 0.0: give a positive, finite number"),
            ({"concentration": math.nan}, "concentration is nan: give a positive, finite number"),
            ({"delta": -0.1}, "delta is -0.1: give a finite number of at least 0"),
            ({"delta": float("inf")}, "delta is inf: give a finite number of at least 0"),
            ({"concentration": float("inf")}, "concentration is inf: give a positive, finite number"),
            ({"samples_per_component": 0}, "samples_per_component is 0: give a whole number of at least 1"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            BoundedDirichletProcess(**arguments)


class TestGaussianBase:
    def test_equals_torch(self) -> None:
        mean, variance = torch.randn(3), torch.rand(3) + 0.1
        distribution = GaussianVectorPrior(3, mean, variance)()
        value = torch.randn(5, 3)
        expected = torch.distributions.Normal(mean, variance.sqrt()).log_prob(value).sum(-1)
        torch.testing.assert_close(distribution.log_prob(value), expected)
        torch.testing.assert_close(GaussianVectorPrior(3, mean, variance).variance, variance)

    def test_learns_only_when_asked(self) -> None:
        assert not list(GaussianVectorPrior(3).parameters())
        base = GaussianVectorPrior(3, learnable=True)
        base().log_prob(torch.randn(3)).backward()
        assert all((p.grad != 0).all() for p in base.parameters()) and len(list(base.parameters())) == 2

    def test_is_float32_at_least(self) -> None:
        assert GaussianVectorPrior(3).bfloat16()().sample().dtype == torch.float32

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"width": 0}, "width is 0: give a whole number of at least 1"),
            ({"width": 2, "variance": 0.0}, "variance is 0.0: give positive numbers"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            GaussianVectorPrior(**arguments)


class TestLengthPrior:
    def test_is_a_smoothed_histogram(self) -> None:
        distribution: Any = LengthPrior.fit([2, 2, 2, 5], max_length=6, smoothing=0.5)()
        expected = torch.tensor([0.5, 3.5, 0.5, 0.5, 1.5, 0.5]) / 7
        torch.testing.assert_close(distribution.probs, expected)
        torch.testing.assert_close(distribution.log_prob(torch.arange(1, 7)).exp().sum(), torch.tensor(1.0))

    def test_survives_its_state(self) -> None:
        fitted, fresh = LengthPrior.fit(torch.tensor([2, 2, 5]), max_length=6), LengthPrior(6)
        fresh.load_state_dict(fitted.state_dict())
        length = torch.arange(1, 7)
        assert torch.equal(fresh().log_prob(length), fitted().log_prob(length))

    @pytest.mark.parametrize(
        ("lengths", "smoothing", "message"),
        [
            ([3, 7], 1.0, "a length is 7: give numbers from 1 to the max_length of 6"),
            ([0], 1.0, "a length is 0: give numbers from 1 to the max_length of 6"),
            ([3], 0.0, "smoothing is 0.0: give a positive number"),
        ],
    )
    def test_refuses(self, lengths: list[int], smoothing: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LengthPrior.fit(lengths, 6, smoothing)

    @pytest.mark.parametrize(
        ("probabilities", "message"),
        [
            ([0.5, 0.5], r"probabilities have shape \(2,\): give 3"),
            ([0.5, -1.0, 0.5], "a probability is -1: give finite numbers of at least 0"),
            ([0.5, math.nan, 0.5], "a probability is nan: give finite numbers of at least 0"),
            ([0.0, 0.0, 0.0], "all probabilities are 0"),
        ],
    )
    def test_refuses_what_are_no_probabilities(self, probabilities: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LengthPrior(3, torch.tensor(probabilities))

    def test_refuses_no_window(self) -> None:
        with pytest.raises(ValueError, match="max_length is 0: give a whole number of at least 1"):
            LengthPrior(0)


@pytest.mark.parametrize(
    ("role", "arguments"),
    [(WeightPrior, (MASK,)), (VectorPrior, ()), (SequencePrior, (MASK,)), (LatentPrior, (torch.zeros(2, 3), 0))],
)
def test_roles_say_what_to_write(role: type[nn.Module], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NotImplementedError, match=rf"{role.__name__} is a {role.__name__}: write forward\("):
        role()(*arguments)


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Laplace(torch.zeros(3), 1.0).to_event(1),
        dist.StudentT(4.0, torch.zeros(3), torch.ones(3)).to_event(1),
        dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
        dist.Normal(0.0, 1.0).expand([3]).to_event(1),
        dist.TransformedDistribution(
            dist.Normal(torch.zeros(3), torch.ones(3)), [dist.transforms.AffineTransform(torch.ones(3), 2.0)]
        ).to_event(1),
        dist.MixtureSameFamily(
            dist.Categorical(logits=torch.zeros(2)), dist.Normal(torch.randn(2, 3), torch.ones(2, 3)).to_event(1)
        ),
    ],
    ids=lambda distribution: type(distribution).__name__,
)
class TestBareDistribution:
    def test_says_the_same_in_the_models_dtype(self, distribution: Any) -> None:
        prior = as_prior(distribution, VectorPrior)
        value = torch.randn(5, 3)
        torch.testing.assert_close(prior().log_prob(value), distribution.log_prob(value))
        check_prior(prior, event_shape=(3,))
        double = prior.double()()
        assert double.sample().dtype == torch.float64
        torch.testing.assert_close(double.log_prob(value.double()).float(), distribution.log_prob(value))

    def test_survives_its_state(self, distribution: Any) -> None:
        prior = as_prior(distribution, VectorPrior)
        value = torch.randn(5, 3)
        before = prior().log_prob(value)
        state = {name: value.clone() for name, value in prior.state_dict().items()}
        for buffer in prior.buffers():
            buffer.mul_(2)
        assert not torch.equal(prior().log_prob(value), before)
        prior.load_state_dict(state)
        assert torch.equal(prior().log_prob(value), before)

    def test_validation_follows_the_setting_in_force(self, distribution: Any) -> None:
        prior = as_prior(distribution, VectorPrior)
        with pyro.validation_enabled(False):
            assert prior().log_prob(torch.full((3,), math.nan)).isnan()
        with pytest.raises(ValueError, match="within the support"):
            prior().log_prob(torch.full((3,), math.nan))


class TestCoercion:
    def test_functions(self) -> None:
        def tilted(mask: Tensor) -> Distribution:
            return LogDirichlet(-torch.arange(mask.shape[-1]).float().expand(mask.shape), mask)

        prior = as_prior(tilted, WeightPrior)
        check_prior(prior, MASK)
        assert "tilted" in repr(prior)

    def test_modules_stay_themselves(self) -> None:
        prior = GaussianVectorPrior(3)
        assert as_prior(prior, VectorPrior) is prior

    def test_refuses_what_trains_but_would_not(self) -> None:
        distribution = dist.Normal(torch.zeros(3, requires_grad=True), 1.0).to_event(1)
        with pytest.raises(ValueError, match="base_measure: a bare distribution is not trained: write a module"):
            as_prior(distribution, VectorPrior, "base_measure")

    @pytest.mark.parametrize("prior", [3, "laplace"])
    def test_refuses_other_things(self, prior: object) -> None:
        with pytest.raises(ValueError, match="base_measure .*: give a VectorPrior, a distribution, or a function"):
            as_prior(prior, VectorPrior, "base_measure")


@pytest.mark.parametrize("prior", [BoundedDirichletProcess(delta=0.5), GammaDirichletProcess()])
def test_a_model_refuses_weights_of_other_components_than_its_own(prior: WeightPrior) -> None:
    config = TransformerConfig(vocabulary=9, max_length=4, width=8, layers=1, heads=2)
    with pytest.raises(ValueError, match="samples_per_component is 2, but 1 of weight_prior: give both the same"):
        NVAE(config, weight_prior=prior, samples_per_component=2)


class Heavy(PyroModule):
    """A user's prior: another family, with a hyper-prior of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.df = PyroSample(dist.Gamma(4.0, 1.0))

    def forward(self) -> Distribution:
        distribution: Distribution = dist.StudentT(
            2.0 + self.df, torch.zeros(self.width), torch.ones(self.width)
        ).to_event(1)
        return distribution


class TestCheck:
    def test_passes_the_shipped_and_a_users(self) -> None:
        state = torch.get_rng_state()
        check_prior(BoundedDirichletProcess(samples_per_component=2), MASK, name="weight_prior")
        check_prior(GaussianVectorPrior(3), event_shape=(3,), name="base_measure")
        check_prior(Heavy(3), event_shape=(3,), name="base_measure")
        above = as_prior(lambda summary, layer: dist.Normal(summary, 1.0).to_event(1), LatentPrior)
        check_prior(above, torch.zeros(2, 3), 0, event_shape=(3,))
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(
        ("distribution", "message"),
        [
            (lambda mask: mask.float(), "weight_prior <lambda> returned a Tensor: return a torch or Pyro distribution"),
            (
                lambda mask: LogDirichlet(torch.zeros(2, 3)),
                r"event shape \(3,\), expected \(4,\): return a distribution over",
            ),
            (lambda mask: LogDirichlet(torch.zeros(3, 4)), r"batch shape \(3,\), expected \(2,\)"),
            (lambda mask: LogDirichlet(torch.zeros(5, 2, 4)), r"batch shape \(5, 2\), expected \(2,\)"),
            (lambda mask: dist.Dirichlet(torch.ones(2, 4)), "values whose exponentials do not sum to one"),
            (lambda mask: LogDirichlet(torch.zeros(4)), "gave weight to components that its mask excludes"),
            (
                lambda mask: dist.TransformedDistribution(
                    dist.Normal(torch.zeros(mask.shape)[..., 1:], 1.5).to_event(1), [LogStickBreakingTransform(mask)]
                ),
                r"gives weights the log density -\S+, and -\S+ with padding: leave components that do not exist",
            ),
        ],
    )
    def test_refuses_weights(self, distribution: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_prior(as_prior(distribution, WeightPrior), MASK, name="weight_prior")

    @pytest.mark.parametrize(
        ("distribution", "message"),
        [
            (
                dist.Normal(torch.zeros(3), 1.0),
                r"base_measure Normal gave event shape \(\), expected \(3,\).*to_event\(1\)",
            ),
            (dist.HalfNormal(torch.ones(3)).to_event(1), "has the support .*: give one of all real numbers"),
            (dist.Uniform(-torch.ones(3), 1.0).to_event(1), "has the support .*: give one of all real numbers"),
            (dist.Normal(torch.full((3,), math.inf), 1.0).to_event(1), "drew values that are not finite"),
        ],
    )
    def test_refuses_vectors(self, distribution: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_prior(as_prior(distribution, VectorPrior), event_shape=(3,), name="base_measure")


def test_a_module_that_is_no_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight_prior Linear fails when it is called with a mask \(.*\): return a"):
        check_prior(torch.nn.Linear(2, 2), torch.ones(1, 2, dtype=torch.bool), name="weight_prior")


CLASSES: dict[str, Callable[[TransformerConfig], object]] = {
    "weight_prior": lambda config: NVAE(config, weight_prior=SymmetricDirichlet),  # type: ignore[arg-type]
    "base_measure": lambda config: NVAE(config, base_measure=GaussianVectorPrior),
    "latent_prior": lambda config: DELLA(config, latent_prior=StandardGaussian),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_in_place_of_a_prior_is_refused(name: str) -> None:
    config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
    with pytest.raises(
        ValueError, match=rf"^{name} is the class (\w+): give an instance, as \1\(\.\.\.\) makes one\.$"
    ):
        CLASSES[name](config)
