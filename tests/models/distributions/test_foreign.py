"""Distributions that are not Pyro's, against the same ones of Pyro, alone and as priors of every model."""

from typing import Any

import pyro
import pytest
import torch
import torch.distributions as td
from pyro import distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.distributions.foreign import Foreign, as_pyro
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=20, max_length=8, width=4, layers=2, heads=2, dropout=0.0)
BATCH = pf.Batch.pad([[5, 6, 2], [7, 2]])


class Elsewhere(td.Distribution):
    """A Gaussian of a library that knows torch's interface alone: no expand, no support, no closed forms."""

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(self, mean: Tensor) -> None:
        self.gaussian = td.Independent(td.Normal(mean, 2.0), 1)
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.gaussian.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.gaussian.log_prob(value)


class Learned(nn.Module):
    """As the flows of zuko: a module whose call returns the distribution, with a context or without."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full((4,), 0.5))

    def forward(self, summary: Tensor | None = None, index: int = 0) -> Elsewhere:
        return Elsewhere(self.mean if summary is None else self.mean.expand(*summary.shape[:-1], 4))


def gaussian() -> Any:
    return dist.Normal(torch.full((4,), 0.5), 2.0).to_event(1)


def bound(model: Any, guide: Any) -> Tensor:
    torch.manual_seed(0)
    terms: Tensor = pf.ELBO(data_size=10)(model.eval(), guide.eval()).terms(BATCH).bound
    return terms


def of_vae(prior: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    model = pf.VAE(CONFIG, base_measure=prior)
    return model, pf.VAEGuide(model)


def of_della(prior: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    model = pf.DELLA(CONFIG, latent_size=4, latent_prior=prior)
    return model, pf.DELLAGuide(model)


@pytest.mark.parametrize(
    "original",
    [
        td.Normal(torch.zeros(3), 1.0),
        td.Independent(td.Laplace(torch.zeros(2, 3), 1.0), 1),
        td.MultivariateNormal(torch.zeros(3), torch.eye(3)),
        td.Dirichlet(torch.ones(3)),
        td.Gamma(torch.ones(2), 1.0),
        td.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Normal(torch.zeros(2), torch.ones(2))),
        td.TransformedDistribution(td.Normal(torch.zeros(2), 1.0), [td.ExpTransform()]),
    ],
    ids=lambda original: type(original).__name__,
)
def test_torch_distributions_become_those_of_pyro(original: Any) -> None:
    converted = as_pyro(original)
    assert isinstance(converted, getattr(dist, type(original).__name__)) and as_pyro(converted) is converted
    draw = original.sample()
    assert torch.equal(converted.log_prob(draw), original.log_prob(draw))
    assert converted.expand((5, *original.batch_shape)).mask(False).log_prob(draw).sum() == 0
    assert not isinstance(original, TorchDistributionMixin)  # the original stays what it was


def test_a_foreign_distribution_has_the_density_the_draws_and_the_shapes_of_its_original() -> None:
    foreign, reference = as_pyro(Elsewhere(torch.full((4,), 0.5))), gaussian()
    assert isinstance(foreign, Foreign) and foreign.has_rsample
    mask = torch.tensor([True, False, True])
    ours, theirs = (each.expand((3,)).mask(mask).to_event(1) for each in (foreign, reference))
    torch.manual_seed(0)
    draw = ours.rsample((6,))
    torch.manual_seed(0)
    assert torch.equal(draw, theirs.rsample((6,))) and draw.shape == (6, 3, 4)
    torch.testing.assert_close(ours.log_prob(draw), theirs.log_prob(draw))
    trace = pyro.poutine.trace(lambda: pyro.sample("z", foreign)).get_trace()
    torch.testing.assert_close(trace.log_prob_sum(), reference.log_prob(trace.nodes["z"]["value"]))


def test_moments_gradients_and_support_are_those_of_the_original() -> None:
    mean = torch.tensor([0.5, 2.0], requires_grad=True)
    original = td.Independent(td.Gamma(mean, 3.0), 1)
    foreign = Foreign(original)
    assert torch.equal(foreign.mean, original.mean) and torch.equal(foreign.variance, original.variance)
    assert foreign.rsample().requires_grad and not foreign.sample().requires_grad
    assert foreign.support.event_dim == 1 and foreign.support.check(original.sample())
    assert not Foreign(td.Poisson(torch.ones(2))).has_rsample
    support: Any = Foreign(Elsewhere(torch.zeros(4))).support  # it has none of its own
    assert support.event_dim == 1 and support.check(torch.randn(3, 4)).tolist() == [True] * 3


@pytest.mark.parametrize("make", [of_vae, of_della])
def test_a_module_of_another_library_is_a_prior_that_trains(make: Any) -> None:
    pair = make(Learned())
    sampled = make(lambda *args: one_component(*args))
    torch.testing.assert_close(bound(*pair), bound(*sampled))  # both estimate the divergence at the guide's draws
    objective = pf.ELBO(data_size=10)(*pair)
    objective(BATCH).backward()
    prior: Any = pair[0].base_measure if make is of_vae else pair[0].latent_prior
    mean = prior.mean
    assert mean.grad is not None and bool(mean.grad.any())
    trace = pyro.poutine.trace(pair[0]).get_trace(pf.Batch.unobserved(2))
    assert all(trace.nodes[name]["value"].isfinite().all() for name in pair[0].latents)


def one_component(*args: Any) -> Any:
    """The same Gaussian, as a mixture with no divergence in closed form."""
    batch = args[0].shape[:-1] if args else ()
    normal = dist.Normal(torch.full((*batch, 1, 4), 0.5), 2.0).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(*batch, 1)), normal)


@pytest.mark.parametrize("make", [of_vae, of_della])
def test_a_torch_distribution_is_the_same_prior_as_that_of_pyro(make: Any) -> None:
    """Bare, with its divergence in closed form; and returned by a function."""
    theirs = td.Independent(td.Normal(torch.full((4,), 0.5), 2.0), 1)
    shape = (1, 4) if make is of_della else (4,)
    expected = bound(*make(dist.Normal(torch.full(shape, 0.5), 2.0).to_event(1)))
    assert torch.equal(bound(*make(td.Independent(td.Normal(torch.full(shape, 0.5), 2.0), 1))), expected)
    assert torch.equal(bound(*make(lambda *args: theirs)), expected)


def test_an_nvae_needs_the_moments_of_its_prior() -> None:
    with pytest.raises(ValueError, match=r"base_measure Learned has no mean and variance.*define component\(\)"):
        pf.NVAE(CONFIG, base_measure=Learned())

    class Near(pf.priors.VectorPrior):
        def __init__(self) -> None:
            super().__init__()
            self.flow = Learned()

        def forward(self) -> Any:
            return self.flow()

        def component(self) -> Any:
            return td.Independent(td.Normal(self.flow.mean, 2.0), 1)

    model = pf.NVAE(CONFIG, base_measure=Near())
    assert pf.ELBO(data_size=10)(model, pf.NVAEGuide(model))(BATCH).isfinite()


def test_a_bare_distribution_with_parameters_out_of_sight_is_refused() -> None:
    bare = Learned()()
    bare.hidden, bare.gaussian = (bare.gaussian,), None  # no attribute that is a tensor or a distribution
    bare.log_prob = lambda value: bare.hidden[0].log_prob(value)
    bare.rsample = lambda shape=(): bare.hidden[0].rsample(shape)
    with pytest.raises(
        ValueError, match="base_measure: a bare distribution is not trained, and this Elsewhere has parameters"
    ):
        pf.VAE(CONFIG, base_measure=bare)


@pytest.mark.parametrize(
    "part, prior",
    [
        ("keys", td.Independent(td.Normal(torch.zeros(2), 1.0), 1)),
        ("values", lambda precision: td.Independent(td.Laplace(torch.zeros(2), 1.0), 1)),
        ("precision", td.Gamma(2.0, 1.0)),
        ("weights", td.Dirichlet(torch.ones(3))),
    ],
)
def test_parts_of_a_mixture_take_them(part: str, prior: Any) -> None:
    mixture = pf.Mixture(
        torch.zeros(3).log_softmax(-1), torch.randn(3, 2), noise_variance=1.0,
        values=torch.randn(3, 2), value_variances=torch.ones(1, 1),
    )  # fmt: skip
    trace = pyro.poutine.trace(pf.MixtureAttention(mixture, **{part: prior})).get_trace(torch.randn(4, 2))
    assert trace.log_prob_sum().isfinite() and part in trace.nodes
