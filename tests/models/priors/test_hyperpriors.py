"""Hyper-priors: drawn once for all texts, wherever they are, and known to guides as the model will know them."""

import math
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Predictive, Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import Distribution

from pyroformer.guides.base import Guide
from pyroformer.guides.hyperpriors import HyperPosterior
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.diagnostics import khat
from pyroformer.inference.generation.generate import likelihood
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.nvib import NVIB
from pyroformer.inference.svi import SVI
from pyroformer.inference.training.fit import fit
from pyroformer.models.base import Model
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.hyperpriors import Hierarchical
from pyroformer.models.priors.roles import VectorPrior
from pyroformer.models.priors.sequence.autoregressive import IndependentVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.priors.weights import GammaDirichletProcess
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.vae import VAE

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=4, layers=1, heads=2, dropout=0.0)
BATCH = Batch.pad([[5, 6, 7, EOS], [9, EOS]])


class Centered(VectorPrior, Hierarchical):
    """Standard Gaussians around a random center: what is known of it can be worked out by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.center = PyroSample(dist.Normal(torch.zeros(width), 1.0).to_event(1))

    def forward(self) -> Distribution:
        distribution: Distribution = dist.Normal(self.center, 1.0).to_event(1)
        return distribution


def sites(module: Any, *args: Any) -> dict[str, Any]:
    return {n: s for n, s in pyro.poutine.trace(module).get_trace(*args).nodes.items() if s["type"] == "sample"}


@pytest.mark.parametrize(
    ("base", "site"),
    [
        (Centered(4), "base_measure.center"),
        (
            IndependentVectorPrior(Centered(4), GaussianVectorPrior(4)),
            "base_measure.tokens.center",
        ),  # below one that is not Pyro's
    ],
)
def test_one_draw_for_all_texts_outside_the_plate(base: Any, site: str) -> None:
    model = NVAE(CONFIG, base_measure=base)
    for found in (sites(model, BATCH)[site], sites(NVAEGuide(model), BATCH)[site]):
        assert found["value"].shape == (4,) and not found["cond_indep_stack"]


class Warm(VAE, Hierarchical):
    """A hyper-prior of the model itself, which its likelihood reads inside the plate of texts."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.temperature = PyroSample(dist.Gamma(8.0, 8.0))

    def likelihood(self, memory: Any, mask: Any = None) -> Any:
        self.seen = self.temperature
        return super().likelihood(memory, mask)


def test_one_of_the_model_itself_is_drawn_once_and_has_its_median_where_texts_are_written() -> None:
    model = Warm(CONFIG)
    guide: Any = VAEGuide(model)
    for found in (sites(model, BATCH)["temperature"], sites(guide, BATCH)["temperature"]):
        assert found["value"].shape == () and not found["cond_indep_stack"]
    assert "temperature_prior.at_rate" in model.state_dict() and ELBO(data_size=5)(model, guide)(BATCH).isfinite()
    run: Any = SimpleNamespace(model=model, guide=guide)
    likelihood(run, guide.encode(BATCH).memory())
    assert model.seen.item() == pytest.approx(guide.hyperpriors.medians()["temperature"].item())


def test_a_prior_that_ran_alone_may_still_join_a_model() -> None:
    base = IndependentVectorPrior(Centered(4), GaussianVectorPrior(4))
    base(torch.ones(1, 3, dtype=torch.bool)).sample()
    assert "base_measure.tokens.center" in sites(NVAE(CONFIG, base_measure=base), BATCH)


def test_a_prior_of_stock_pyro_has_them_too() -> None:
    class Stock(PyroModule):
        @PyroSample
        def scale(self) -> Any:
            return dist.Gamma(4.0, 4.0)

        def forward(self) -> Any:
            return dist.Normal(torch.zeros(4), self.scale).to_event(1)

    model = VAE(CONFIG, base_measure=Stock())  # type: ignore[arg-type]
    assert sites(model, BATCH)["base_measure.scale"]["value"].shape == ()
    assert ELBO(data_size=5)(model, VAEGuide(model))(BATCH).isfinite()


def test_a_discrete_one_is_refused_by_name() -> None:
    class Counted(VectorPrior, Hierarchical):
        def __init__(self) -> None:
            super().__init__()
            self.count = PyroSample(dist.Poisson(3.0))

        def forward(self) -> Any:
            return dist.Normal(torch.zeros(4), 1 + self.count).to_event(1)

    with pytest.raises(ValueError, match=r"the hyper-prior base_measure.count is a Poisson: .* must be continuous"):
        VAEGuide(VAE(CONFIG, base_measure=Counted()))


@pytest.mark.parametrize(
    ("bounded", "fits"),
    [
        (lambda self: dist.Uniform(0.0, self.top), False),
        (lambda self: dist.Uniform(-self.top.expand(4), self.top).to_event(1), False),
        (lambda self: dist.Pareto(self.top, 3.0), False),
        (lambda self: dist.HalfNormal(self.top), True),  # depends on it, with the support of every other
    ],
)
def test_one_whose_support_depends_on_another_is_refused(bounded: Any, fits: bool) -> None:
    class Bounded(VectorPrior, Hierarchical):
        def __init__(self) -> None:
            super().__init__()
            self.top = PyroSample(dist.LogNormal(0.0, 1.0))
            self.spread = PyroSample(bounded)

        def forward(self) -> Any:
            return dist.Normal(torch.zeros(4), 1 + self.spread.abs()).to_event(1)

    model = VAE(CONFIG, base_measure=Bounded())
    if fits:
        assert ELBO(data_size=5)(model, VAEGuide(model))(BATCH).isfinite()
        return
    with pytest.raises(ValueError, match="the support of the hyper-prior base_measure.spread depends on other hyper-p"):
        VAEGuide(model)


class Around(Model):
    """x_i ~ N(z_i, 1), z_i ~ N(center, 1), center ~ N(0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Centered(4)

    def forward(self, x: Any) -> None:
        with pyro.plate("texts", len(x), dim=-1):
            z = pyro.sample("z", self.base())
            pyro.sample("text", dist.Normal(z, 1.0).to_event(1), obs=x)


class AroundGuide(Guide):
    """The exact z_i ~ N((x_i + center) / 2, 1 / 2): it has to know the center that the model will have."""

    def forward(self, x: Any) -> None:
        center = self.model.base().mean
        with pyro.plate("texts", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x + center) / 2, 0.5**0.5).to_event(1))


def test_with_the_conjugate_posterior_every_draw_weighs_as_much_as_the_evidence() -> None:
    x, model = torch.randn(5, 4), Around()
    guide = AroundGuide(model)
    precision = 5 / 2 + 1
    guide.hyperpriors.mean["base__center"].data.copy_(x.sum(0) / 2 / precision)
    guide.hyperpriors.log_scale["base__center"].data.fill_(-math.log(precision) / 2)
    evidence = dist.MultivariateNormal(torch.zeros(5), 2 * torch.eye(5) + 1).log_prob(x.T).sum()
    for _ in range(3):
        weights = ELBO(data_size=5).log_weights(model, guide, x)
        torch.testing.assert_close(weights.sum(), evidence)


def test_training_moves_it_towards_the_conjugate_posterior() -> None:
    x, model = 3 + torch.randn(5, 4), Around()
    guide = AroundGuide(model)
    svi = SVI(model, guide, torch.optim.Adam, ELBO(data_size=5), lr=0.1)
    for _ in range(150):
        svi.step(x)
    mean = guide.hyperpriors.medians()["base.center"]
    torch.testing.assert_close(mean, x.sum(0) / 2 / 3.5, atol=0.35, rtol=0.0)


@pytest.mark.parametrize("draws", [2, 3, 5])  # as many as there are texts, and as components, which would broadcast
def test_several_draws_at_once_are_refused(draws: int) -> None:
    """A prior cannot tell them from texts, components or entries."""
    models = [VAE(CONFIG, base_measure=Centered(4)), NVAE(CONFIG, weight_prior=GammaDirichletProcess())]
    for model, site in zip(models, ["base_measure.center", "weight_prior.concentration"], strict=True):
        guide: Any = VAEGuide(model) if isinstance(model, VAE) else NVAEGuide(model)
        message = rf"the plate \S+ draws the hyper-prior {site} {draws} times at once, and its prior reads one draw"
        with pytest.raises(ValueError, match=message):
            Trace_ELBO(draws, max_plate_nesting=1, vectorize_particles=True).loss(model, guide, BATCH)
        with pytest.raises(ValueError, match=message):
            Predictive(model, num_samples=draws, parallel=True)(BATCH)
        assert math.isfinite(Trace_ELBO(draws, max_plate_nesting=1).loss(model, guide, BATCH))
        assert Predictive(model, num_samples=draws)(BATCH)[site].shape[0] == draws


def test_without_them_particles_are_vectorized() -> None:
    model = VAE(CONFIG)
    loss = Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True)
    assert math.isfinite(loss.loss(model, VAEGuide(model), BATCH))


def test_outside_a_call_a_guide_takes_medians() -> None:
    model = NVAE(CONFIG, base_measure=Centered(4))
    guide = NVAEGuide(model)
    guide.hyperpriors.mean["base_measure__center"].data.fill_(3.0)
    torch.testing.assert_close(guide.encode(BATCH).mean[:, 0], torch.full((2, 4), 3.0))
    assert not model._pyro_context.active


def test_the_posterior_starts_at_the_median_of_the_prior_and_moves_no_noise() -> None:
    model = NVAE(CONFIG, weight_prior=GammaDirichletProcess(50.0, 10.0))
    guide = NVAEGuide(model)
    assert guide.hyperpriors.medians()["weight_prior.concentration"].item() == pytest.approx(5, abs=0.5)
    draws = torch.stack([guide.hyperpriors()["weight_prior.concentration"] for _ in range(50)])
    assert (draws > 0).all() and 0.05 < draws.log().std() < 0.2  # 0.1, before the bijection
    state = torch.get_rng_state()
    HyperPosterior(model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("hyperprior", "least", "most"),
    [
        (dist.StudentT(0.3), -2.0, 2.0),  # whose mean of a few draws is far away
        (dist.Gamma(1e-4, 1.0), 0.9 * math.exp(-10), 1.1 * math.exp(-10)),  # whose draws are zero
    ],
)
def test_the_start_is_a_median_and_never_extreme(hyperprior: Any, least: float, most: float) -> None:
    class Shifted(VectorPrior, Hierarchical):
        def __init__(self) -> None:
            super().__init__()
            self.shift = PyroSample(hyperprior)

        def forward(self) -> Any:
            return dist.Normal(self.shift + torch.zeros(4), 1.0).to_event(1)

    median = HyperPosterior(VAE(CONFIG, base_measure=Shifted())).medians()["base_measure.shift"].item()
    assert least <= median <= most


def test_its_numbers_follow_the_model() -> None:
    model = NVAE(CONFIG, weight_prior=GammaDirichletProcess(3.0, 2.0)).double()
    assert sites(model, BATCH)["weight_prior.concentration"]["value"].dtype == torch.float64
    assert {"weight_prior.concentration_prior.at_concentration", "weight_prior.concentration_prior.at_rate"} <= set(
        model.state_dict()
    )


def test_bounds_of_a_support_follow_the_guide() -> None:
    class Bounded(Centered):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.center = PyroSample(dist.Uniform(torch.zeros(width), torch.arange(1.0, width + 1)).to_event(1))

    posterior = HyperPosterior(VAE(CONFIG, base_measure=Bounded(4)))
    assert posterior.double().medians()["base_measure.center"].dtype == torch.float64
    (median,) = posterior.to("meta").medians().values()  # bounds that stay behind would not go with these numbers
    assert median.device.type == "meta"


def test_the_published_objective_trains_them_too() -> None:
    model = NVAE(CONFIG, weight_prior=GammaDirichletProcess())
    guide = NVAEGuide(model)
    objective = NVIB(data_size=10)(model, guide)
    terms = objective.terms(BATCH)
    assert torch.equal(terms.penalty["weight_prior.concentration"], terms.kl["weight_prior.concentration"])
    objective(BATCH).backward()
    gradients = [p.grad for p in guide.hyperpriors.parameters()]
    assert len(gradients) == 2 and all(g is not None and bool(g != 0) for g in gradients)


def test_a_plain_role_does_not_take_them_for_numbers() -> None:
    class Plain(VectorPrior):
        def __init__(self) -> None:
            super().__init__()
            self.scale = PyroSample(dist.Gamma(4.0, 4.0))

    with pytest.raises(ValueError, match=r"Plain.scale is a PyroSample, .*: derive Plain from Hierarchical too"):
        Plain()


def test_what_is_known_of_one_is_copied_to_where_it_has_moved() -> None:
    weight_prior = GammaDirichletProcess()
    before = HyperPosterior(NVAE(CONFIG, weight_prior, base_measure=Centered(4)))
    after = HyperPosterior(NVAE(CONFIG, weight_prior, base_measure=IndependentVectorPrior(Centered(4), Centered(4))))
    for number, parameter in enumerate(before.parameters()):
        nn.init.constant_(parameter, 2.0 + number)
    moved = {"base_measure.center": "base_measure.first.center", "weight_prior.concentration": "elsewhere"}
    start = after.medians() | {"base_measure.first.center": before.medians()["base_measure.center"]}
    after.copy_from(before, moved.__getitem__)
    assert all(torch.equal(value, start[site]) for site, value in after.medians().items()) and len(start) == 3
    [mean, log_scale] = after.parameters_of("base_measure.first")
    known = list(before.parameters_of("base_measure"))
    assert torch.equal(mean, known[0]) and torch.equal(log_scale, known[1])
    assert len(list(after.parameters_of("base_measure"))) == 4 and not list(after.parameters_of("base"))


def test_a_model_without_them_is_as_it_was() -> None:
    model = VAE(CONFIG)
    assert VAEGuide(model).hyperpriors is None
    assert not any("." in name for name in sites(model, BATCH))
    assert not any(isinstance(part, nn.ParameterDict) for part in VAEGuide(model).modules())


@pytest.fixture(scope="module")
def run() -> Any:
    corpus = Corpus.from_texts([f"The number {n} is even." for n in range(0, 120, 2)], max_length=32)
    model = NVAE.for_corpus(
        corpus, base_measure="gaussian", width=8, layers=1, heads=2, weight_prior=GammaDirichletProcess(2.0, 2.0)
    )
    return fit(model, NVAEGuide(model), corpus, steps=3, batch_size=8, objective="elbo", validations=1)


class TestInARun:
    def test_evaluates_and_writes(self, run: Any) -> None:
        evaluation = run.evaluate(limit=3, num_particles=2)
        assert "kl_weight_prior.concentration" in evaluation
        assert len(run.sample(2)) == 2 and run.reconstruct("The number 4 is even.").text is not None

    def test_draws_it_from_its_posterior(self, run: Any) -> None:
        data = run.posterior(["The number 4 is even.", "The number 6 is even."], draws=30)
        drawn = data.posterior["weight_prior.concentration"]
        assert drawn.shape == (1, 30) and math.isfinite(float(drawn.mean()))
        assert float(data.prior["weight_prior.concentration"].std()) > float(drawn.std())
        with pytest.raises(ValueError, match="all texts share 'weight_prior.concentration', so that none"):
            khat(data)
        with pytest.raises(ValueError, match="the site 'weight_prior.concentration' is global"):
            khat(data, "weight_prior.concentration")
        fixed = run.posterior(["The number 4 is even.", "The number 6 is even."], draws=30, fix_global=True)
        assert khat(fixed).shape == (2,)
        assert float(fixed.posterior["weight_prior.concentration"].std()) < 1e-6
