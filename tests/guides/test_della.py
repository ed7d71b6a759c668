"""DELLA's posterior: written out, beside Pyro's own bounds, with other priors; a chain whose evidence is known."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, kl_divergence

from pyroformer.guides.della import DELLAGuide
from pyroformer.inference.objectives.bounds import importance_weighted
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.svi import SVI
from pyroformer.models.base import LocalModule
from pyroformer.models.batch import BOS, EOS, Batch
from pyroformer.models.della import DELLA, Structure
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.priors.roles import LatentPrior
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.fusion import FusionKind

CONFIG = TransformerConfig(vocabulary=30, max_length=8, width=16, layers=3, heads=2, positions="learned", init_std=0.3)
TOLD = replace(CONFIG, max_condition_length=4)
SIZE = 4
TEXTS = [[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, EOS]]
CONDITIONS = [[20, 21, 22], [23], []]
BATCH = Batch.pad(TEXTS)
ANSWERS = Batch.pad(TEXTS, conditions=CONDITIONS)
MANY = Batch.pad(TEXTS * 400)  # as many draws at once
STRUCTURES = get_args(Structure)


def away(module: nn.Module, scale: float = 0.1) -> Any:
    """The module, somewhere else than where it starts."""
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return module


def build(config: TransformerConfig = CONFIG, guide: dict[str, Any] | None = None, **options: Any) -> Any:
    """A model and its guide, away from their start."""
    model = away(DELLA(config, **{"latent_size": SIZE, "rank": 2} | options)).eval()
    return model, away(DELLAGuide(model, **guide or {})).eval()


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def sites(trace: poutine.Trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample" and name not in ("texts", "text")]


# --- the posterior ----------------------------------------------------------------------------------------------------


def seen_by_hand(guide: DELLAGuide, batch: Batch, layers: tuple[int, ...]) -> list[Tensor]:
    """What the guide's blocks make of each text, one at a time: of what the decoder reads, from its beginning on."""
    found = []
    for text in TEXTS:
        ids = torch.tensor([[BOS, *text[:-1]]])
        found.append(guide.encoder(ids, torch.ones_like(ids, dtype=torch.bool)))
    return [torch.cat(each) for each in zip(*found, strict=True)]


def posteriors_by_hand(guide: DELLAGuide, batch: Batch, latents: Tensor) -> list[Any]:
    """The posterior of each latent given those below, from its formulas."""
    model = guide.model
    given = {name: latents[:, number] for number, name in enumerate(model.latents)}
    prior = poutine.trace(poutine.condition(model, data=given)).get_trace(batch)
    below, found = torch.zeros(3, SIZE if model.structure == "chain" else 0), []
    conditions = model.read_condition(batch)
    for number, seen in enumerate(seen_by_hand(guide, batch, model.layers)):
        head = guide.heads[number]
        mean, log_variance = (torch.cat([below, conditions[number], seen], -1) @ head.weight.mT + head.bias).chunk(2, 1)
        scale = torch.exp(2.5 * torch.tanh(log_variance / 5))
        if guide.form == "residual":
            base = prior.nodes[model.latents[number]]["fn"]
            mean, scale = base.mean + mean, base.stddev * scale
        found.append(Normal(mean, scale))
        if number < len(model.recursions):
            link = model.recursions[number]
            score = latents[:, number] @ link.latent.weight.mT + link.latent.bias
            below = torch.tanh(score + below @ link.below.weight.mT if number else score)
    return found


in_each_form = pytest.mark.parametrize("form", ["full", "residual"])
in_each_structure = pytest.mark.parametrize("structure", STRUCTURES)


@in_each_form
@in_each_structure
@pytest.mark.parametrize("batch", [BATCH, ANSWERS], ids=["texts", "answers"])
def test_the_posterior_by_hand(form: str, structure: Structure, batch: Batch) -> None:
    config = CONFIG if batch is BATCH else TOLD
    model, guide = build(config, {"posterior": form}, structure=structure, first_prior="learned")
    trace = poutine.trace(guide).get_trace(batch)
    drawn = torch.stack([trace.nodes[name]["value"] for name in model.latents], 1)
    for name, expected in zip(model.latents, posteriors_by_hand(guide, batch, drawn), strict=True):
        distribution = trace.nodes[name]["fn"]
        close(distribution.mean, expected.mean, atol=1e-4)
        close(distribution.variance, expected.variance, atol=1e-4)
    encoded = guide.encode(batch)
    for number, expected in enumerate(posteriors_by_hand(guide, batch, encoded.mean)):
        close(encoded.mean[:, number], expected.mean, atol=1e-4)
        close(encoded.variance[:, number], expected.variance, atol=1e-4)
    memory = encoded.memory()
    assert memory.latents is encoded.mean and memory.condition_tokens is batch.condition_tokens


@in_each_form
def test_divergences_by_hand(form: str) -> None:
    model, guide = build(guide={"posterior": form}, first_prior="learned")
    torch.manual_seed(1)
    terms = ELBO().terms(model, guide, BATCH)
    torch.manual_seed(1)
    posterior = poutine.trace(guide).get_trace(BATCH)
    prior = poutine.trace(poutine.replay(model, trace=posterior)).get_trace(BATCH)
    assert list(terms.kl) == ["z_1", "z_2", "z_3"]
    for name, actual in terms.kl.items():
        q, p = posterior.nodes[name]["fn"], prior.nodes[name]["fn"]
        ratio = q.variance / p.variance
        close(actual, ((ratio + (q.mean - p.mean) ** 2 / p.variance - 1 - ratio.log()) / 2).sum(-1))
        assert (actual > 1e-3).all()


@in_each_structure
def test_sites_are_those_of_the_model_in_its_order(structure: Structure) -> None:
    model, guide = build(structure=structure, first_layer=2)
    assert sites(poutine.trace(guide).get_trace(BATCH)) == list(model.latents)
    assert sites(poutine.trace(model).get_trace(BATCH)) == list(model.latents)


@in_each_structure
def test_a_residual_posterior_starts_at_the_prior_if_nothing_is_read_off(structure: Structure) -> None:
    model, guide = build(TOLD, {"posterior": "residual"}, structure=structure, first_prior="learned")
    for parameter in guide.heads.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, torch.zeros(3)) for value in ELBO().terms(model, guide, ANSWERS).kl.values())


@pytest.mark.parametrize("config", [CONFIG, TOLD])
def test_every_layer_looks_at_its_own_text_and_condition(config: TransformerConfig) -> None:
    batch = BATCH if config is CONFIG else ANSWERS
    model, guide = build(config, structure="independent")
    before = guide.encode(batch).mean
    others = [Batch.pad([TEXTS[0], [9, 8, EOS], TEXTS[2]], conditions=None if config is CONFIG else CONDITIONS)]
    if config is TOLD:
        others.append(Batch.pad(TEXTS, conditions=[CONDITIONS[0], [24], CONDITIONS[2]]))
    for other in others:
        moved = (guide.encode(other).mean - before).abs().amax(-1)
        assert (moved[1] > 1e-4).all() and (moved[[0, 2]] < 1e-5).all()


@pytest.mark.parametrize(
    "option",
    [
        {"encoder": "separate"},
        {"pool": "first"},
        {"pool": "mean"},
        {"encoder": "causal"},
        {"encoder": "causal", "pool": "last"},
    ],
)
def test_the_whole_text_is_read_and_no_word_of_it_is_dropped(option: dict[str, Any]) -> None:
    """What it makes of a text does not change from eval to training, where the decoder reads holes."""
    model, guide = build(replace(CONFIG, word_dropout=0.9), option)
    before = guide.encode(BATCH).mean
    close(model.train() and guide.train().encode(BATCH).mean, before, atol=0)
    other = guide.encode(Batch.pad([[5, 6, 7, 9, EOS], [9, EOS], [10, 11, 13, EOS]])).mean
    moved = (other - before).abs().amax(-1)
    assert (moved[[0, 2]] > 1e-4).all() and (moved[1] < 1e-5).all()


def test_whose_parameters_are_whose() -> None:
    model = DELLA(TOLD, latent_size=SIZE)
    shared, separate = DELLAGuide(model), DELLAGuide(model, encoder="separate")
    theirs = {id(parameter) for parameter in model.parameters()}
    for guide, own in ((shared, ("heads", "pools")), (separate, ("heads", "pools", "blocks"))):
        for name, parameter in guide.named_parameters():
            assert (id(parameter) in theirs) != any(part in name for part in own), name


# --- training ---------------------------------------------------------------------------------------------------------


def gradients_after_a_step(model: DELLA, guide: DELLAGuide, batch: Batch) -> dict[str, Tensor]:
    """From the fresh start, where some parameters wait for others."""
    objective = ELBO()(model, guide)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()
    return {name: parameter.grad for name, parameter in objective.named_parameters()}  # type: ignore[misc]


def assert_all_learn(model: DELLA, guide: DELLAGuide, batch: Batch) -> None:
    for name, gradient in gradients_after_a_step(model, guide, batch).items():
        rows = gradient.flatten(1) if "fusion" in name and gradient.ndim == 3 else gradient.reshape(1, -1)
        assert rows.isfinite().all() and (rows.abs().amax(-1) > 0).all(), name  # of a product, every rank


@in_each_structure
@pytest.mark.parametrize(
    ("fusion", "form"), [*((fusion, "full") for fusion in get_args(FusionKind)), ("product", "residual")]
)
def test_every_parameter_learns_after_one_step(fusion: FusionKind, structure: Structure, form: Any) -> None:
    first_prior: Any = "standard" if form == "full" else "learned"
    model = DELLA(replace(CONFIG, width=8, layers=2), 2, structure, fusion, rank=2, first_prior=first_prior)
    assert_all_learn(model, DELLAGuide(model, posterior=form), BATCH)


@in_each_structure
@pytest.mark.parametrize(
    ("options", "guide"),
    [
        ({"word_dropout": 0.4}, {"encoder": "separate"}),
        ({"max_condition_length": 4}, {"pool": "first"}),
        ({}, {"encoder": "causal", "pool": "last"}),
        ({"max_condition_length": 4, "word_dropout": 0.4}, {"posterior": "residual"}),
    ],
)
def test_every_parameter_learns_with_holes_and_conditions(
    options: dict[str, Any], structure: Structure, guide: dict[str, Any]
) -> None:
    model = DELLA(replace(CONFIG, **options), SIZE, structure, rank=2)
    assert_all_learn(model, DELLAGuide(model, **guide), ANSWERS if "max_condition_length" in options else BATCH)


class Leaning(LatentPrior):
    """A prior of a user's own, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(SIZE))

    def forward(self, summary: Tensor, layer: int) -> Distribution:
        mean = self.slope * (1 + layer + summary.sum(-1, keepdim=True))
        return dist.Normal(mean, 1.0).to_event(1)  # type: ignore[no-any-return]


def laplace(summary: Tensor, layer: int) -> Distribution:
    return dist.Laplace(torch.zeros(SIZE), 1.0 + layer).to_event(1)  # type: ignore[no-any-return]


def mixture(summary: Tensor, layer: int) -> Distribution:
    """Of one component, so that its divergences have no closed form, and yet are known."""
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(1)), dist.Normal(torch.ones(1, SIZE), 2.0).to_event(1))


def heavy(summary: Tensor, layer: int) -> Distribution:
    return dist.StudentT(3.0, torch.zeros(SIZE), 1.0).to_event(1)  # type: ignore[no-any-return]


PRIORS: dict[str, Callable[[], Any]] = {
    "laplace": lambda: laplace,
    "student": lambda: heavy,
    "bare": lambda: dist.Normal(torch.ones(SIZE), 2.0).to_event(1),
    "correlated": lambda: dist.MultivariateNormal(torch.zeros(SIZE), 0.5 * torch.eye(SIZE) + 0.5),
    "mixture": lambda: mixture,
    "own": Leaning,
}


@in_each_structure
@pytest.mark.parametrize("name", PRIORS)
def test_other_priors_train(name: str, structure: Structure) -> None:
    layers = {"last_layer": 1} if structure == "single" else {}
    model, guide = build(latent_prior=PRIORS[name](), structure=structure, **layers)
    svi = SVI(model, guide, torch.optim.Adam, lr=1e-2)
    slope = [part.clone() for part in model.latent_prior.parameters()]
    assert all(torch.isfinite(torch.tensor(svi.step(BATCH))) for _ in range(2))
    moved = [not torch.equal(*pair) for pair in zip(slope, model.latent_prior.parameters(), strict=True)]
    assert all(moved) and bool(moved) == (name == "own")
    torch.manual_seed(1)
    terms = ELBO().terms(model, guide, BATCH)
    torch.manual_seed(1)
    posterior = poutine.trace(guide).get_trace(BATCH)
    prior = poutine.trace(poutine.replay(model, trace=posterior)).get_trace(BATCH)
    for site, actual in terms.kl.items():
        q, p, z = posterior.nodes[site]["fn"], prior.nodes[site]["fn"], posterior.nodes[site]["value"]
        exact = name not in ("student", "mixture")  # elsewhere at the draw
        expected = kl_divergence(q, p) if exact else q.log_prob(z) - p.log_prob(z)
        close(actual, expected, atol=1e-4)


def test_a_divergence_without_a_closed_form_is_right_on_average() -> None:
    model, guide = build(structure="independent", latent_prior=PRIORS["bare"]())
    with torch.no_grad():
        expected = ELBO().terms(model, guide, BATCH).kl
        model.latent_prior = DELLA(CONFIG, SIZE, latent_prior=mixture).latent_prior
        found = ELBO().terms(model, guide, MANY).kl
    for site in found:
        draws = found[site].unflatten(0, (-1, 3))
        assert ((draws.mean(0) - expected[site]).abs() < 4 * draws.std(0) / len(draws) ** 0.5).all()
        assert (draws.std(0) > 0.1).all()


# --- beside Pyro's own ------------------------------------------------------------------------------------------------

VARIANTS: dict[str, Callable[[], tuple[DELLA, DELLAGuide]]] = {
    "chain": lambda: build(first_prior="learned"),
    "independent-residual": lambda: build(guide={"posterior": "residual"}, structure="independent"),
    "single": lambda: build(structure="single", fusion="film"),
    "heavy": lambda: build(latent_prior=heavy),
}


@torch.no_grad()
def seeded(bound: Callable[[Any, Any, Batch], Any], model: DELLA, guide: DELLAGuide, batch: Batch) -> Any:
    torch.manual_seed(1)
    return bound(model, guide, batch)


@pytest.mark.parametrize("name", VARIANTS)
def test_pyros_mean_field_bound_is_ours(name: str) -> None:
    pair = VARIANTS[name]()
    terms = seeded(ELBO().terms, *pair, BATCH)
    assert -float(terms.bound.sum()) == pytest.approx(seeded(TraceMeanField_ELBO().loss, *pair, BATCH), rel=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_pyros_monte_carlo_bound_is_ours_on_average(name: str) -> None:
    """With the same draws, so that they differ by the divergence at a draw and by nothing else."""
    pair = VARIANTS[name]()
    weights = seeded(ELBO().log_weights, *pair, MANY)
    assert -float(weights.sum()) == pytest.approx(seeded(Trace_ELBO().loss, *pair, MANY), rel=1e-5)
    error = weights - seeded(ELBO().terms, *pair, MANY).bound
    assert error.mean().abs() <= 4 * error.std() / len(error) ** 0.5 + 1e-5
    assert (error.std() > 0.1) == (name != "heavy")  # whose divergences are at a draw in both


def test_particles_in_a_plate_are_particles() -> None:
    model, guide = VARIANTS["chain"]()
    weights = seeded(ELBO().log_weights, model, guide, MANY).unflatten(0, (-1, 3)).sum(-1)
    loss = Trace_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, BATCH)
    assert abs(loss + weights.mean()) < 4 * weights.std() * (2 / 400) ** 0.5


@in_each_structure
def test_latents_that_say_nothing_leave_the_bound_of_the_language_model(structure: Structure) -> None:
    """At the start latents change no text, and where the posterior is the prior they cost nothing."""
    model = DELLA(CONFIG, SIZE, structure, rank=2).eval()
    guide = DELLAGuide(model, posterior="residual")
    for parameter in guide.heads.parameters():
        parameter.data.zero_()
    plain = LanguageModel(CONFIG).eval()
    own = {name: part for name, part in model.decoder.state_dict().items() if "fusion" not in name}
    plain.decoder.load_state_dict(own)
    expected = ELBO().terms(plain, None, BATCH).log_likelihood
    close(ELBO().terms(model, guide, BATCH).bound, expected)
    close(importance_weighted(model, guide, BATCH, num_particles=3).float(), expected)


# --- a chain whose evidence is known ----------------------------------------------------------------------------------

SLOPES, NOISE, STEP, WIDTH = (0.9, -0.7), 0.5, 0.8, 4


class Chain(LocalModule):
    """z_1 ~ N(0, 1), z_l ~ N(slope z_l-1, STEP^2), text ~ N(z_1 + z_2 + z_3, NOISE^2), in every dimension alike."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("texts", len(x), dim=-1):
            z = [pyro.sample("z_1", dist.Normal(torch.zeros(WIDTH), 1.0).to_event(1))]
            for number, slope in enumerate(SLOPES):
                z.append(pyro.sample(f"z_{number + 2}", dist.Normal(slope * z[-1], STEP).to_event(1)))
            pyro.sample("text", dist.Normal(sum(z), NOISE).to_event(1), obs=x)


def covariance() -> Tensor:
    """Of z_1, z_2, z_3 and the text: all are linear in four independent standard normals."""
    rows = [torch.tensor([1.0, 0, 0, 0])]
    for number, slope in enumerate(SLOPES):
        rows.append(slope * rows[-1] + STEP * F.one_hot(torch.tensor(number + 1), 4))
    rows.append(sum(rows) + NOISE * torch.tensor([0.0, 0, 0, 1]))
    mixing = torch.stack(rows)
    return mixing @ mixing.mT


class Regression(LocalModule):
    """The posterior, each latent given the text and those below, from the joint covariance; moved and stretched."""

    def __init__(self, shift: float = 0.0, stretch: float = 1.0) -> None:
        super().__init__()
        self.shift, self.stretch = shift, stretch

    def forward(self, x: Tensor) -> None:
        joint, known = covariance(), [x]
        with pyro.plate("texts", len(x), dim=-1):
            for number in range(3):
                given = [3, *range(number)]
                slopes = torch.linalg.solve(joint[given][:, given], joint[given, number])
                scale = (joint[number, number] - slopes @ joint[given, number]).sqrt()
                mean = sum(slope * value for slope, value in zip(slopes, known, strict=True)) + self.shift
                distribution = dist.Normal(mean, scale * self.stretch).to_event(1)
                known.append(pyro.sample(f"z_{number + 1}", distribution))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(300, WIDTH) * covariance()[3, 3].sqrt()


def evidence(x: Tensor) -> Tensor:
    return Normal(0.0, covariance()[3, 3].sqrt()).log_prob(x).sum(-1)


def test_the_exact_posterior_of_the_chain_makes_the_bound_tight(x: Tensor) -> None:
    for num_particles in (1, 8):
        bound = importance_weighted(Chain(), Regression(), x, num_particles)
        torch.testing.assert_close(bound.float(), evidence(x), atol=1e-4, rtol=1e-4)
    bound = ELBO(num_particles=20).terms(Chain(), Regression(), x).bound
    assert (bound.mean() - evidence(x).mean()).abs() < 0.05


def test_bounds_of_the_chain_are_in_order(x: Tensor) -> None:
    guide = Regression(shift=0.2, stretch=1.4)
    elbo = ELBO(num_particles=10).terms(Chain(), guide, x).bound.mean()
    bounds = [elbo, *(importance_weighted(Chain(), guide, x, count).mean() for count in (4, 64))]
    truth = evidence(x).mean()
    assert all(lower < upper for lower, upper in zip(bounds, [*bounds[1:], truth + 0.01], strict=True))
    assert truth - bounds[-1] < 0.05 < 0.5 < truth - elbo


@pytest.mark.parametrize("guide", [Regression(), Regression(shift=0.2, stretch=1.4)])
def test_divergences_averaged_over_layers_would_bound_nothing(x: Tensor, guide: Regression) -> None:
    """Three latents of a chain cost the sum of their divergences; their mean claims more than the truth."""
    terms = ELBO(num_particles=10).terms(Chain(), guide, x)
    assert list(terms.kl) == ["z_1", "z_2", "z_3"]
    divergence = torch.stack(list(terms.kl.values())).mean(1)
    truth = evidence(x).mean()
    assert terms.log_likelihood.mean() - divergence.mean() > truth + 0.5
    assert terms.log_likelihood.mean() - 3 * divergence.mean() < truth + 0.05
    assert importance_weighted(Chain(), guide, x, 16).mean() < truth + 0.02


# --- types and sizes --------------------------------------------------------------------------------------------------


@in_each_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.double])
def test_a_guide_of_another_type(form: Any, dtype: torch.dtype) -> None:
    model = DELLA(TOLD, SIZE, rank=2).eval().to(dtype)
    guide = DELLAGuide(model, posterior=form).eval().to(dtype)  # its model has the type already
    objective = ELBO()(model, guide)
    objective(ANSWERS).backward()
    assert all(part.grad is None or part.grad.isfinite().all() for part in objective.parameters())
    posterior = guide.encode(ANSWERS)
    assert posterior.mean.dtype == posterior.variance.dtype == torch.promote_types(dtype, torch.float32)


def test_half_precision_is_near_single() -> None:
    model, guide = build(TOLD)
    expected = guide.encode(ANSWERS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = guide.encode(ANSWERS)
        assert torch.isfinite(ELBO()(model, guide)(ANSWERS))
    half = DELLAGuide.encode(guide.bfloat16(), ANSWERS) if model.bfloat16() else None
    for actual in (autocast, half):
        torch.testing.assert_close(actual.mean, expected.mean, atol=0.1, rtol=0.1)
        torch.testing.assert_close(actual.variance, expected.variance, atol=0.1, rtol=0.1)


def test_the_size_of_the_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's count, 193,353,984, term by term: what it has twice and this model once, and the other way round."""
    monkeypatch.setattr("pyroformer.models.della.check_prior", lambda *args, **options: None)  # it looks at a draw
    width, layers, latent, rank, vocabulary = 768, 12, 32, 4, 50257 + 2
    config = TransformerConfig(
        vocabulary=vocabulary, max_length=1024, width=width, layers=layers, heads=12, positions="learned", tied=False
    )
    with torch.device("meta"):
        model = DELLA(config, latent, fusion="product", rank=rank, first_prior="learned")
        guide = DELLAGuide(model, encoder="shared", pool="attention")
    ours = sum(parameter.numel() for parameter in ELBO()(model, guide).parameters())
    more = {
        "a column for the one that is appended to values, beside the bias": layers * rank * width,
        "the same for the one that is appended to latents": layers * rank * width,
        "the recursion of layer 1, whose two inputs are zero": 2 * (latent**2 + latent),
        "in that of layer 2, the matrix of the summary, which is constant there": latent**2,
        "a second bias in each recursion from layer 2 on": (layers - 1) * latent,
        "in the prior of layer 1, the matrix of the summary, which is constant there": 2 * latent * latent,
    }
    less = {"offsets of the readout": vocabulary}
    assert ours + sum(more.values()) - sum(less.values()) == 193_353_984


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "tied"}, "encoder is 'tied': choose one of shared, causal, separate"),
        (
            {"encoder": nn.Linear(2, 2)},
            "encoder has type Linear: give shared, causal, separate, a pf.TextEncoder, or derive a guide whose",
        ),
        ({"encoder": "causal", "pool": "first"}, "pool is first, and the first token of a causal encoder reads no"),
        ({"posterior": "flow"}, "posterior is 'flow': choose one of full, residual"),
        ({"pool": "max"}, "pool is 'max': choose one of attention, mean, first"),
    ],
)
def test_guides_that_cannot_be(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        DELLAGuide(DELLA(CONFIG, SIZE), **options)


@pytest.mark.parametrize(("name", "kind"), [("laplace", "Laplace"), ("correlated", "MultivariateNormal")])
def test_a_residual_posterior_needs_a_gaussian_prior(name: str, kind: str) -> None:
    model = DELLA(CONFIG, SIZE, latent_prior=PRIORS[name]())
    message = f"a residual posterior needs a diagonal Gaussian prior, and this one is a {kind}: choose posterior 'full'"
    with pytest.raises(ValueError, match=message + ", or another latent_prior"):
        DELLAGuide(model, posterior="residual")
    DELLAGuide(DELLA(CONFIG, SIZE, latent_prior=PRIORS["bare"]()), posterior="residual")


def test_texts_that_are_too_long_or_not_there() -> None:
    model, guide = build()
    for call, trial in product((guide, guide.encode), ("long", "absent")):
        message = "a text of 9 tokens does not fit max_length = 8" if trial == "long" else "the batch is unobserved"
        with pytest.raises(ValueError, match=message):
            call(Batch.pad([[5] * 9]) if trial == "long" else Batch.unobserved(2))


def test_conditions_and_guides_that_do_not_go_together() -> None:
    for config, batch, message in [
        (CONFIG, ANSWERS, "the model takes no condition, and one was given: build the model for such texts"),
        (TOLD, BATCH, "the model takes a condition, and none was given: build the model for such texts"),
        (
            TOLD,
            Batch.pad([[5, EOS]], conditions=[[5] * 5]),
            "a condition of 5 tokens does not fit max_condition_length",
        ),
    ]:
        model, guide = build(config)
        for call in (guide, guide.encode, ELBO()(model, guide)):
            with pytest.raises(ValueError, match=message):
                call(batch)
