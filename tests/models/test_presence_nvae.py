"""An NVAE whose vectors may be absent: the bound by brute force, and what users see of it."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, distributions

import pyroformer as pf
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.generation.generate import thinned
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.objectives.nvib import NVIB, vector_regularizer, weight_regularizer
from pyroformer.inference.objectives.registry import describe_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.posterior.export import to_arviz
from pyroformer.inference.run import Run
from pyroformer.inference.training.compiled import CompiledObjective
from pyroformer.inference.training.fit import fit
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.sequence.tokens import TokenVectorPrior
from pyroformer.models.priors.vectors import GaussianVectorPrior
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=1, heads=2, dropout=0.0)
RHO = 0.3
BATCH = Batch.pad([[5, 6, 7, EOS], [9, EOS]])


def pair(samples: int = 1, rho: float = RHO, **options: Any) -> tuple[NVAE, NVAEGuide]:
    torch.manual_seed(0)
    model = NVAE(CONFIG, presence=rho, samples_per_component=samples, **options)
    guide = NVAEGuide(model)
    for part in (model, guide):
        part.eval()
        for parameter in part.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    assert guide.log_odds is not None
    guide.log_odds.bias.data.fill_(0.4)  # so that all presences are probable
    return model, guide


def presences(length: int, samples: int, components: int) -> Tensor:
    """Every presence of a text's components."""
    free = itertools.product([0.0, 1.0], repeat=samples * length)
    rest = [0.0] * (components - samples * (length + 1))
    return torch.tensor([[1.0] * samples + list(row) + rest for row in free])


@pytest.mark.parametrize("samples", [1, 2])
def test_divergences_are_those_of_the_formula_by_enumeration(samples: int) -> None:
    """sum_i KL(Bern || Bern) + E_b KL(Dirichlets of the present) + sum_i g_i KL_i, with distributions of torch."""
    model, guide = pair(samples)
    batch = Batch.pad([[9, EOS]])
    posterior = guide.encode(batch)
    log_alpha = posterior.log_alpha[0].double()
    odds = posterior.log_odds
    assert odds is not None
    g = odds[0].double().sigmoid()[samples:]
    values = presences(2, samples, len(log_alpha))
    of_presence = distributions.kl_divergence(
        distributions.Bernoulli(g), distributions.Bernoulli(torch.tensor(RHO).double())
    ).sum()
    free = values[:, samples:].double()
    probability = (free * g.log() + (1 - free) * (1 - g).log()).sum(-1).exp()
    of_weights = torch.zeros(()).double()
    for share, value in zip(probability, values > 0.5, strict=True):
        count = int(value.sum())
        each = (1 + 0.3 * (count / samples - 1)) / count  # a bounded process over those that are present
        prior = distributions.Dirichlet(torch.full((count,), each).double())
        of_weights += share * distributions.kl_divergence(distributions.Dirichlet(log_alpha[value].exp()), prior)
    normal = distributions.Normal(posterior.mean[0], posterior.variance[0].sqrt())
    each_vector = distributions.kl_divergence(normal, distributions.Normal(0.0, 1.0)).sum(-1)
    of_vectors = each_vector[:samples].sum() + (g * each_vector[samples:]).sum()
    found: dict[str, list[Tensor]] = {}
    for value in values:
        told = poutine.condition(guide, {"presence": value[None]})  # type: ignore[arg-type]
        given = ELBO().trace_terms(*trace_pair_of(model, told, batch))
        for site in model.latents:
            found.setdefault(site, []).append(given.kl[site][0].double())
    torch.testing.assert_close((probability * torch.stack(found["weights"])).sum(), of_weights, rtol=1e-5, atol=1e-5)
    for site, expected in (("presence", of_presence), ("vectors", of_vectors)):  # the same whatever is drawn
        torch.testing.assert_close(
            torch.stack(found[site]), expected.double().expand(len(values)), rtol=1e-5, atol=1e-5
        )


def trace_pair_of(model: Any, guide: Any, batch: Batch) -> tuple[Any, Any]:
    """The traces of a conditioned guide, whose presence counts as a draw, and of its model."""
    guide_trace = poutine.trace(guide).get_trace(batch)
    guide_trace.nodes["presence"]["is_observed"] = False
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(batch), guide_trace


@pytest.mark.parametrize("samples", [1, 2])
def test_the_log_weight_of_a_draw_is_pyros(samples: int) -> None:
    model, guide = pair(samples)
    for seed in range(5):
        torch.manual_seed(seed)
        ours = ELBO().log_weights(model, guide, BATCH)
        torch.manual_seed(seed)
        pyros = Trace_ELBO().loss(model, guide, BATCH)
        assert -float(ours.sum().detach()) == pytest.approx(pyros, rel=1e-5)


def test_exact_divergences_have_the_mean_of_pyros() -> None:
    """The ELBO with closed forms against log p - log q at the same kind of draws."""
    model, guide = pair()
    wide = Batch.pad([[9, EOS]] * 1500)
    with torch.no_grad():
        terms = ELBO().terms(model, guide, wide)
        plain = ELBO().log_weights(model, guide, wide)
    error = (terms.bound.var() / 1500 + plain.var() / 1500).sqrt()
    assert (terms.bound.mean() - plain.mean()).abs() < 4 * error


def test_an_absent_vector_changes_nothing() -> None:
    model, guide = pair()
    trace = poutine.trace(guide).get_trace(BATCH)
    absent = trace.nodes["presence"]["value"] < 0.5
    assert (trace.nodes["weights"]["value"].exp()[absent] == 0).all()
    assert bool((absent & guide.encode(BATCH).mask).any())
    densities = []
    for scribble in (0.0, 50.0):
        trace.nodes["vectors"]["value"] = torch.where(absent[..., None], scribble, trace.nodes["vectors"]["value"])
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(BATCH)
        nodes = (replayed.nodes[site] for site in ("text", "vectors", "weights", "presence"))
        densities.append(torch.stack([node["fn"].log_prob(node["value"]).double() for node in nodes]))
    assert torch.equal(*densities)


def test_the_published_regularizers_are_of_the_components_that_are_present() -> None:
    model, guide = pair(base_measure=GaussianVectorPrior(16, mean=0.3, variance=2.0))
    batch = Batch.pad([[5, 6, 7, EOS]])
    value = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0]])
    told = poutine.condition(guide, {"presence": value})  # type: ignore[arg-type]
    terms = NVIB().trace_terms(*trace_pair_of(model, told, batch))
    posterior, there = guide.encode(batch), value[0] > 0.5
    log_alpha, mean, variance = (part[0][there] for part in (posterior.log_alpha, posterior.mean, posterior.variance))
    weights = weight_regularizer(log_alpha.logsumexp(-1), math.log(1 + 0.3 * 2), 3)
    vectors = vector_regularizer(
        log_alpha, mean, variance, torch.full((16,), 0.3), torch.full((16,), 2.0), reduction="mean"
    )
    for site, expected in (("weights", weights), ("vectors", vectors)):
        torch.testing.assert_close(terms.penalty[site][0], 4 / 5 * expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(terms.penalty["presence"], terms.kl["presence"])
    charged = describe_objective(model, TrainingOptions(objective="nvib", beta=0.5))["kl_weights"]
    assert charged == {"weights": 0.5, "vectors": 0.0005, "presence": 0.5}


def test_layers_without_presence_count_what_they_keep() -> None:
    model = NVAE(replace(CONFIG, layers=2), presence=RHO, nvib_layers=1)
    counts = NVIB().terms(model, NVAEGuide(model), BATCH).counts
    assert counts["kept_2"].tolist() == [4.0, 2.0] and (counts["kept"] < counts["kept_2"]).all()


def test_prior_draws_are_present_as_often_as_rho_says() -> None:
    model, _ = pair(samples=2, rho=0.25)
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(Batch.pad([[5, 6, 7, EOS]] * 2000)._replace(tokens=None))
    drawn = trace.nodes["presence"]["value"]
    assert (drawn[:, :2] == 1).all()
    assert drawn[:, 2:].mean() == pytest.approx(0.25, abs=0.02)


def test_draws_in_arviz_have_no_vector_where_one_is_absent() -> None:
    model, guide = pair()
    data = to_arviz(model, guide, BATCH, draws=8)
    for group in (data.posterior, data.prior):
        presence, weights, vectors = (group[name].to_numpy() for name in ("presence", "weights", "vectors"))
        assert group["presence"].dims == ("chain", "draw", "text", "component")
        exists = np.broadcast_to(guide.encode(BATCH).mask.numpy(), presence.shape)
        assert (np.isnan(presence) == ~exists).all() and (np.isnan(weights) == ~exists).all()
        assert set(presence[exists]) == {0.0, 1.0}
        assert (weights[presence == 0] == 0).all() and (weights[presence == 1] > 0).all()
        assert (np.isnan(vectors).any(-1) == ~(presence == 1)).all()


@pytest.fixture(scope="module")
def run() -> Run:
    torch.manual_seed(0)
    corpus = Corpus.from_texts(
        [f"The number {n} follows {n - 1}." for n in range(1, 61)], vocabulary=270, max_length=32
    )
    model = NVAE.for_corpus(corpus, width=16, layers=1, heads=2, presence=0.02)
    made = fit(model, NVAEGuide(model), corpus, steps=4, batch_size=8, objective="elbo")
    assert isinstance(made.guide, NVAEGuide) and made.guide.log_odds is not None
    made.guide.log_odds.weight.data.normal_(0.0, 1.0)
    made.guide.log_odds.bias.data.zero_()
    return made


def test_a_run_decodes_from_what_is_present_and_counts_it(run: Run) -> None:
    texts = run.corpus.test[:5]
    posterior: Any = run.encode(texts)
    present = posterior.log_odds > 0
    present[:, 0] = True
    assert torch.equal(posterior.kept, posterior.mask & present)
    evaluation = run.evaluate(texts, metrics=["kept", "present", "kl", "rate", "accuracy"], num_particles=2)
    assert evaluation["kept"]["vectors"] == pytest.approx(float((posterior.kept.sum(-1) - 1).double().mean()))
    assert 0 < float(evaluation["kept"]["of the text's"]) < 1
    own = torch.where(posterior.mask, posterior.log_odds.sigmoid(), 0)[:, 1:].sum(-1)
    assert evaluation["present"]["vectors"] == pytest.approx(float(own.double().mean()), rel=1e-5)
    assert {"kl_presence", "kl_weights", "kl_vectors"} <= set(evaluation)
    memory: Any = thinned(run, posterior, 0.0)
    assert memory.components == int(posterior.kept.sum(-1).max())
    assert [row.text for row in run.reconstruct(texts)] == run.decode(posterior.memory())
    absent = torch.tensor(run.reconstruct(texts)[0].token_weights) == 0
    assert absent.any() and not absent.all()


def test_metrics_of_training_have_the_share_that_is_present(run: Run) -> None:
    assert all(0 < share <= 1 for share in run.folder.read_metrics()["kept"])


def test_a_run_with_presence_is_loaded(run: Run) -> None:
    loaded = pf.load(run.folder.path)
    assert loaded.model.latents == ("presence", "weights", "vectors")
    assert loaded.model.presence == 0.02


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_presence_that_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"presence is .*: give the probability of a vector, above 0 and below 1, or"):
        NVAE(CONFIG, presence=value)


def test_presence_and_what_it_cannot_go_with() -> None:
    with pytest.raises(
        ValueError, match=r"presence is 0\.3, and the prior of the vectors is a TokenVectorPrior.*gauss"
    ):
        NVAE(CONFIG, presence=0.3, base_measure=TokenVectorPrior(16, 30, heads=2))
    corpus = Corpus.from_texts([f"Number {n}." for n in range(40)], vocabulary=270)
    model = NVAE.for_corpus(corpus, width=16, layers=1, heads=2, presence=0.3)
    with pytest.raises(ValueError, match=r"presence is .*, which decides how many vectors stay, in place of a delta"):
        fit(model, NVAEGuide(model, alpha="relu"), corpus, steps=1, objective="nvib", keep=0.5)
    with pytest.raises(ValueError, match=r"the objective iw needs latents with a pathwise gradient, and presence is"):
        fit(model, NVAEGuide(model), corpus, steps=1, objective="iw", num_particles=4)


@pytest.mark.compile
def test_the_whole_objective_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the gradient of the discrete presences: without the noise of vectors, whose generator is another there."""
    monkeypatch.setattr(
        torch.distributions.normal, "_standard_normal", lambda shape, dtype, device: torch.zeros(shape, dtype=dtype)
    )
    model, guide = pair()
    guide.alpha.linear.bias.data.fill_(40.0)  # so that weights are not random either
    objective = NVIB(presence=1.0)(model, guide)
    compiled = CompiledObjective(objective, backend="eager")
    changing = set()
    for seed in range(5):
        gradients = []
        for losses in (objective.losses, compiled.losses):
            torch.manual_seed(seed)
            objective.zero_grad()
            losses(BATCH)["objective"].backward()
            gradients.append({n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4)
        changing.add(float(gradients[0]["guide.log_odds.bias"]))
    assert len(changing) > 1  # several presences were drawn
