"""Bounds against a model whose evidence is known in closed form."""

import math
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyroformer.inference.objectives.bounds import importance_sweep, importance_weighted
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.importance_weighted import ImportanceWeighted

NOISE, WIDTH = 0.5, 3


class Sight(PyroModule):
    """z ~ N(0, 1), text ~ N(z, NOISE^2): log p(text) is N(0, 1 + NOISE^2)."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("texts", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(WIDTH), 1.0).to_event(1))
            pyro.sample("text", dist.Normal(z, NOISE).to_event(1), obs=x)

    @staticmethod
    def evidence(x: Tensor) -> Tensor:
        return dist.Normal(0.0, math.sqrt(1 + NOISE**2)).log_prob(x).sum(-1).double()


class Posterior(PyroModule):
    """The exact posterior, moved and stretched."""

    def __init__(self, shift: float = 0.0, stretch: float = 1.0) -> None:
        super().__init__()
        self.shift, self.stretch = shift, stretch

    def forward(self, x: Tensor) -> None:
        mean, sd = x / (1 + NOISE**2), NOISE / math.sqrt(1 + NOISE**2)
        with pyro.plate("texts", len(x), dim=-1):
            self.remember(pyro.sample("z", dist.Normal(mean + self.shift, sd * self.stretch).to_event(1)))

    def remember(self, z: Tensor) -> None:
        """For those who watch."""


@pytest.fixture
def x() -> Tensor:
    return torch.randn(400, WIDTH) * 1.5


@pytest.mark.parametrize("num_particles", [1, 2, 16])
def test_the_exact_posterior_makes_the_bound_tight(x: Tensor, num_particles: int) -> None:
    bound = importance_weighted(Sight(), Posterior(), x, num_particles)
    torch.testing.assert_close(bound, Sight.evidence(x), atol=1e-5, rtol=1e-5)


def test_elbo_is_below_importance_weighted_is_below_the_evidence(x: Tensor) -> None:
    model, guide = Sight(), Posterior(shift=0.3, stretch=1.5)
    elbo = ELBO(num_particles=200).terms(model, guide, x).bound.double().mean()
    bounds = [elbo, *(importance_weighted(model, guide, x, num_particles).mean() for num_particles in (4, 32, 256))]
    truth = Sight.evidence(x).mean()
    assert all(lower < upper for lower, upper in zip(bounds, [*bounds[1:], truth], strict=True))
    assert truth - bounds[-1] < 0.02 < truth - bounds[0]


def test_one_particle_is_the_elbo_on_average(x: Tensor) -> None:
    model, guide = Sight(), Posterior(shift=0.3, stretch=1.5)
    ones = torch.stack([importance_weighted(model, guide, x, 1).mean() for _ in range(200)])
    exact = ELBO(num_particles=500).terms(model, guide, x).bound.double().mean()
    assert (ones.mean() - exact).abs() < 4 * ones.std() / math.sqrt(len(ones)) + 2e-3


def test_it_is_the_log_of_the_mean_weight(x: Tensor) -> None:
    model, guide = Sight(), Posterior()
    guide.shift = torch.tensor(0.3, requires_grad=True)
    torch.manual_seed(1)
    got = importance_sweep(model, guide, x, [2, 7])
    assert all(bound.dtype == torch.float64 and not bound.requires_grad for bound in got.values())
    # the first run of the guide looks for global sites
    torch.manual_seed(1)
    guide(x)
    weights = torch.stack([ELBO().log_weights(model, guide, x).double() for _ in range(7)])
    for count, bound in got.items():
        torch.testing.assert_close(bound, weights[:count].logsumexp(0).detach() - math.log(count))
    with pytest.raises(ValueError, match="num_particles is empty: at least one draw is needed"):
        importance_sweep(model, guide, x, [])


def test_tiny_weights_do_not_underflow() -> None:
    x = torch.full((2, WIDTH), 1e3)
    assert importance_weighted(Sight(), Posterior(shift=5.0), x, 8).isfinite().all()


def test_memory_is_flat_in_the_number_of_draws(x: Tensor) -> None:
    drawn: list[weakref.ref[Tensor]] = []
    alive = []

    class Watched(Posterior):
        def forward(self, x: Tensor) -> None:
            alive.append(sum(item() is not None for item in drawn))
            super().forward(x)

        def remember(self, z: Tensor) -> None:
            drawn.append(weakref.ref(z))

    importance_weighted(Sight(), Watched(shift=0.1), x, 30)
    assert max(alive[15:]) <= max(alive[:5])


class Shared(PyroModule):
    """A location common to all texts: m ~ N(0, 1), text_i ~ N(m, 1)."""

    def forward(self, x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("texts", len(x), dim=-1):
            pyro.sample("text", dist.Normal(m, 1.0).expand([WIDTH]).to_event(1), obs=x)


class Broad(PyroModule):
    def forward(self, x: Tensor) -> None:
        pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))


def test_global_sites_are_drawn_once_so_that_the_sum_over_texts_bounds_the_evidence() -> None:
    x = torch.tensor([[3.0] * WIDTH, [-3.0] * WIDTH])  # texts that want different m: a draw for each would overshoot
    cov = torch.eye(2 * WIDTH) + 1
    evidence = dist.MultivariateNormal(torch.zeros(2 * WIDTH), cov).log_prob(x.flatten())
    bounds = torch.stack([importance_weighted(Shared(), Broad(), x, 50, data_size=2).sum() for _ in range(12)])
    assert bounds.mean() < evidence


class Exact(PyroModule):
    """The posterior of what all texts share."""

    def forward(self, x: Tensor) -> None:
        precision = x.numel() + 1
        pyro.sample("m", dist.Normal(x.sum() / precision, precision**-0.5))


def test_the_exact_posterior_of_a_global_site_makes_the_sum_over_texts_tight() -> None:
    x = torch.randn(4, WIDTH)
    evidence = dist.MultivariateNormal(torch.zeros(x.numel()), torch.eye(x.numel()) + 1).log_prob(x.flatten())
    bound = importance_weighted(Shared(), Exact(), x, 3, data_size=4).sum()
    torch.testing.assert_close(bound, evidence.double(), atol=1e-4, rtol=1e-5)


def test_the_objective_of_several_draws_has_the_value_and_gradient_of_their_log_mean_weight(x: Tensor) -> None:
    model, guide = Sight(), Posterior()
    results = []
    for whole in (True, False):
        guide.shift = torch.tensor(0.3, requires_grad=True)
        torch.manual_seed(1)
        if whole:
            loss = ImportanceWeighted(5)(model, guide)(x)
        else:
            weights = torch.stack([ELBO().log_weights(model, guide, x) for _ in range(5)])
            loss = -(weights.logsumexp(0) - math.log(5)).mean()
        results.append((loss.detach(), *torch.autograd.grad(loss, guide.shift)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_the_objective_of_one_draw_is_the_elbo_and_of_many_is_near_the_evidence(x: Tensor) -> None:
    model, guide = Sight(), Posterior(shift=0.3, stretch=1.5)
    truth = -Sight.evidence(x).mean()
    one, few, many = (
        sum(ImportanceWeighted(k).loss(model, guide, x) for _ in range(repeats)) / repeats
        for k, repeats in ((1, 200), (4, 50), (256, 1))
    )
    assert one == pytest.approx(ELBO(num_particles=500).loss(model, guide, x), abs=0.01)
    assert one > few > many > truth - 0.01 and many - truth < 0.02


def test_an_objective_of_several_draws_may_combine_them_otherwise(x: Tensor) -> None:
    class Best(ImportanceWeighted):
        def bound(self, log_weights: Tensor) -> Tensor:
            return log_weights.amax(0)

    model, guide = Sight(), Posterior(shift=0.3)
    torch.manual_seed(1)
    loss = Best(5).loss(model, guide, x)
    torch.manual_seed(1)
    weights = torch.stack([ELBO().log_weights(model, guide, x) for _ in range(5)])
    assert loss == pytest.approx(float(-weights.amax(0).mean()))
    with pytest.raises(ValueError, match="objective Best weighs the draws"):
        Best(4, data_size=400).loss(Shared(), Broad(), x)


def test_the_terms_beside_the_objective_are_those_of_the_elbo(x: Tensor) -> None:
    model, guide = Sight(), Posterior(shift=0.3, stretch=1.5)
    drawn = []
    for kind in (ImportanceWeighted, ELBO):
        torch.manual_seed(1)
        drawn.append(kind(num_particles=3).terms(model, guide, x))
    assert torch.equal(drawn[0].log_likelihood, drawn[1].log_likelihood) and torch.equal(drawn[0].bound, drawn[1].bound)


def test_a_latent_of_all_texts_cannot_be_weighed_text_by_text(x: Tensor) -> None:
    with pytest.raises(ValueError, match="objective iw weighs .* and all texts share the latent 'm': choose .* elbo"):
        ImportanceWeighted(4, data_size=400).loss(Shared(), Broad(), x)


def test_an_observed_site_of_all_texts_counts_once(x: Tensor) -> None:
    class Noted(Sight):
        def forward(self, x: Tensor) -> None:
            pyro.sample("note", dist.Normal(0.0, 1.0), obs=torch.tensor(20.0))
            super().forward(x)

    losses = []
    for model in (Noted(), Sight()):
        torch.manual_seed(0)
        losses.append(ImportanceWeighted(2, data_size=len(x)).loss(model, Posterior(shift=0.3), x))
    assert losses[0] - losses[1] == pytest.approx((200 + 0.5 * math.log(2 * math.pi)) / len(x), rel=1e-3)


def test_no_particles_is_an_error(x: Tensor) -> None:
    with pytest.raises(ValueError, match="particles is 0"):
        importance_weighted(Sight(), Posterior(), x, 0)
