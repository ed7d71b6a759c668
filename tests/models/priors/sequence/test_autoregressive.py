"""Priors over all vectors of a text: densities against integrals and the chain rule, draws against densities."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Bool
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.registry import describe_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.roles import SequencePrior, VectorPrior
from pyroformer.models.priors.sequence.autoregressive import AutoregressiveVectorPrior, IndependentVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior, MixtureVectorPrior, over_components
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=4, layers=1, heads=2)
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


def trained(width: int = 4, scale: float = 0.5, **options: Any) -> AutoregressiveVectorPrior:
    """A prior away from its start."""
    prior = AutoregressiveVectorPrior(width, **{"model_width": 8, "heads": 2, "layers": 1} | options)
    for parameter in prior.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return prior.eval()


class TestAutoregressiveBase:
    @pytest.mark.parametrize("samples_per_component", [0, 1, 2])
    def test_at_the_start_it_is_the_standard_gaussian(self, samples_per_component: int) -> None:
        z = torch.randn(2, 4, 4)
        expected = over_components(GaussianVectorPrior(4), MASK).log_prob(z)
        torch.testing.assert_close(
            AutoregressiveVectorPrior(4, samples_per_component=samples_per_component)(MASK).log_prob(z),
            expected,
            atol=1e-5,
            rtol=0.0,
        )

    def test_it_knows_how_many_vectors_are_to_come(self) -> None:
        prior, z = trained(), torch.randn(1, 4)
        short: Any = prior.conditional(z, torch.tensor(1))
        long: Any = prior.conditional(z, torch.tensor(9))
        assert not torch.allclose(short.mean, long.mean)

    def test_the_priors_own_components_say_nothing_of_the_text(self) -> None:
        prior = trained(samples_per_component=2, first=GaussianVectorPrior(4, mean=3.0, variance=0.25))
        z, other = torch.randn(4, 4), torch.randn(4, 4)
        other[2:] = z[2:]
        own = prior.component().log_prob
        distribution = prior(torch.ones(4, dtype=torch.bool))
        expected = (own(other[:2]) - own(z[:2])).sum()
        torch.testing.assert_close(distribution.log_prob(other) - distribution.log_prob(z), expected)
        assert (distribution.sample((500,))[:, :2].mean() - 3).abs() < 0.1

    def test_more_particles_and_an_expanded_batch_give_the_same(self) -> None:
        distribution, z = trained()(MASK), torch.randn(5, 2, 4, 4)
        expanded = distribution.expand((5, 2))
        assert expanded.batch_shape == (5, 2) and expanded.sample().shape == z.shape
        for density in (expanded.log_prob(z), distribution.log_prob(z)):
            torch.testing.assert_close(density, torch.stack([distribution.log_prob(each) for each in z]))

    def test_what_is_absent_is_drawn_as_zero_and_read_by_no_density(self) -> None:
        prior, z = trained(), torch.randn(2, 4, 4)
        assert not prior(MASK).sample()[~MASK].any()
        alone = prior(MASK[1:, :2]).log_prob(z[1:, :2])  # with as many vectors to come
        torch.testing.assert_close(prior(MASK).log_prob(z)[1:], alone)

    def test_components_start_with_equal_weights_and_means_that_differ(self) -> None:
        start: Any = AutoregressiveVectorPrior(4, heads=2, components=3).conditional(torch.zeros(1, 4), torch.tensor(1))
        assert start.mixture_distribution.probs.tolist() == [pytest.approx([1 / 3] * 3)]
        means = start.component_distribution.mean[0]
        assert (torch.pdist(means) > 0.01).all() and means.abs().max() < 1

    def test_learns_what_follows_what(self) -> None:
        """Vectors that walk: each is nine tenths of the last. Alone, every one of them is standard normal."""
        torch.manual_seed(0)
        steps = torch.randn(256, 6, 2)
        z = steps.clone()
        for i in range(1, 6):
            z[:, i] = 0.9 * z[:, i - 1] + math.sqrt(1 - 0.81) * steps[:, i]
        mask = torch.ones(256, 6, dtype=torch.bool)
        prior = AutoregressiveVectorPrior(2, model_width=16, heads=2, layers=1, samples_per_component=0)
        best_without_order = over_components(GaussianVectorPrior(2), mask).log_prob(z).mean()
        optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = -prior(mask).log_prob(z).mean()
            loss.backward()
            optimizer.step()
        assert -loss > best_without_order + 3  # the best there is gains 8.3 nats

    def test_is_float32_at_least(self) -> None:
        assert trained().bfloat16()(MASK).sample().dtype == torch.float32
        assert trained().double()(MASK).sample().dtype == torch.float64
        rounded: Any = trained().bfloat16().conditional(torch.randn(3, 4), torch.tensor(3))
        assert rounded.component_distribution.mean.dtype == torch.float32

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_drops_what_it_says_in_training(self, dropout: float) -> None:
        distribution, z = trained(dropout=dropout).train()(MASK), torch.randn(2, 4, 4)
        assert torch.equal(distribution.log_prob(z), distribution.log_prob(z.clone())) == (dropout == 0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"width": 0}, "width is 0: give a whole number of at least 1"),
            ({"components": 0}, "components is 0: give a whole number of at least 1"),
            ({"model_width": 6}, "model_width is 6: give an even multiple of heads, which is 4"),
            ({"model_width": 5, "heads": 5}, "model_width is 5: give an even multiple of heads, which is 5"),
            ({"layers": 0}, "layers is 0: give a whole number of at least 1"),
            ({"samples_per_component": -1}, "samples_per_component is -1: give a whole number of at least 0"),
            ({"first": GaussianVectorPrior(3)}, r"first GaussianVectorPrior gave event shape \(3,\), expected \(8,\)"),
        ],
    )
    def test_refuses(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            AutoregressiveVectorPrior(**{"width": 8} | arguments)


def test_independent_vectors_add_up() -> None:
    first, tokens, z = GaussianVectorPrior(4, mean=1.0), MixtureVectorPrior(4), torch.randn(2, 4, 4)
    each = torch.cat([first().log_prob(z[:, :1]), tokens().log_prob(z[:, 1:])], -1)
    distribution = IndependentVectorPrior(tokens, first)(MASK)
    torch.testing.assert_close(distribution.log_prob(z), torch.where(MASK, each, 0.0).sum(-1))
    assert distribution.expand((5, 2)).sample().shape == (5, 2, 4, 4)


def test_independent_vectors_may_have_distributions_of_torch() -> None:
    class OfTorch(VectorPrior):
        def forward(self) -> Any:
            return torch.distributions.Independent(torch.distributions.Normal(torch.zeros(4), 1.0), 1)

    z = torch.randn(2, 4, 4)
    expected = over_components(GaussianVectorPrior(4), MASK).log_prob(z)
    torch.testing.assert_close(IndependentVectorPrior(OfTorch(), OfTorch())(MASK).log_prob(z), expected)


PRIORS: dict[str, Callable[[], SequencePrior]] = {
    "autoregressive": lambda: AutoregressiveVectorPrior(4, heads=2, first=GaussianVectorPrior(4, mean=2.0)),
    "independent": lambda: IndependentVectorPrior(GaussianVectorPrior(4), first=GaussianVectorPrior(4, mean=2.0)),
}


@pytest.mark.parametrize("prior", PRIORS)
class TestInAModel:
    def test_the_guide_takes_the_priors_own_component_over(self, prior: str) -> None:
        model = NVAE(CONFIG, base_measure=PRIORS[prior]())
        posterior = NVAEGuide(model).encode(Batch.pad([[5, 6, EOS], [9, EOS]]))
        assert (posterior.mean[:, 0] == 2).all() and (posterior.variance[:, 0] == 1).all()

    def test_the_estimated_divergence_is_the_exact_one_up_to_its_error(self, prior: str) -> None:
        own = GaussianVectorPrior(4, mean=2.0)
        model = NVAE(CONFIG, base_measure=PRIORS[prior]())  # the tokens' vectors are standard normal a priori
        guide, many = NVAEGuide(model), Batch.pad([[5, 6, 7, EOS]] * 2000)  # a draw for each
        estimates = ELBO().terms(model, guide, many).kl["vectors"].detach()
        posterior = guide.encode(many)
        distribution = dist.Normal(posterior.mean[0], posterior.variance[0].sqrt())
        mean = torch.cat([own.mean[None], torch.zeros(4, 4)])
        exact = torch.distributions.kl_divergence(distribution, torch.distributions.Normal(mean, 1.0)).sum()
        assert estimates.std() > 0.1, "with no closed form it is an estimate"
        assert (estimates.mean() - exact).abs() < 4 * estimates.std() / math.sqrt(2000)

    def test_the_published_objective_does_not_go_with_it(self, prior: str) -> None:
        model = NVAE(CONFIG, base_measure=PRIORS[prior]())
        with pytest.raises(ValueError, match=r"the objective nvib compares every vector .* choose the objective elbo"):
            describe_objective(model, TrainingOptions(objective="nvib"))


class Short(SequencePrior):
    """Forgets the prior's own component."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GaussianVectorPrior(4)

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        return over_components(GaussianVectorPrior(4), mask[..., 1:])


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            Short(),
            r"base_measure Short gave event shape \(2, 4\), expected \(3, 4\): return a distribution over all vectors",
        ),
        (
            AutoregressiveVectorPrior(8),
            r"gave event shape \(3, 8\), expected \(3, 4\): return a distribution over all vectors",
        ),
    ],
    ids=["rows", "width"],
)
def test_a_model_refuses_another_shape(prior: SequencePrior, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NVAE(CONFIG, base_measure=prior)


class Narrow(Short):
    """The prior's own component is of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GaussianVectorPrior(3)

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        return over_components(GaussianVectorPrior(4), mask)


def test_a_model_refuses_an_own_component_of_another_width() -> None:
    with pytest.raises(
        ValueError, match=r"base_measure.first GaussianVectorPrior gave event shape \(3,\), expected \(4,\)"
    ):
        NVAE(CONFIG, base_measure=Narrow())
