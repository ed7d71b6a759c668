"""The gradient of discrete latents: the leave-one-out estimate against enumeration."""

import itertools
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.base import LocalModule
from pyroformer.models.distributions.presence import Presence

MASK = torch.ones(4, dtype=torch.bool)
EFFECT = torch.tensor([0.5, 2.0, -1.0, 0.3])
X, RHO = 1.5, torch.full((4,), -1.0)
TEXTS = 40_000


class Model(LocalModule):
    """b ~ Presence, text ~ N(b . effect, 1)."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("texts", len(x), dim=-1):
            b = pyro.sample("presence", Presence(RHO.expand(len(x), 4), MASK))
            pyro.sample("text", dist.Normal((b * EFFECT).sum(-1), 1.0), obs=x)


class Choice(LocalModule):
    """Its log odds are the same for all texts."""

    def __init__(self) -> None:
        super().__init__()
        self.log_odds = nn.Parameter(torch.tensor([0.0, 0.5, -0.5, 1.0]))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("texts", len(x), dim=-1):
            pyro.sample("presence", Presence(self.log_odds.expand(len(x), 4), MASK))


def exact_loss(guide: Choice, kl_weight: float = 1.0) -> Tensor:
    """Minus the expected log likelihood, and the divergence, by enumeration."""
    values = torch.tensor([(1.0, *row) for row in itertools.product([0.0, 1.0], repeat=3)])
    q, p = Presence(guide.log_odds, MASK), Presence(RHO, MASK)
    log_q = q.log_prob(values)
    likelihood = dist.Normal((values * EFFECT).sum(-1), 1.0).log_prob(torch.tensor(X))
    return (log_q.exp() * (kl_weight * (log_q - p.log_prob(values)) - likelihood)).sum()


@pytest.mark.parametrize("particles", [1, 3])
def test_loss_and_gradient_have_the_mean_of_enumeration(particles: int) -> None:
    guide = Choice()
    (exact,) = torch.autograd.grad(expected := exact_loss(guide, 0.5), guide.log_odds)
    found = torch.zeros(20, 4)
    losses = torch.zeros(20)
    for index in range(20):
        guide.zero_grad()
        objective = ELBO(num_particles=particles, kl_weights={"presence": 0.5})(Model(), guide)
        loss = objective(torch.full((TEXTS // 20,), X))
        loss.backward()
        assert guide.log_odds.grad is not None
        found[index], losses[index] = guide.log_odds.grad, loss.detach()
    assert (found[:, 0] == 0).all()  # the prior's component has no odds
    errors = found.std(0)[1:] / 20**0.5
    assert ((found.mean(0) - exact)[1:].abs() < 4 * errors).all()
    assert (errors < 0.01).all()  # so that the test could fail: gradients are about 0.1 to 1
    assert (losses.mean() - expected).abs() < 4 * losses.std() / 20**0.5


def test_the_gradient_of_several_discrete_latents_is_that_of_enumeration() -> None:
    effects = {"a": 1.5, "b": -2.0}

    class Two(LocalModule):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("texts", len(x), dim=-1):
                mean = sum(pyro.sample(site, dist.Bernoulli(0.4)) * effect for site, effect in effects.items())
                pyro.sample("text", dist.Normal(mean, 1.0), obs=x)

    class Odds(LocalModule):
        def __init__(self) -> None:
            super().__init__()
            self.log_odds = nn.Parameter(torch.tensor([0.3, -0.6]))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("texts", len(x), dim=-1):
                for site, log_odds in zip(effects, self.log_odds, strict=True):
                    pyro.sample(site, dist.Bernoulli(logits=log_odds.expand(len(x))))

    guide, each, expected = Odds(), torch.tensor([0.4, 0.4]), torch.zeros(())
    for values in map(torch.tensor, itertools.product([0.0, 1.0], repeat=2)):
        log_q = dist.Bernoulli(logits=guide.log_odds).log_prob(values).sum()
        log_p = dist.Bernoulli(each).log_prob(values).sum()
        likelihood = dist.Normal(values @ torch.tensor([*effects.values()]), 1.0).log_prob(torch.tensor(X))
        expected = expected + log_q.exp() * (log_q - log_p - likelihood)
    loss = ELBO()(Two(), guide)(torch.full((TEXTS,), X))
    found, exact = (torch.autograd.grad(value, guide.log_odds)[0] for value in (loss, expected))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.03)  # each text has a deviation of about 1: 6 errors


def test_comparing_draws_has_less_variance_than_pyros_plain_estimate() -> None:
    guide = Choice()
    x = torch.full((200,), X)

    def gradients(loss: Any) -> Tensor:
        result = []
        for _ in range(25):
            guide.zero_grad()
            loss(x).backward()
            assert guide.log_odds.grad is not None
            result.append(guide.log_odds.grad[1:].clone())
        return torch.stack(result)

    ours = gradients(ELBO()(Model(), guide))
    stock = Trace_ELBO(num_particles=2)(Model(), guide)
    pyros = gradients(lambda x: stock(x) / len(x))
    assert (ours.var(0) < pyros.var(0)).all()


def test_training_finds_the_optimum_of_enumeration() -> None:
    torch.manual_seed(0)
    ours, best = Choice(), Choice()
    objective, x = ELBO()(Model(), ours), torch.full((200,), X)
    optimizers = [torch.optim.Adam(guide.parameters(), lr=0.2) for guide in (ours, best)]
    for _ in range(40):
        for optimizer, loss in zip(optimizers, (lambda: objective(x), lambda: exact_loss(best)), strict=True):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    assert exact_loss(ours) < exact_loss(best) + 0.01
    assert exact_loss(best) < exact_loss(Choice()) - 0.5


def test_evaluation_draws_once() -> None:
    """A second draw is for the gradient alone."""
    calls = []

    class Counting(Model):
        def forward(self, x: Tensor) -> None:
            calls.append(len(x))
            super().forward(x)

    with torch.no_grad():
        ELBO()(Counting(), Choice())(torch.zeros(3))
    assert calls == [3]
    ELBO()(Counting(), Choice())(torch.zeros(3))
    assert calls == [3, 3, 3]


def test_a_discrete_latent_that_all_texts_share_is_refused() -> None:
    class Shared(LocalModule):
        def forward(self, x: Tensor) -> None:
            b = pyro.sample("b", dist.Bernoulli(0.5))
            with pyro.plate("texts", len(x), dim=-1):
                pyro.sample("text", dist.Normal(b, 1.0), obs=x)

    class Guide(LocalModule):
        def __init__(self) -> None:
            super().__init__()
            self.log_odds = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            pyro.sample("b", dist.Bernoulli(logits=self.log_odds))

    with pytest.raises(ValueError, match=r"draws 'b', which is discrete and which all texts share.*plate 'texts'"):
        ELBO(data_size=3)(Shared(), Guide())(torch.zeros(3))
