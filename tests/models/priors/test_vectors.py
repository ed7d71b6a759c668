"""Base measures: mixtures against formulas by hand, and what a model and a guide make of any of them."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample
from scipy import stats

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.hyperpriors import Hierarchical
from pyroformer.models.priors.roles import BaseMeasure, VectorPrior
from pyroformer.models.priors.sequence.autoregressive import IndependentVectorPrior
from pyroformer.models.priors.vectors import (
    GaussianVectorPrior,
    KernelVectorPrior,
    MixtureVectorPrior,
    check_own_component,
    over_components,
    own_component,
)
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=4, layers=1, heads=2)
BATCH = Batch.pad([[5, 6, 7, EOS], [9, EOS]])


def trained(components: int = 3, width: int = 4) -> MixtureVectorPrior:
    """A mixture away from its start."""
    prior = MixtureVectorPrior(width, components)
    for parameter in prior.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return prior


class TestMixtureBase:
    def test_density_is_the_sum_over_components(self) -> None:
        prior, z = trained(), torch.randn(7, 4)
        weights, variance = prior.logits.softmax(0), (5 * torch.tanh(prior.log_variance / 5)).exp()
        each = torch.distributions.Normal(prior.mean, variance.sqrt()).log_prob(z[:, None]).sum(-1)
        torch.testing.assert_close(prior().log_prob(z), (weights.log() + each).logsumexp(-1))

    def test_moments_are_those_of_its_draws(self) -> None:
        distribution: Any = trained()()
        draws = distribution.sample((100_000,))
        torch.testing.assert_close(distribution.mean.detach(), draws.mean(0), atol=0.03, rtol=0.0)
        torch.testing.assert_close(distribution.variance.detach(), draws.var(0), atol=0.02, rtol=0.03)

    def test_starts_around_a_standard_normal_with_components_that_differ(self) -> None:
        prior, z = MixtureVectorPrior(4), torch.randn(1000, 4)
        standard = GaussianVectorPrior(4)().log_prob(z)
        assert (prior().log_prob(z) - standard).abs().mean() < 0.1
        assert len(prior.mean.unique(dim=0)) == 16

    def test_every_parameter_learns(self) -> None:
        prior = trained()
        prior().log_prob(torch.randn(5, 4)).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.all() for parameter in prior.parameters())

    def test_a_component_can_neither_vanish_nor_explode(self) -> None:
        prior = MixtureVectorPrior(2, components=1)
        prior.log_variance.data = torch.tensor([[1e4, -1e4]])
        distribution: Any = prior()
        torch.testing.assert_close(distribution.variance.detach().log(), torch.tensor([5.0, -5.0]))

    def test_is_float32_at_least(self) -> None:
        assert MixtureVectorPrior(3).bfloat16()().sample().dtype == torch.float32
        assert MixtureVectorPrior(3).double()().sample().dtype == torch.float64

    @pytest.mark.parametrize("name", ["width", "components"])
    def test_refuses(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} is 0: give a whole number of at least 1"):
            MixtureVectorPrior(**{"width": 2, name: 0})


class TestFitted:
    """To points of a grid, whose dimensions do not correlate: scipy has full covariances."""

    points = torch.cartesian_prod(torch.tensor([-1.0, 0.0, 4.0]), torch.tensor([0.1, 0.3]), torch.arange(4.0))

    @pytest.mark.parametrize("width", [1, 3])
    def test_kernels_are_those_of_scipy(self, width: int) -> None:
        points, z = self.points.double()[:, :width], torch.randn(7, width, dtype=torch.double)
        expected = stats.gaussian_kde(points.T).logpdf(z.T)
        found = KernelVectorPrior.fit(points.float())
        torch.testing.assert_close(found().log_prob(z.float()), torch.tensor(expected).float(), rtol=1e-4, atol=1e-4)

    def test_a_gaussian_has_the_moments(self) -> None:
        prior = GaussianVectorPrior.fit(self.points)
        torch.testing.assert_close(prior.mean, self.points.mean(0))
        torch.testing.assert_close(prior.variance, self.points.var(0))


class TestInAModel:
    def test_the_guide_gives_the_priors_own_component_its_moments(self) -> None:
        prior = trained()
        posterior = NVAEGuide(NVAE(CONFIG, base_measure=prior)).encode(BATCH)
        distribution: Any = prior()
        torch.testing.assert_close(posterior.mean[:, 0], distribution.mean.expand(2, 4))
        torch.testing.assert_close(posterior.variance[:, 0], distribution.variance.expand(2, 4))

    def test_the_estimated_divergence_of_a_mixture_of_equals_is_that_of_one_gaussian(self) -> None:
        prior = MixtureVectorPrior(4, components=3)
        prior.mean.data.zero_()
        model = NVAE(CONFIG, base_measure=prior)
        guide, many = NVAEGuide(model), Batch.pad([[5, 6, 7, EOS]] * 2000)  # a draw for each
        estimates = ELBO().terms(model, guide, many).kl["vectors"].detach()
        model.base_measure = GaussianVectorPrior(4)
        exact = ELBO().terms(model, guide, many).kl["vectors"][0]
        assert estimates.std() > 0.1, "with no closed form it is an estimate"
        assert (estimates.mean() - exact).abs() < 4 * estimates.std() / math.sqrt(2000)

    @pytest.mark.parametrize("wrong", [MixtureVectorPrior(3), dist.Laplace(torch.zeros(3), 1.0).to_event(1)])
    def test_refuses_another_width(self, wrong: Any) -> None:
        with pytest.raises(
            ValueError, match=r"base_measure \w+ gave event shape \(3,\), expected \(4,\): return a distribution"
        ):
            NVAE(CONFIG, base_measure=wrong)


class Heavy(VectorPrior, Hierarchical):
    """Without a finite variance at one in seven draws of the degrees of freedom, or at none."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least, self.df = least, PyroSample(dist.Gamma(4.0, 1.0))

    def forward(self) -> Any:
        return dist.StudentT(self.least + self.df, torch.zeros(4), 1.0).to_event(1)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            dist.Cauchy(torch.zeros(4), 1.0).to_event(1),
            "Independent has no finite, positive variance, which the posterior",
        ),
        (
            dist.StudentT(1.5, torch.zeros(4), 1.0).to_event(1),
            "Independent has no finite, positive variance, which the",
        ),
        (dist.Delta(torch.zeros(4)).to_event(1), "Independent has no finite, positive variance, which the posterior"),
        (Heavy(0.0), "Heavy has no finite, positive variance at some draws of its hyper-priors, which the posterior"),
        (
            IndependentVectorPrior(GaussianVectorPrior(4), Heavy(0.0)),
            "IndependentVectorPrior has no finite, positive variance at some draws of its hyper-priors, which the",
        ),
    ],
)
def test_an_nvae_needs_a_finite_variance(prior: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"base_measure {message}.*: define component\(\)"):
        NVAE(CONFIG, base_measure=prior)
    NVAE(CONFIG, base_measure=Heavy(2.0))


def test_checking_a_prior_draws_nothing_from_the_generator() -> None:
    before = torch.get_rng_state()
    check_own_component(Heavy(2.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_vectors_that_do_not_exist_have_no_density() -> None:
    mask, z = torch.tensor([[True, True, True], [True, True, False]]), torch.randn(2, 3, 4)
    prior = trained()
    log_prob = over_components(prior, mask).log_prob(z)
    torch.testing.assert_close(log_prob, torch.where(mask, prior().log_prob(z), 0.0).sum(-1))


def test_the_own_component_of_a_law_over_one_vector_is_that_law() -> None:
    prior = trained()
    distribution: Any = own_component(prior)
    assert torch.equal(distribution.log_prob(torch.zeros(4)), prior().log_prob(torch.zeros(4)))


def test_a_role_says_what_to_write() -> None:
    with pytest.raises(NotImplementedError, match=r"BaseMeasure is a BaseMeasure: write component\("):
        BaseMeasure().component()


def test_a_base_measure_says_of_how_many_vectors_it_is() -> None:
    class Neither(BaseMeasure):
        def forward(self) -> Any:
            return dist.Normal(torch.zeros(4), 1.0).to_event(1)

    with pytest.raises(
        ValueError, match="base_measure Neither is neither .*: derive it from VectorPrior or SequencePrior"
    ):
        NVAE(CONFIG, base_measure=Neither())
