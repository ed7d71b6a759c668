"""Draws of single texts: functions of the seed and the text, also where texts share latents."""

import math
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyroformer.inference.evaluation.text_draws import ROWS, TextDraws, copies
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.runs.fitted import FittedModel
from pyroformer.models.base import LocalModule
from pyroformer.models.batch import Batch

BATCH = Batch.pad([[5, 6, 2], [7, 2]], conditions=[[8], [9]])
TEXTS = 10  # of the corpus


def value(batch: Any) -> Tensor:
    return batch.tokens.sum(-1) / 10


class Known(LocalModule):
    """mean ~ N(0, 1), of all texts or of each; text ~ N(mean, 1); noise ~ N(0, 1), on which nothing depends."""

    def __init__(self, shared: bool, guide: bool = False) -> None:
        super().__init__()
        self.shared, self.guide = shared, guide
        self.drawn: list[Tensor] = []
        self.noise: list[Tensor] = []

    def sample(self) -> Tensor:
        prior = dist.Normal(torch.tensor(0.5), 0.3) if self.guide else dist.Normal(torch.zeros(()), 1.0)
        mean: Tensor = pyro.sample("mean", prior)
        return mean

    def forward(self, batch: Any) -> None:
        mean = self.sample() if self.shared else torch.zeros(())
        with pyro.plate("texts", len(batch.weight), dim=-1):
            mean = mean if self.shared else self.sample()
            noise = pyro.sample("noise", dist.Normal(torch.zeros(()), 1.0))
            if not self.guide:
                self.drawn.append(mean)
                self.noise.append(noise)
                pyro.sample("text", dist.Normal(mean, 1.0), obs=value(batch))


class Charged(ELBO):
    def penalties(self, kl: Any, sites: Any, posterior: Any) -> dict[str, Tensor]:
        return {"mean": 2 * kl["mean"]}

    def counts(self, sites: Any, posterior: Any) -> dict[str, Tensor]:
        return {"noise": sites["noise"]["value"]}


def draws(shared: bool, row: int = 0, seed: int = 0, batch: Batch = BATCH) -> tuple[TextDraws, list[Tensor]]:
    """Draws of a text, and the means that the model is run at."""
    model, corpus = Known(shared), SimpleNamespace(train=range(TEXTS))
    run = object.__new__(FittedModel)  # of what is read here
    vars(run).update(model=model, guide=Known(shared, guide=True), corpus=corpus)
    return TextDraws(run, batch, row, seed), model.drawn


def log_weight(mean: Tensor, row: int, share: float) -> Tensor:
    """log p(x | mean) + share * (log p(mean) - log q(mean)), by hand."""
    likelihood = dist.Normal(mean, 1.0).log_prob(value(copies(BATCH, row, 1)))
    return likelihood + share * (dist.Normal(0.0, 1.0).log_prob(mean) - dist.Normal(0.5, 0.3).log_prob(mean))


@pytest.mark.parametrize("shared", [True, False])
def test_terms_are_averaged_over_draws_of_everything(shared: bool) -> None:
    text, means = draws(shared)
    terms = text.terms(Charged(data_size=TEXTS), 5)
    drawn = torch.stack([mean.expand(1) if shared else mean for mean in means]).flatten()
    assert len(means) == (5 if shared else 1) and len(drawn.unique()) == 5
    expected = dist.Normal(drawn, 1.0).log_prob(torch.tensor(1.3)).mean()
    torch.testing.assert_close(terms.log_likelihood, expected[None])
    kl = torch.distributions.kl_divergence(dist.Normal(0.5, 0.3), dist.Normal(0.0, 1.0))
    torch.testing.assert_close(terms.kl["mean"], kl[None] / (TEXTS if shared else 1))
    torch.testing.assert_close(terms.penalty, {"mean": 2 * terms.kl["mean"]})
    noise = torch.cat(text.run.model.noise)
    torch.testing.assert_close(terms.counts, {"noise": noise.mean(0, keepdim=True)})
    assert len(noise.unique()) == 5
    assert copies(BATCH, 0, 4).weight.tolist() == [0.25] * 4


@pytest.mark.parametrize("shared", [True, False])
def test_weights_of_draws_by_hand(shared: bool) -> None:
    text, means = draws(shared, row=1)
    found = text.log_weights(2 * ROWS + 6)
    drawn = torch.cat([mean.expand(size) for mean, size in zip(means, (ROWS, ROWS, 6), strict=True)])
    assert found.dtype == torch.float64 and len(found) == 2 * ROWS + 6
    torch.testing.assert_close(found.float(), log_weight(drawn, 1, 1 / TEXTS if shared else 1.0))
    assert len(drawn.unique()) == (1 if shared else 2 * ROWS + 6), "no draw twice, and one of what texts share"
    torch.rand(1)
    assert torch.equal(found, draws(shared, row=1)[0].log_weights(2 * ROWS + 6))
    text.terms(ELBO(data_size=TEXTS), ROWS)
    other, others = draws(shared)
    other.log_weights(ROWS)
    for drawn in (means[-1], others[0]):
        assert shared or not torch.equal(drawn, means[0]), "the terms are of other draws, and so is another text"


def test_what_draws_depend_on() -> None:
    def mean(row: int = 0, seed: int = 0, batch: Batch = BATCH, shared: bool = False) -> float:
        text, means = draws(shared, row, seed, batch)
        text.distribution()
        return float(means[0])

    other = BATCH._replace(condition_tokens=BATCH.condition_tokens + 1)  # type: ignore[operator]
    wide = Batch.pad([[5, 6, 2]], padded_length=7, conditions=[[8]])
    assert mean() == mean() == mean(batch=wide) == mean(batch=Batch.pad([[5, 6, 2]], conditions=[[8]]))
    assert len({mean(), mean(row=1), mean(seed=1), mean(batch=other)}) == 4
    assert mean(shared=True) == mean(row=1, shared=True) != mean(seed=1, shared=True)
    assert math.isfinite(mean(batch=Batch.pad([[]], padded_length=2, conditions=[[8]])))
