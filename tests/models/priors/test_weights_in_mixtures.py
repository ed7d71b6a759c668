"""Every prior of weights that ships, under each of Pyro's ways to infer the weights of a mixture."""

import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.infer.autoguide.initialization import init_to_mean
from torch import Tensor
from torch.distributions import biject_to

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.models.distributions.log_simplex import LogStickBreakingTransform, log_simplex

COUNTS = torch.tensor([6.0, 3.0, 1.0])
KEYS = torch.tensor([[-30.0], [0.0], [30.0]])  # so far apart that the component of a query is certain
QUERIES = KEYS.repeat_interleave(COUNTS.long(), 0)
PRIORS: dict[str, Callable[[], Any]] = {
    "BoundedDirichletProcess": lambda: pf.priors.BoundedDirichletProcess(delta=1.0),
    "SymmetricDirichlet": lambda: pf.priors.SymmetricDirichlet(0.7),
    "GEM": lambda: pf.priors.GEM(2.0),
    "PitmanYor": lambda: pf.priors.PitmanYor(1.0, 0.4),
    "GammaDirichletProcess": lambda: pf.priors.GammaDirichletProcess(4.0, 4.0),
    "DirichletProcess": lambda: pf.priors.DirichletProcess(2.0),
    "DirichletProcess, learned": lambda: pf.priors.DirichletProcess(dist.Gamma(4.0, 2.0)),
    "StickBreaking": lambda: pf.priors.StickBreaking(torch.tensor(2.0), components=3),
    "Dirichlet": lambda: dist.Dirichlet(torch.full((3,), 0.7)),
    "torch's Dirichlet": lambda: torch.distributions.Dirichlet(torch.full((3,), 0.7)),
}
ONE_STICK = {"GEM": (2.0, 0.0), "DirichletProcess": (2.0, 0.0), "StickBreaking": (2.0, 0.0), "PitmanYor": (1.0, 0.4)}
DIRICHLET = {"BoundedDirichletProcess": 1.0, "SymmetricDirichlet": 0.7, "Dirichlet": 0.7, "torch's Dirichlet": 0.7}


def attention(name: str) -> pf.MixtureAttention:
    return pf.MixtureAttention(pf.Mixture(torch.zeros(3), KEYS, noise_variance=1.0), weights=PRIORS[name]())


def simplex(weights: Tensor) -> Tensor:
    """Weights, from draws that may be their logarithms."""
    return weights.exp() if bool((weights <= 0).all()) else weights


def conjugate_shares(name: str) -> list[tuple[float, float]]:
    """The beta posteriors of the two shares of the stick, which are independent for a Dirichlet too."""
    rest = [float(COUNTS[n + 1 :].sum()) for n in range(2)]
    if name in DIRICHLET:
        a = DIRICHLET[name]
        return [(a + float(COUNTS[n]), a * (2 - n) + rest[n]) for n in range(2)]
    a, d = ONE_STICK[name]
    return [(1 - d + float(COUNTS[n]), a + (n + 1) * d + rest[n]) for n in range(2)]


def conjugate_mean(name: str) -> Tensor:
    left, weights = 1.0, []
    for first, second in conjugate_shares(name):
        weights.append(left * first / (first + second))
        left -= weights[-1]
    return torch.tensor([*weights, left])


def trained(name: str, kind: Any, particles: int, steps: int, lr: float, **options: Any) -> Any:
    model = attention(name)
    guide = Automatic(model, kind, **options)
    loss = TraceEnum_ELBO(max_plate_nesting=1, num_particles=particles, vectorize_particles=particles > 1)
    svi = pf.SVI(model, guide, torch.optim.Adam, loss=loss, lr=lr)
    losses = [svi.step(QUERIES) for _ in range(steps)]
    assert torch.tensor(losses).isfinite().all()
    return guide


@pytest.mark.parametrize("name", PRIORS)
def test_a_point_mass_is_where_the_log_joint_is_largest(name: str) -> None:
    """In the coordinates in which Pyro has the density: no neighbor on the simplex is better."""
    guide = trained(name, AutoDelta, particles=1, steps=30, lr=0.4)
    best = guide.median()
    assert (simplex(best["weights"]).sum() - 1).abs() < 1e-5

    def log_joint(weights: Tensor) -> Tensor:
        model = pyro.poutine.condition(attention(name), data=best | {"weights": weights})
        return -torch.tensor(TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda *_: None, QUERIES))

    logs = simplex(best["weights"]).log()
    highest = log_joint(best["weights"])
    for k in range(3):
        for step in (-0.5, 0.5):
            moved = (logs + step * torch.eye(3)[k]).log_softmax(-1)
            assert log_joint(moved if bool((best["weights"] <= 0).all()) else moved.exp()) < highest + 0.02


@pytest.mark.parametrize("name", PRIORS)
def test_a_gaussian_guide_finds_the_conjugate_posterior(name: str) -> None:
    guide = trained(name, AutoNormal, particles=16, steps=40, lr=0.2, init_loc_fn=init_to_mean)
    with pyro.plate("draws", 1000, dim=-2):
        draws = simplex(guide(QUERIES)["weights"]).detach()[:, 0]
    assert ((draws.sum(-1) - 1).abs() < 1e-4).all()
    if name in ONE_STICK | DIRICHLET:
        assert (draws.mean(0) - conjugate_mean(name)).abs().max() < 0.06


@pytest.mark.parametrize("name", PRIORS)
def test_nuts_draws_weights(name: str) -> None:
    """Whether they are of the posterior: tests/models/mixture_attention/test_nuts.py, for a prior of log weights."""
    pyro.set_rng_seed(0)
    chain = MCMC(NUTS(attention(name), max_plate_nesting=1), num_samples=10, warmup_steps=8, disable_progbar=True)
    chain.run(QUERIES)
    weights = simplex(chain.get_samples()["weights"])
    assert weights.shape == (10, 3) and ((weights.sum(-1) - 1).abs() < 1e-4).all()
    assert len(weights[:, 0].unique()) > 2


@pytest.mark.parametrize("name", PRIORS)
def test_a_model_with_the_prior_is_pickled(name: str) -> None:
    model = attention(name)
    again = pickle.loads(pickle.dumps(model))
    densities = []
    for each in (model, again):
        torch.manual_seed(0)
        densities.append(pyro.poutine.trace(each).get_trace(QUERIES).log_prob_sum())
    assert torch.equal(*densities)


def test_log_weights_have_a_bijection_whose_draws_go_there_and_back() -> None:
    transform: Any = biject_to(log_simplex)
    assert transform == LogStickBreakingTransform()
    u = torch.randn(4, 2).double()
    torch.testing.assert_close(transform.inv(transform(u)), u)


@pytest.mark.parametrize(
    ("make", "warns"),
    [
        (lambda: dist.Dirichlet(torch.full((3,), 0.02)), True),
        (lambda: torch.distributions.Dirichlet(torch.tensor([1.0, 1.0, 0.02])), True),
        (lambda: dist.Dirichlet(torch.full((3,), 0.005).double()), True),
        (lambda: pf.priors.StickBreaking(torch.tensor(0.1), components=3), True),
        (lambda: dist.Dirichlet(torch.full((3,), 0.15)), False),
        (lambda: dist.Dirichlet(torch.full((3,), 0.02).double()), False),
        (lambda: pf.priors.StickBreaking(torch.tensor(0.2), components=3), False),
    ],
)
def test_weights_that_underflow_are_warned_of(make: Callable[[], Any], warns: bool) -> None:
    mixture, prior = pf.Mixture(torch.zeros(3), KEYS, noise_variance=1.0), make()
    with pytest.warns(UserWarning) if warns else nullcontext() as said:
        pf.MixtureAttention(mixture, weights=prior)
    least = torch.finfo(prior.concentration.dtype).tiny
    lost = (prior.sample((100_000,)).amin(-1).double() < 1e3 * least).double().mean()
    assert bool(lost > 1e-4) is warns
    message = r"of concentration 0\.\d+, whose draws underflow in float(32|64), .*: take a prior of their logarithms"
    assert not warns or re.search(message, str(said[0].message))


def test_logarithms_of_weights_do_not_underflow() -> None:
    mixture = pf.Mixture(torch.zeros(3), KEYS, noise_variance=1.0)
    for prior in (pf.priors.DirichletProcess(0.001), pf.priors.SymmetricDirichlet(0.001)):
        pf.MixtureAttention(mixture, weights=prior)  # warnings are errors
