"""Control of the KL term: free bits by brute force, a controller that finds the multiplier, and no bound by name."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from cut_short import crashed_at, last_weights
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.cli.main import main
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.loaders import TrainingStream
from pyroformer.inference.evaluation.report import Evaluation
from pyroformer.inference.objectives.elbo import ELBO, Objective
from pyroformer.inference.objectives.kl_control import FreeBits, KLController, by_dimension
from pyroformer.inference.objectives.registry import (
    describe_objective,
    held_out_objective,
    in_words,
    is_bound,
    make_objective,
)
from pyroformer.inference.options import FreeBitsPer, TrainingOptions
from pyroformer.inference.run import Run, load
from pyroformer.inference.schedules import geometric
from pyroformer.inference.training.compiled import CompiledObjective
from pyroformer.inference.training.fit import fit
from pyroformer.models.base import LocalModule, Model
from pyroformer.models.batch import Batch
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.serialization import Configurable

SITES = ("z_1", "z_2")
NOISE = 0.5
DATA = torch.tensor([[0.3, -1.2, 0.1, 0.0], [2.0, 0.7, -0.2, 0.1], [-0.4, 1.5, 0.0, 0.2]])
WEIGHT = torch.tensor([0.5, 0.25, 0.25])
SOME = ["The number 9 follows 8.", "The number", "9."]
TEXTS = [f"The number {n} follows {n - 1}." for n in range(1, 61)]


class Chain(Model):
    """z_1 ~ N(0, 1), z_2 ~ N(shift, 1), text ~ N((z_1, z_2), NOISE^2), with two dimensions each and a length beside."""

    latents = SITES

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, data: Tensor | Batch) -> None:
        x = features(data)
        with pyro.plate("texts", len(x), dim=-1):
            pyro.sample("length", dist.Poisson(3.0), obs=torch.full((len(x),), 4.0))
            z_1 = pyro.sample("z_1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z_2 = pyro.sample("z_2", dist.Normal(self.shift, 1.0).to_event(1))
            pyro.sample("text", dist.Normal(torch.cat([z_1, z_2], -1), NOISE).to_event(1), obs=x)


class Posterior(Configurable, LocalModule):
    def __init__(self, slope: float = 0.8) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((4,), slope))
        self.log_scale = nn.Parameter(torch.tensor([-0.7, 0.1, 0.05, -0.05]))

    def forward(self, data: Tensor | Batch) -> None:
        x = features(data)
        means, scales = (self.slope * x).chunk(2, -1), self.log_scale.exp().chunk(2, -1)
        with pyro.plate("texts", len(x), dim=-1):
            for site, mean, scale in zip(SITES, means, scales, strict=True):
                pyro.sample(site, dist.Normal(mean, scale).to_event(1))


def features(data: Tensor | Batch) -> Tensor:
    """Four numbers for each text of a batch, or the data themselves."""
    if isinstance(data, Tensor):
        return data
    assert data.tokens is not None and data.mask is not None
    total = (data.tokens * data.mask).sum(-1, keepdim=True) / 1000
    return torch.sin(total * torch.arange(1.0, 5.0))


def closed_form(model: Chain, guide: Posterior) -> Tensor:
    """The divergence of each text, site and dimension, with shape (3, 2, 2)."""
    prior = torch.stack([torch.zeros(2), model.shift])
    q = dist.Normal((guide.slope * DATA).view(3, 2, 2), guide.log_scale.exp().view(2, 2))
    return kl_divergence(q, dist.Normal(prior, 1.0))


def brute_force(kl: Tensor, nats: float, per: FreeBitsPer) -> Tensor:
    """The sum of the hinges at the weighted mean, group by group."""
    mean = sum(weight * each for weight, each in zip(WEIGHT, kl, strict=True))
    assert isinstance(mean, Tensor)
    groups = {"dimension": mean.flatten(), "layer": mean.sum(-1), "total": mean.sum()[None]}[per]
    return torch.stack([max(group, torch.tensor(nats)) for group in groups]).sum()


def loss(elbo: ELBO, model: Chain, guide: Posterior, kl_weights: float = 1.0) -> Tensor:
    """The loss of the data at one and the same noise."""
    torch.manual_seed(0)
    terms = elbo.terms(model, guide, DATA)
    return elbo.combine(terms, dict.fromkeys(SITES, torch.tensor(kl_weights)), WEIGHT)


# Free bits


def test_the_hinge_by_hand() -> None:
    kl = {"z_1": torch.tensor([0.0, 1.0]), "z_2": torch.tensor([3.0, 5.0]), "length": torch.tensor([7.0, 8.0])}
    half = torch.tensor([0.5, 0.5])
    layers = FreeBits(2.0, SITES)(kl, half)
    assert [layers[site].tolist() for site in kl] == [[2.0, 2.0], [3.0, 5.0], [7.0, 8.0]]
    low, high = FreeBits(4.0, SITES, "total")(kl, half), FreeBits(5.0, SITES, "total")(kl, half)
    assert [low[site].tolist() for site in SITES] == [[0.0, 1.0], [3.0, 5.0]]  # 0.5 + 4 nats together
    assert [high[site].tolist() for site in SITES] == [[2.5, 2.5], [2.5, 2.5]]
    rows = {"z_1": torch.tensor([[0.0, 3.0], [1.0, 5.0]])}
    assert FreeBits(2.0, ("z_1",), "dimension")(rows, half)["z_1"].tolist() == [2.0 + 3.0, 2.0 + 5.0]
    double = FreeBits(2.0, ("z_2",))({"z_2": kl["z_2"].double()}, half)["z_2"]
    assert double.dtype == torch.float64 and double.tolist() == [3.0, 5.0]


def test_dimensions_of_nested_events_are_separate() -> None:
    nested = dist.Independent(dist.Independent(dist.Normal(torch.zeros(3, 4, 5), 1.0), 1), 1)
    assert by_dimension({"name": "z", "fn": nested, "scale": 1.0, "mask": None})["fn"].batch_shape == (3, 4, 5)


def test_rows_that_fill_up_a_batch_and_the_scale_of_weights_do_not_move_the_hinge() -> None:
    kl = {"z_1": torch.tensor([1.0, 3.0, 100.0])}
    for scale in (0.1, 4.0):
        charged = FreeBits(2.5, ("z_1",))(kl, scale * torch.tensor([1.0, 1.0, 0.0]))
        assert charged["z_1"].tolist() == [2.5, 2.5, 2.5]
    empty = FreeBits(2.5, ("z_1",))(kl, torch.zeros(3))["z_1"]
    assert empty.isfinite().all()


@pytest.mark.parametrize("nats", [0.0, 0.15, 0.5, 1.5, 10.0])
@pytest.mark.parametrize("per", ["dimension", "layer", "total"])
def test_the_loss_is_that_of_brute_force(per: FreeBitsPer, nats: float) -> None:
    model, guide = Chain(), Posterior()
    plain = loss(ELBO(), model, guide)
    kl = closed_form(model, guide)
    without = plain - (WEIGHT[:, None, None] * kl).sum()
    expected = without + brute_force(kl, nats, per)
    torch.testing.assert_close(loss(ELBO(free_bits=FreeBits(nats, SITES, per)), model, guide), expected)


def test_the_weights_of_texts_decide_whether_the_mean_is_above_the_allowance() -> None:
    model, guide = Chain(), Posterior()
    kl = closed_form(model, guide)
    each = kl.sum((1, 2))
    nats = float((WEIGHT @ each + each.mean()).detach() / 2)
    expected = loss(ELBO(), model, guide) - WEIGHT @ each + brute_force(kl, nats, "total")
    torch.testing.assert_close(loss(ELBO(free_bits=FreeBits(nats, SITES, "total")), model, guide), expected)


def test_a_group_above_has_the_gradient_of_its_kl_and_one_below_has_none() -> None:
    def gradients(free_bits: FreeBits | None, kl_weights: float = 1.0) -> dict[str, Tensor]:
        model, guide = Chain(), Posterior()
        loss(ELBO(free_bits=free_bits), model, guide, kl_weights).backward()
        return {"prior": model.shift.grad, "slope": guide.slope.grad, "scale": guide.log_scale.grad}

    layers = closed_form(Chain(), Posterior()).sum(-1)
    first, second = (WEIGHT @ layers).tolist()
    assert second < 0.5 < first
    whole, likelihood = gradients(None), gradients(None, kl_weights=0.0)
    found = gradients(FreeBits(0.5, SITES))
    assert likelihood["prior"] is None or not likelihood["prior"].any()
    assert whole["prior"].any() and not found["prior"].any()  # the prior is that of z_2, below
    for name in ("slope", "scale"):
        torch.testing.assert_close(found[name][:2], whole[name][:2])
        torch.testing.assert_close(found[name][2:], likelihood[name][2:])
        assert not torch.allclose(found[name][2:], whole[name][2:])
    above = gradients(FreeBits(0.5 * second, SITES))
    for name, gradient in whole.items():
        torch.testing.assert_close(above[name], gradient)


def test_dimensions_without_a_closed_form_are_estimated_at_the_draw() -> None:
    class Heavy(Chain):
        def forward(self, data: Tensor | Batch) -> None:
            with pyro.plate("texts", 3, dim=-1):
                z = pyro.sample("z_1", dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1))
                pyro.sample("z_2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("text", dist.Normal(z, NOISE).to_event(1), obs=features(data)[:, :2])

    terms = ELBO(free_bits=FreeBits(0.1, SITES, "dimension")).terms(Heavy(), Posterior(), DATA)
    assert terms.penalty["z_1"].shape == (3, 2)
    torch.testing.assert_close(terms.penalty["z_1"].sum(-1), terms.kl["z_1"])


def test_dimensions_add_up_under_masks_scales_and_for_sites_that_all_texts_share() -> None:
    class Shared(LocalModule):
        def forward(self, x: Tensor) -> None:
            with poutine.scale(scale=3.0):
                pyro.sample("z_1", dist.Normal(torch.ones(2, 3), 1.0).to_event(2))
            with pyro.plate("texts", len(x), dim=-1):
                with poutine.mask(mask=x[:, 0] > 0), poutine.scale(scale=WEIGHT):
                    pyro.sample("z_2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("text", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    class SharedGuide(LocalModule):
        def forward(self, x: Tensor) -> None:
            with poutine.scale(scale=3.0):
                pyro.sample("z_1", dist.Normal(torch.zeros(2, 3), 0.1).to_event(2))
            with pyro.plate("texts", len(x), dim=-1), poutine.mask(mask=x[:, 0] > 0), poutine.scale(scale=WEIGHT):
                pyro.sample("z_2", dist.Normal(x[:, :2], 0.5).to_event(1))

    elbo = ELBO(data_size=10, free_bits=FreeBits(0.1, SITES, "dimension"))
    terms = elbo.terms(Shared(), SharedGuide(), DATA)
    assert terms.penalty["z_1"].shape == (3, 2, 3) and not terms.penalty["z_2"][2].any()
    for site in SITES:
        torch.testing.assert_close(terms.penalty[site].flatten(1).sum(-1), terms.kl[site])


def test_plates_inside_a_text_are_summed_over_and_dimensions_are_not() -> None:
    class Parts(LocalModule):
        def __init__(self, mean: float) -> None:
            super().__init__()
            self.mean = mean

        def forward(self, x: Tensor) -> None:
            with pyro.plate("texts", len(x), dim=-2):
                with pyro.plate("parts", 2, dim=-1):
                    pyro.sample("z_1", dist.Normal(self.mean * x.view(3, 2, 2), 1.0).to_event(1))
                if self.mean == 0:
                    pyro.sample("text", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x[:, None])

    terms = ELBO(free_bits=FreeBits(0.1, ("z_1",), "dimension")).terms(Parts(0.0), Parts(2.0), DATA)
    torch.testing.assert_close(terms.penalty["z_1"], 2 * DATA.view(3, 2, 2).square().sum(1))


def test_an_observed_site_is_charged_as_a_whole() -> None:
    options: list[Any] = ["layer", "dimension"]
    whole, by_dim = (loss(ELBO(free_bits=FreeBits(1.0, ("length",), per)), Chain(), Posterior()) for per in options)
    assert torch.equal(whole, by_dim)


def test_particles_are_averaged_before_the_hinge() -> None:
    terms = ELBO(num_particles=3, free_bits=FreeBits(0.1, SITES, "dimension")).terms(Chain(), Posterior(), DATA)
    assert terms.penalty["z_2"].shape == (3, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FreeBits(-1.0, SITES), "nats is -1.0: give zero or a positive number of free nats"),
        (lambda: FreeBits(math.inf, SITES), "nats is inf: give zero or a positive number of free nats"),
        (lambda: FreeBits(1.0, SITES, "text"), "per is 'text': choose one of dimension, layer, total"),  # type: ignore[arg-type]
        (
            lambda: loss(ELBO(free_bits=FreeBits(1.0, ("z_3",))), Chain(), Posterior()),
            "free bits name the site 'z_3', but the model has only length, z_1, z_2: name its latent sites",
        ),
        (
            lambda: loss(ELBO(free_bits=FreeBits(1.0, ("z_3",), "dimension")), Chain(), Posterior()),
            "free bits name the site 'z_3', but the model has only length, z_1, z_2: name its latent sites",
        ),
        (
            lambda: by_dimension({"name": "z", "fn": dist.MultivariateNormal(torch.zeros(2), torch.eye(2))}),
            r"those of the site 'z' \(MultivariateNormal\) are not: give them per layer, or in total",
        ),
    ],
)
def test_bad_input_gets_a_sentence(make: Callable[[], object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        make()


# The controller


def best_weight(target: float, data: Tensor) -> float:
    """The beta whose best posterior, p(z) p(x | z)^(1 / beta) made normal, has the target as its KL."""

    def kl(beta: float) -> float:
        precision = 1 / (beta * NOISE**2)
        q = dist.Normal(data * precision / (1 + precision), (1 + precision) ** -0.5)
        return float(kl_divergence(q, dist.Normal(0.0, 1.0)).sum(-1).mean())

    low, high = 1e-4, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if kl(middle) > target else (low, middle)
    return low


@pytest.mark.parametrize("target", [1.0, 6.0])  # at beta = 1 it is 3.2
def test_the_kl_gets_to_the_target_and_the_weight_to_the_multiplier(target: float) -> None:
    data = 1.2 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    slope, log_scale = torch.full((4,), 0.1, requires_grad=True), torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([slope, log_scale], lr=0.02)
    controller = KLController(target)
    for _ in range(700):
        mean, scale = slope * data, log_scale.exp()
        z = mean + scale * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * log_scale).sum(-1).mean()
        error = ((data - z) ** 2).sum(-1).mean() / (2 * NOISE**2)
        optimizer.zero_grad()
        (error + controller.value * kl).backward()
        optimizer.step()
        controller.update(kl.detach())
    assert float(controller.average) == pytest.approx(target, rel=0.05)
    assert float(controller.value) == pytest.approx(best_weight(target, data), rel=0.15)


def test_a_step_of_the_controller_by_hand() -> None:
    controller = KLController(4.0, proportional=0.5, integral=0.1, memory=0.75)
    assert float(controller.value) == 1.0  # nothing moves before a KL is known
    controller.update(torch.tensor(0.0, requires_grad=True))
    assert float(controller.average) == 3.0 and not controller.value.requires_grad
    assert float(controller.value) == pytest.approx(math.exp(-0.25 * (0.5 + 0.1)))
    controller.update(torch.tensor(1000.0))  # counts as twice the target
    assert float(controller.value) == pytest.approx(math.exp(0.5 - 0.025 + 0.1))


def test_the_weight_stays_in_its_range_and_leaves_its_end_at_once() -> None:
    controller = KLController(4.0, memory=0.0, least=0.5, largest=2.0)
    for kl, end, back in ((0.0, 0.5, 4.1), (100.0, 2.0, 3.9)):
        for _ in range(200):
            controller.update(torch.tensor(kl))
        assert float(controller.value) == pytest.approx(end)
        controller.update(torch.tensor(back))
        assert 0.51 < float(controller.value) < 1.99


# Options


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=32)


def test_the_mean_is_beta_divided_by_the_sites() -> None:
    model, guide = Chain(), Posterior()
    mean, half, whole = (
        make_objective(model, guide, TrainingOptions(**options), 10)
        for options in ({"kl_reduction": "mean"}, {"beta": 0.5}, {})
    )
    losses = [loss_of(objective) for objective in (mean, half, whole)]
    assert losses[0] == losses[1] != losses[2]


def loss_of(objective: Objective) -> float:
    torch.manual_seed(0)
    return float(objective(DATA).detach())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"beta": 0.5}, "beta = 0.5, not a bound"),
        ({"beta": 4.0}, "beta = 4"),
        ({"beta": 2.0, "kl_reduction": "mean"}, "KL averaged over 2 latents: effective beta = 1"),
        ({"kl_reduction": "mean"}, "KL averaged over 2 latents: effective beta = 0.5, not a bound"),
        ({"free_bits": 2.0}, "free bits: 2 nats a layer, not a bound"),
        ({"free_bits": 0.5, "free_bits_per": "total"}, "free bits: 0.5 nats in total, not a bound"),
        (
            {"beta": 0.1, "free_bits": 1.0, "free_bits_per": "dimension"},
            "beta = 0.1, free bits: 1 nat a dimension",
        ),
        ({"target_kl": 4.0}, "KL held at 4 nats a text, not a bound"),
    ],
)
def test_what_is_trained_is_said_in_words(options: dict[str, Any], words: str) -> None:
    described = describe_objective(Chain(), TrainingOptions(**options))
    assert in_words(described).startswith(words) and bool(in_words(described)) == bool(words)
    assert described["is_bound"] == is_bound(described) == ("not a bound" not in in_words(described))


def test_a_weight_above_one_is_a_bound_in_runs_of_before() -> None:
    before = {"name": "elbo", "is_bound": False, "kl_weights": {"z_1": 4.0}}
    assert is_bound(before) and in_words(before) == "beta = 4"


def test_the_mean_over_one_latent_is_its_sum() -> None:
    model = Chain()
    model.latents = ("z_1",)  # type: ignore[misc]  # the sites may be those of an instance
    described = describe_objective(model, TrainingOptions(kl_reduction="mean"))
    assert described["kl_weights"] == {"z_1": 1.0} and described["is_bound"] and not in_words(described)


def test_weighing_draws_is_a_bound_that_has_no_kl() -> None:
    described = describe_objective(Chain(), TrainingOptions(objective="iw", num_particles=4))
    assert described == {"name": "iw", "is_bound": True, "kl_weights": {}, "num_particles": 4} and not in_words(
        described
    )
    assert describe_objective(Chain(), TrainingOptions(num_particles=4))["num_particles"] == 4  # averaged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "particles is 1: the objective iw weighs several draws, give 2 or more"),
        ({"num_particles": 4, "beta": 0.5}, "beta is 0.5, which weighs a KL, and the objective iw has none: choose"),
        ({"num_particles": 4, "kl_schedule": "cyclical"}, "kl_schedule is cyclical, which weighs a KL"),
        ({"num_particles": 4, "free_bits": 1.0}, "free_bits is 1.0, which is about the KL, and the objective iw"),
    ],
)
def test_weighing_draws_leaves_no_kl_to_control(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe_objective(Chain(), TrainingOptions(objective="iw", **options))


@pytest.mark.parametrize("objective", ["elbo", "iw"])
def test_draws_need_latents(corpus: Corpus, objective: str) -> None:
    lm = LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)
    message = "num_particles is 4, a number of draws of latents, and LanguageModel has none"
    with pytest.raises(ValueError, match=message):
        describe_objective(lm, TrainingOptions(objective=objective, num_particles=4))


@pytest.mark.parametrize("options", [{"free_bits": 1.0}, {"target_kl": 1.0}, {"kl_reduction": "mean"}])
def test_control_needs_divergences_and_latents(corpus: Corpus, options: dict[str, Any]) -> None:
    name = next(iter(options))
    nvae = NVAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    lm = LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)
    with pytest.raises(ValueError, match=f"{name} is .*, which is about the KL, and the objective nvib has none"):
        fit(nvae, NVAEGuide(nvae), corpus, steps=1, **options)
    with pytest.raises(ValueError, match=f"{name} is .*, which is about the KL of latents, and LanguageModel has"):
        fit(lm, None, corpus, steps=1, **options)


@pytest.mark.parametrize("options", [{"beta": 0.5}, {"kl_schedule": "linear"}])
def test_weights_of_a_kl_need_latents(corpus: Corpus, options: dict[str, Any]) -> None:
    lm = LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} is {value}, which is about the KL of latents, and LanguageModel has"):
        fit(lm, None, corpus, steps=1, **options)


def test_a_language_model_begun_with_such_a_weight_goes_on(corpus: Corpus, tmp_path: Path) -> None:
    lm = LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)
    config = fit(lm, None, corpus, out=tmp_path, steps=1).folder.config_file
    begun = config.read_text()
    assert "beta: 1.0" in begun and "kl_schedule: constant" in begun
    config.write_text(begun.replace("beta: 1.0", "beta: 0.5").replace("kl_schedule: constant", "kl_schedule: linear"))
    assert main(f"fit lm --out {tmp_path} --resume --steps 2".split()) == 0
    assert fit(lm, None, corpus, out=tmp_path, resume=True, steps=3).folder.step() == 3


# Runs


def train(corpus: Corpus, out: Path, **options: Any) -> Run:
    torch.manual_seed(0)
    return fit(Chain(), Posterior(), corpus, out=out, **{"batch_size": 8, "validations": 3, **options})


@pytest.mark.parametrize("accumulate_grad_batches", [1, 2])
def test_a_controlled_run_resumes_to_the_same_numbers(
    corpus: Corpus, tmp_path: Path, accumulate_grad_batches: int
) -> None:
    options = {"steps": 9, "accumulate_grad_batches": accumulate_grad_batches, "target_kl": 2.0}
    train(corpus, tmp_path / "whole", **options)
    crashed_at(6, train, corpus, tmp_path / "cut", **options)
    before = last_weights(tmp_path / "cut")
    train(corpus, tmp_path / "cut", resume=True, **options)
    whole, cut = last_weights(tmp_path / "whole"), last_weights(tmp_path / "cut")
    assert {"controller.average", "controller.log_value"} < set(whole)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not torch.equal(before["controller.log_value"], cut["controller.log_value"])
    with pytest.raises(ValueError, match=r"target_kl is None, but .* was begun with 2\.0: leave it out to go on"):
        train(corpus, tmp_path / "cut", resume=True, steps=9, target_kl=None)


def test_the_controller_hears_the_mean_kl_of_all_texts_of_a_step(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    monkeypatch.setattr(KLController, "update", lambda self, kl: heard.append(float(kl)))
    options: dict[str, Any] = {"batch_size": 5, "accumulate_grad_batches": 3}
    train(corpus, tmp_path, steps=4, learning_rate=1e-12, target_kl=2.0, **options)
    torch.manual_seed(0)
    objective = ELBO()(Chain(), Posterior())
    expected, rows = [], 0
    for step in range(4):
        batches = TrainingStream(corpus.train, 5, accumulate_grad_batches=3).step(step)
        real = [batch.weight > 0 for batch in batches]
        kl = [sum(objective.terms(batch).kl[site] for site in SITES) for batch in batches]
        expected.append(float(torch.cat(kl)[torch.cat(real)].mean().detach()))
        rows += sum(map(len, real))
    assert rows == 60 > len(corpus.train)  # one of the steps is short
    assert heard == pytest.approx(expected, rel=1e-4)


def test_metrics_hold_the_weight_and_charge_held_out_texts_at_least_the_target(corpus: Corpus, tmp_path: Path) -> None:
    run = train(corpus, tmp_path, steps=6, target_kl=50.0)
    rows = run.folder.read_metrics()
    columns = {name: [v for v in values if isinstance(v, float)] for name, values in rows.items() if name != "split"}
    beta = columns["beta"]
    assert beta[-1] < 0.9 and beta == sorted(beta, reverse=True)
    length = sum(map(len, map(run.tokenizer.encode, corpus.valid[:]))) / len(corpus.valid)
    for index, split in enumerate(rows["split"]):
        latent = columns["kl_z_1"][index] + columns["kl_z_2"][index]
        others = columns["reconstruction"][index] + columns["kl_length"][index]
        assert columns["bound"][index] == pytest.approx(others + latent, rel=1e-4)
        if split == "valid":
            assert columns["objective"][index] == pytest.approx(others + 50.0 / length, rel=1e-4)
        elif beta[index] < 1:
            assert columns["objective"][index] < columns["bound"][index]


def test_a_weight_that_does_not_move_has_no_column(corpus: Corpus, tmp_path: Path) -> None:
    assert "beta" not in train(corpus, tmp_path / "a", steps=1).folder.read_metrics()
    scheduled = train(corpus, tmp_path / "b", steps=3, kl_schedule="linear", beta=0.5).folder.read_metrics()
    assert scheduled["beta"][0] == pytest.approx(0.0) and scheduled["beta"][-1] == pytest.approx(0.5)
    scheduled = train(corpus, tmp_path / "c", steps=3, kl_schedule="geometric", beta=0.5).folder.read_metrics()
    assert scheduled["beta"][0] == pytest.approx(0.0005)
    assert scheduled["beta"][-1] == pytest.approx(0.5 * geometric(2 / 3), rel=1e-4)  # the table rounds


@pytest.fixture(scope="module")
def nvae(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose latents have used fewer nats than they may."""
    out = tmp_path_factory.mktemp("nvae") / "run"
    return fit_nvae(corpus, out, free_bits=1e5, free_bits_per="total")


def fit_nvae(corpus: Corpus, out: Path, **options: Any) -> Run:
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    guide = NVAEGuide(model)
    return fit(model, guide, corpus, out=out, steps=2, validations=1, batch_size=8, objective="elbo", **options)


def evaluate(run: Run, **options: Any) -> Evaluation:
    return run.evaluate(SOME, num_particles=1, reconstructions=1, **options)


def test_evaluation_tells_free_bits_from_the_bound(nvae: Run) -> None:
    found = evaluate(load(nvae.folder.path))
    figure = found["objective"]
    assert figure.label == "objective that was trained: elbo, free bits: 100000 nats in total"
    assert figure.bound_on is None and found["importance_weighted"].bound_on == "log p(x)"
    others = [found[name]["nats/text"] or 0.0 for name in ("reconstruction", "kl_length")]
    assert figure["nats/text"] == pytest.approx(sum(others) + 1e5)
    assert found["bound"]["nats/text"] == pytest.approx(sum(others) + (found["rate"]["nats/text"] or 0.0))
    assert nvae.config["objective"]["is_bound"] is False


def test_evaluation_hinges_the_mean_over_all_texts_and_not_over_a_batch(nvae: Run) -> None:
    plain = evaluate(nvae, batch_size=1)
    kl = {site: plain[f"kl_{site}"]["nats/text"] or 0.0 for site in ("weights", "vectors")}
    least = min(kl.values())
    trained = nvae.config["objective"] | {"free_bits": 1.01 * least, "free_bits_per": "layer"}
    run = Run(nvae.model, nvae.guide, nvae.corpus, nvae.folder, nvae.config | {"objective": trained}, 0)
    site = min(kl, key=lambda name: kl[name])
    longest = ELBO().terms(run.model, run.guide, run.batch(SOME[:1])).kl[site]
    assert float(longest.detach()) > 1.01 * least  # a text is above, the mean is not
    found = evaluate(run, batch_size=1)["objective"]["nats/text"]
    assert found == pytest.approx((plain["bound"]["nats/text"] or 0.0) + 0.01 * least, rel=1e-6)


def test_a_run_held_at_a_target_is_charged_the_target(corpus: Corpus, tmp_path: Path) -> None:
    run = fit_nvae(corpus, tmp_path, target_kl=3.0)
    found = evaluate(load(tmp_path))
    rate = found["rate"]["nats/text"] or 0.0
    assert rate > 3.0  # so early the KL is far above
    assert found["objective"]["nats/text"] == pytest.approx(found["bound"]["nats/text"], rel=1e-6)
    assert found["objective"].bound_on is None and "KL held at 3 nats a text" in found["objective"].label
    assert run.config["training"]["target_kl"] == 3.0 and run.config["objective"]["target_kl"] == 3.0
    held = held_out_objective(run.config["objective"], 1, 10).free_bits
    assert held == FreeBits(3.0, ("weights", "vectors"), "total")


def test_a_run_that_weighs_draws_says_so_and_trains_a_bound(corpus: Corpus, tmp_path: Path) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    fit(model, NVAEGuide(model), corpus, out=tmp_path, steps=2, batch_size=8, objective="iw", num_particles=3)
    run = load(tmp_path)
    figure = evaluate(run)["objective"]
    assert figure.label == "objective that was trained: iw, 3 draws" and figure.bound_on == "log p(x)"
    metrics = run.folder.read_metrics()
    step = metrics["split"].index("train")  # where both are of the same draws
    assert float(metrics["objective"][step]) < float(metrics["bound"][step])


def test_free_bits_per_dimension_are_refused_where_dimensions_depend(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the site 'weights' \(LogDirichlet\) are not: give them per layer, or in total"
    ):
        fit_nvae(corpus, tmp_path / "run", free_bits=0.1, free_bits_per="dimension")
    assert not (tmp_path / "run").exists(), "before anything is written"


@pytest.mark.compile
@pytest.mark.parametrize("per", ["dimension", "layer", "total"])
def test_free_bits_are_captured_with_their_gradients(per: FreeBitsPer) -> None:
    batch = Batch.pad([[5, 6, 2], [7, 2], [90, 80, 2]])
    results = []
    for compiled in (False, True):
        model, guide = Chain(), Posterior()
        objective = ELBO(kl_weights=dict.fromkeys(SITES, 0.5), free_bits=FreeBits(0.3, SITES, per))(model, guide)
        losses = CompiledObjective(objective, backend="aot_eager").losses if compiled else objective.losses
        torch.manual_seed(7)
        value = losses(batch)["objective"]
        value.backward()
        results.append([value.detach(), *(parameter.grad for parameter in objective.parameters())])
    for eager, captured in zip(*results, strict=True):
        torch.testing.assert_close(captured, eager)
