"""The dial of the published objective: its two weights, and a delta that moves until a share of the vectors is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cut_short import crashed_at, last_weights
from torch import Tensor

import pyroformer as pf
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import Objective
from pyroformer.inference.objectives.keep_control import LARGEST_DELTA, LEAST_DELTA, KeepController, check_keep
from pyroformer.inference.objectives.nvib import NVIB
from pyroformer.inference.objectives.registry import describe_objective, make_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.run import Run, load
from pyroformer.inference.training.fit import fit
from pyroformer.models.batch import Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.weights import BoundedDirichletProcess, SymmetricDirichlet
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.mixtures.posterior import LEAST_LOG_ALPHA, kept_components

CONFIG = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
BATCH = Batch.pad([[5, 6, 7, 2], [7, 2]])
TEXTS = [f"The number {n} follows {n - 1}." for n in range(1, 61)]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=32)


def pair(alpha: Any = "relu", **model: Any) -> tuple[NVAE, NVAEGuide]:
    torch.manual_seed(0)
    nvae = NVAE(CONFIG, **model)
    return nvae, NVAEGuide(nvae, alpha=alpha)


def train(corpus: Corpus, out: Path | None = None, alpha: Any = "relu", **options: Any) -> Run:
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    return fit(model, NVAEGuide(model, alpha=alpha), corpus, out=out, batch_size=8, validations=3, **options)


def switched_off(guide: NVAEGuide) -> NVAEGuide:
    """A guide whose head is dead: every concentration of a token is 0 and has no gradient."""
    with torch.no_grad():
        guide.alpha.linear.weight.zero_()
        guide.alpha.linear.bias.fill_(-1.0)
    return guide


# The weights.


def test_the_weights_of_the_regularizers_are_options() -> None:
    model, guide = pair()
    options = TrainingOptions(lambda_d=0.5, lambda_g=0.02, beta=2.0)
    assert describe_objective(model, options)["kl_weights"] == {"weights": 1.0, "vectors": 0.04}
    assert describe_objective(model, TrainingOptions(lambda_d=0.0))["kl_weights"] == {"weights": 0.0, "vectors": 1e-3}
    assert NVIB().kl_weights == {"weights": 1.0, "vectors": 1e-3}
    losses: list[Tensor] = []
    for objective in (
        make_objective(model, guide, options, 2),
        NVIB(weights=0.5, vectors=0.02, beta=2.0)(model, guide),
    ):
        torch.manual_seed(1)
        losses.append(objective.losses(BATCH)["objective"])
    assert losses[0] == losses[1] and make_objective(model, guide, options, 2).elbo.data_size == 2


@pytest.mark.parametrize("name", ["lambda_d", "lambda_g", "keep"])
def test_an_objective_that_does_not_read_them_refuses_them(name: str) -> None:
    model, _ = pair()
    options = TrainingOptions(objective="elbo", **{name: 0.5})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{name} is 0\.5, an option of the objective nvib, and the objective elbo"):
        describe_objective(model, options)
    options = TrainingOptions(objective="iw", num_particles=2, **{name: 0.5})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"{name} is 0\.5, .* objective iw does not read it: leave it out"):
        describe_objective(model, options)


# What is kept.


@pytest.mark.parametrize("samples", [1, 3])
def test_the_objective_counts_the_vectors_that_are_not_switched_off(samples: int) -> None:
    model, guide = pair(samples_per_component=samples)
    kept = guide.encode(BATCH).kept.sum(-1) / samples - 1
    assert 0 < kept.sum() < 6, "the head of seed 0 switches some of them off"
    terms = NVIB()(model, guide).terms(BATCH)
    assert terms.counts["kept"].tolist() == kept.tolist()
    linear = NVIB()(*pair("linear", samples_per_component=samples)).terms(BATCH)
    assert linear.counts["kept"].tolist() == [4.0, 2.0]
    assert NVIB()(model, switched_off(guide)).terms(BATCH).counts["kept"].tolist() == [0.0, 0.0]


def test_several_draws_count_once() -> None:
    model, guide = pair()
    one, three = (NVIB(num_particles=n)(model, guide).terms(BATCH).counts["kept"] for n in (1, 3))
    torch.testing.assert_close(one, three)


def test_the_components_of_the_prior_are_always_kept() -> None:
    log_alpha = torch.full((4,), LEAST_LOG_ALPHA - 1)
    assert kept_components(log_alpha, torch.ones(4, dtype=torch.bool), 2).tolist() == [True, True, False, False]


# The controller.


def test_delta_moves_against_the_share() -> None:
    prior = BoundedDirichletProcess(delta=0.3)
    controller = KeepController(0.5, prior)
    controller.set_delta()
    assert float(prior.delta) == pytest.approx(0.3)
    for share, sign in ((0.5, 0), (0.9, -1), (0.1, 1)):
        controller = KeepController(0.5, prior)
        before = float(controller.log_value)
        for _ in range(20):
            controller.update(torch.tensor(10 * share), torch.tensor(10.0))
        assert float((controller.log_value - before).sign()) == sign


def test_one_step_by_hand() -> None:
    prior = BoundedDirichletProcess(delta=1.0)
    controller = KeepController(0.5, prior, proportional=2.0, integral=0.1, memory=0.75)
    controller.update(torch.tensor(9.0), torch.tensor(10.0))
    assert float(controller.average) == pytest.approx(0.75 * 0.5 + 0.25 * 0.9)
    assert float(controller.log_value) == pytest.approx(-0.1 * (0.6 / 0.5 - 1))
    controller.set_delta()
    assert float(prior.delta.log()) == pytest.approx(-2.1 * (0.6 / 0.5 - 1), rel=1e-5)


@pytest.mark.parametrize(("share", "end"), [(1.0, LEAST_DELTA), (0.0, LARGEST_DELTA)])
def test_delta_stays_in_its_range_and_returns_at_once(share: float, end: float) -> None:
    prior = BoundedDirichletProcess(delta=0.3)
    controller = KeepController(0.4, prior, integral=0.5)
    for _ in range(200):
        controller.update(torch.tensor(share), torch.tensor(1.0))
    controller.set_delta()
    assert float(prior.delta) == pytest.approx(end)
    for _ in range(100):  # no windup
        controller.update(torch.tensor(1 - share), torch.tensor(1.0))
    controller.set_delta()
    assert float(prior.delta) != pytest.approx(end)


def test_all_vectors_can_be_kept() -> None:
    controller = KeepController(1.0, BoundedDirichletProcess(delta=0.3))
    before = float(controller.log_value)
    controller.update(torch.tensor(6.0), torch.tensor(6.0))
    assert float(controller.log_value) == before


def test_a_share_that_answers_to_delta_is_reached() -> None:
    """A plant whose share follows log delta with a delay of 30 steps."""
    prior, share = BoundedDirichletProcess(delta=1.0), 1.0
    controller = KeepController(0.5, prior)
    for _ in range(2000):
        controller.set_delta()
        answer = 1 / (1 + (0.2 / float(prior.delta)) ** 2)  # 0.5 at 0.2
        share += (answer - share) / 30
        controller.update(torch.tensor(share), torch.tensor(1.0))
    assert float(prior.delta) == pytest.approx(0.2, rel=0.02)
    assert share == pytest.approx(0.5, abs=0.01)


# Runs.


def test_a_run_moves_the_delta_of_its_prior_and_keeps_it(corpus: Corpus, tmp_path: Path) -> None:
    run = train(corpus, tmp_path, steps=12, keep=0.2)
    rows = run.folder.read_metrics()
    deltas = [value for value in rows["delta"] if isinstance(value, float)]
    assert deltas[0] > deltas[-1] > LEAST_DELTA and deltas == sorted(deltas, reverse=True)
    assert all(0.2 < share <= 1 for share in rows["kept"] if isinstance(share, float))
    best = load(tmp_path)
    assert isinstance(best.model, NVAE) and isinstance(best.model.weight_prior, BoundedDirichletProcess)
    assert any(float(best.model.weight_prior.delta) == pytest.approx(delta, rel=1e-5) for delta in deltas)
    assert best.config["training"]["keep"] == 0.2


def test_held_out_texts_are_charged_for_vectors_beyond_the_share(corpus: Corpus, tmp_path: Path) -> None:
    rows = train(corpus, tmp_path / "few", steps=3, keep=0.2, seed=1).folder.read_metrics()
    plain = train(corpus, tmp_path / "free", steps=3, keep=1.0, seed=1).folder.read_metrics()
    at = [index for index, split in enumerate(rows["split"]) if split == "valid"][0]
    kept, objective, free = (float(values[at]) for values in (rows["kept"], rows["objective"], plain["objective"]))  # type: ignore[arg-type]
    excess = (kept - 0.2 - 0.02) * torch.tensor(float(corpus.vocabulary)).log()
    assert excess > 0.1
    assert objective - free == pytest.approx(float(excess), rel=0.02)


@pytest.mark.parametrize("accumulate_grad_batches", [1, 2])
def test_a_controlled_run_resumes_to_the_same_numbers(
    corpus: Corpus, tmp_path: Path, accumulate_grad_batches: int
) -> None:
    options: dict[str, Any] = {"steps": 9, "accumulate_grad_batches": accumulate_grad_batches, "keep": 0.3}
    train(corpus, tmp_path / "whole", **options)
    crashed_at(6, train, corpus, tmp_path / "cut", **options)
    before = last_weights(tmp_path / "cut")
    last = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
    last["state_dict"]["keep_controller.log_delta"] = last["state_dict"].pop("keep_controller.log_value")
    torch.save(last, tmp_path / "cut" / "checkpoints" / "last.ckpt")  # with the name of earlier versions
    train(corpus, tmp_path / "cut", resume=True)
    whole, cut = last_weights(tmp_path / "whole"), last_weights(tmp_path / "cut")
    assert {"keep_controller.average", "keep_controller.log_value", "objective.model.weight_prior.delta"} < set(whole)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not torch.equal(before["keep_controller.log_value"], cut["keep_controller.log_value"])
    with pytest.raises(ValueError, match=r"keep is 0\.5, but .* was begun with 0\.3: leave it out to go on"):
        train(corpus, tmp_path / "cut", resume=True, steps=12, keep=0.5)


def test_a_run_says_that_all_vectors_have_died(corpus: Corpus) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    guide = switched_off(NVAEGuide(model, alpha="relu"))
    with pytest.warns(UserWarning, match=r"step 1: no text keeps a vector of its own: .* a larger delta") as said:
        fit(model, guide, corpus, steps=3, validations=3, batch_size=8)
    assert len(said) == 1


def test_a_run_says_that_all_vectors_of_a_layer_have_died(corpus: Corpus) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=2, heads=2, nvib_layers=1)
    guide = NVAEGuide(model, alpha="relu")
    (block,) = guide.encoder.mixture_blocks
    with torch.no_grad():
        block.alpha.linear.weight.zero_()
        block.alpha.linear.bias.fill_(-1.0)
    with pytest.warns(UserWarning, match=r"step 1, layer 2 of the encoder: no text keeps a vector of its own"):
        fit(model, guide, corpus, steps=1, validations=1, batch_size=8)


# Refusals.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pair("linear"), r"with alpha='linear' none ever is: give the guide alpha='relu'"),
        (
            lambda: pair(weight_prior=SymmetricDirichlet(1.0)),
            r"weight_prior is a SymmetricDirichlet, and keep is about the delta",
        ),
        (lambda: pair(delta=0.0), r"delta is 0, and keep moves it between 0\.01 and 10: begin with a delta"),
    ],
)
def test_keep_needs_a_dial(make: Any, message: str) -> None:
    model, guide = make()
    with pytest.raises(ValueError, match=message):
        make_objective(model, guide, TrainingOptions(keep=0.5), 2)


@pytest.mark.parametrize(("keep", "kept", "end"), [(0.1, 1.0, LEAST_DELTA), (0.9, 0.0, LARGEST_DELTA)])
def test_keep_goes_on_from_where_a_controller_has_left_delta(keep: float, kept: float, end: float) -> None:
    model, guide = pair()
    controller = KeepController(keep, check_keep(model, guide))
    for _ in range(400):
        controller.update(torch.tensor(kept), torch.tensor(1.0))
    controller.set_delta()
    assert float(controller.delta) == pytest.approx(end) and check_keep(model, guide) is model.weight_prior
    assert not any("delta" in name for name in controller.state_dict())


def test_what_a_share_exceeds_and_a_step_without_tokens() -> None:
    controller = KeepController(0.5, BoundedDirichletProcess(delta=0.3))
    assert [controller.excess(share) for share in (0.4, 0.51)] == [0.0, 0.0]
    assert controller.excess(0.6) == pytest.approx(0.08)
    controller.update(torch.tensor(0.0), torch.tensor(0.0))
    assert controller.value.isfinite()


def test_delta_is_short_for_the_prior() -> None:
    model, _ = pair(delta=0.15, samples_per_component=2)
    long = NVAE(CONFIG, BoundedDirichletProcess(delta=0.15, samples_per_component=2), samples_per_component=2)
    assert repr(model.weight_prior) == repr(long.weight_prior)
    assert float(pf.NVAE(CONFIG).weight_prior.delta) == pytest.approx(0.3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="delta is -1.0: give a finite number of at least 0"):
        NVAE(CONFIG, delta=-1.0)
    with pytest.raises(ValueError, match=r"delta is 0\.2, and there is a weight_prior beside it: give its own delta"):
        NVAE(CONFIG, SymmetricDirichlet(1.0), delta=0.2)


@pytest.mark.compile
def test_delta_moves_inside_a_compiled_objective() -> None:
    from pyroformer.inference.training.compiled import CompiledObjective

    model, guide = pair()
    objective = NVIB()(model, guide)
    assert isinstance(objective, Objective)
    compiled = CompiledObjective(objective, backend="eager")
    prior: Any = model.weight_prior
    values = []
    for delta in (0.3, 3.0):
        prior.delta.fill_(delta)
        torch.manual_seed(0)
        eager = objective.losses(BATCH)
        torch.manual_seed(0)
        graph = compiled.losses(BATCH)
        torch.testing.assert_close(graph["objective"], eager["objective"])
        torch.testing.assert_close(graph["kept"], eager["kept"])
        values.append(float(graph["objective"].detach()))
    assert values[0] != pytest.approx(values[1])
