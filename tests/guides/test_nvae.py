"""The posterior of the NVAE: vectors that are off, and heads of the concentration at every size."""

import math

import pytest
import torch
from torch import Tensor

import pyroformer as pf
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.evaluation.context import BatchContext, EvaluationContext
from pyroformer.inference.evaluation.metrics.components import KeptAlpha
from pyroformer.models.attention.attend import attend
from pyroformer.models.batch import Batch
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.mixtures.posterior import LEAST_LOG_ALPHA, MOST_LOG_ALPHA, MixturePosterior


def guide(alpha: str, width: int = 16, heads: int = 2, samples_per_component: int = 1) -> NVAEGuide:
    config = TransformerConfig(vocabulary=20, max_length=8, width=width, layers=1, heads=heads)
    return NVAEGuide(pf.NVAE(config, samples_per_component=samples_per_component), alpha=alpha)  # type: ignore[arg-type]


BATCH = Batch.pad([[5, 6, 7, 2], [7, 2]])


@pytest.mark.parametrize("samples", [1, 2])
def test_evaluation_never_attends_to_a_vector_that_is_off(samples: int) -> None:
    """Its weight e^-20 is outdone by the length of a key of 3 in 16 dimensions, whereas draws have no weight."""
    log_alpha = torch.tensor([0.0] * samples + [2.0] * samples + [LEAST_LOG_ALPHA - math.log(samples)] * samples)
    mean = torch.zeros(3 * samples, 16)
    mean[2 * samples :] = 9.0
    posterior = MixturePosterior(
        log_alpha, mean, torch.full_like(mean, 0.05), torch.ones(3 * samples, dtype=torch.bool), None, samples
    )
    query = torch.full((1, 16), 9.0)
    evaluated = attend(query, posterior.memory())
    weights = posterior.weights().sample().float()
    trained = attend(query, pf.Mixture(weights, mean, variances=posterior.variance))
    assert evaluated.norm() < 10 and trained.norm() < 10  # the key's own norm is 36
    assert posterior.kept.tolist() == [True] * 2 * samples + [False] * samples
    assert posterior.token_weights()[-1] == 0


@pytest.mark.parametrize("log_odds", [None, torch.zeros(2, 3)], ids=["all", "presence"])
def test_the_distributions_of_a_posterior_are_of_what_is_present(log_odds: Tensor | None) -> None:
    mask, present = torch.tensor([[True, True, True], [True, True, False]]), torch.tensor([True, False, True])
    mean, variance = torch.randn(2, 3, 4), torch.rand(2, 3, 4) + 0.1
    posterior = MixturePosterior(torch.randn(2, 3), mean, variance, mask, log_odds=log_odds)
    for some in (None, mask & present):
        weights, vectors = posterior.weights(some).sample(), posterior.vectors(some).sample()
        there = mask if some is None else some
        assert torch.equal(weights.exp() > 0, there)
        each = torch.distributions.Normal(mean, variance.sqrt()).log_prob(vectors).sum(-1)
        torch.testing.assert_close(posterior.vectors(some).log_prob(vectors), torch.where(there, each, 0).sum(-1))


def test_the_priors_component_is_never_off() -> None:
    log_alpha = torch.tensor([-50.0, LEAST_LOG_ALPHA])
    one = torch.ones(2, 3)
    posterior = MixturePosterior(log_alpha, one, one, torch.ones(2, dtype=torch.bool))
    assert posterior.memory().mask.tolist() == [True, False]  # type: ignore[union-attr]
    assert posterior.log_weights.tolist() == [0.0, -math.inf]


def test_a_relu_head_that_is_dead_leaves_the_priors_component() -> None:
    dead = guide("relu", samples_per_component=2)
    with torch.no_grad():
        dead.alpha.linear.weight.zero_()
        dead.alpha.linear.bias.fill_(-1.0)
    posterior = dead.encode(BATCH)
    assert posterior.kept.sum(-1).tolist() == [2, 2]
    assert posterior.token_weights().sum() == 0


@pytest.mark.parametrize(("width", "heads"), [(128, 4), (512, 8), (768, 12), (1024, 16)])
def test_a_quadratic_head_starts_at_softmax_attention_at_every_size(width: int, heads: int) -> None:
    quadratic = guide("quadratic", width, heads)
    h = quadratic.encoder(*quadratic.observed(BATCH)).detach()
    posterior = quadratic.encode(BATCH)
    tokens = posterior.log_alpha[:, 1:]
    expected = h.square().sum(-1) / (2 * math.sqrt(width / heads))
    torch.testing.assert_close(tokens, expected.clamp(max=MOST_LOG_ALPHA), rtol=1e-4, atol=1e-4)
    weights = torch.randn(tokens.shape)
    (tokens * weights).sum().backward()
    assert quadratic.alpha.square.grad is not None and quadratic.alpha.square.grad.abs().min() > 0


def test_a_head_beyond_the_range_finds_back() -> None:
    far = guide("linear")
    with torch.no_grad():
        far.alpha.linear.bias.fill_(1e6)
    log_alpha = far.encode(BATCH).log_alpha[:, 1:]
    assert (log_alpha == MOST_LOG_ALPHA).all()
    log_alpha.sum().backward()
    assert far.alpha.linear.bias.grad == log_alpha.numel()


@pytest.mark.parametrize("bias", [-1.0, 1.0])
def test_evaluation_says_that_no_text_keeps_a_vector(bias: float) -> None:
    """And counts the share of kept components among all of a text's, those that are off included."""

    head = guide("relu")
    with torch.no_grad():
        head.alpha.linear.weight.zero_()
        head.alpha.linear.bias.fill_(bias)
    posterior = head.encode(BATCH)
    context, summary = object.__new__(BatchContext), object.__new__(EvaluationContext)
    vars(context).update(posterior=posterior, memory=posterior.memory())
    column = KeptAlpha().measure(context)
    assert column is not None and column["all"].tolist() == [5, 3]
    columns = {name: values.double().numpy() for name, values in column.items()}
    if bias > 0:
        KeptAlpha().summarize(columns, summary)
    else:
        with pytest.warns(UserWarning, match="no text keeps a vector of its own: .* larger delta"):
            KeptAlpha().summarize(columns, summary)


class Named(pf.priors.WeightPrior):
    """With attributes of its own, of which guides know nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.concentration, self.delta = 2.0, torch.ones(3)

    def forward(self, mask: Tensor) -> LogDirichlet:
        return LogDirichlet(torch.full(mask.shape, math.log(self.concentration)), mask)


class Said(Named):
    def own_log_concentration(self) -> float:
        return math.log(self.concentration)

    def token_log_concentration(self) -> float:
        return -1.0


@pytest.mark.parametrize(("prior", "own", "token"), [(Named, 0.0, None), (Said, math.log(2), -1.0)])
def test_a_prior_of_weights_says_its_concentrations(prior: type[Named], own: float, token: float | None) -> None:
    config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
    made = NVAEGuide(pf.NVAE(config, weight_prior=prior(), base_measure="language_model"))
    log_alpha = made.encode(BATCH).log_alpha
    torch.testing.assert_close(log_alpha[:, 0], torch.full((2,), own))
    assert (token is not None) == bool((made.alpha.linear.bias == -1.0).all())
