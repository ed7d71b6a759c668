"""Training: what a run learns, what a kill costs (nothing), and that every way of computing a step is the same step."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_short import crashed_at, last_weights
from torch import nn

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO, Objective
from pyroformer.inference.objectives.nvib import NVIB
from pyroformer.inference.objectives.registry import make_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.run import Run, load
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.svi import SVI
from pyroformer.inference.training.compiled import CompiledObjective, _state
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.lightning_module import Training
from pyroformer.inference.training.status import Status
from pyroformer.inference.utils.seeds import derived_seed
from pyroformer.models.base import Model
from pyroformer.models.batch import Batch
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.lengths import LengthPrior
from pyroformer.models.transformer.config import TransformerConfig

SMALL = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
TEXTS = [f"The number {n} follows {n - 1} and comes before {n + 1}." for n in range(1, 121)]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=280, max_length=64)


def pair(corpus: Corpus, name: str) -> tuple[Model, nn.Module | None]:
    torch.manual_seed(0)
    if name == "lm":
        return LanguageModel.for_corpus(corpus, **SMALL), None
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SMALL)
    return model, NVAEGuide(model)


def train(corpus: Corpus, out: Path, name: str = "nvae", **options: Any) -> Run:
    return fit(*pair(corpus, name), corpus, out=out, **{"batch_size": 16, "validations": 3, **options})


def weights(run: Run) -> dict[str, torch.Tensor]:
    return ELBO()(run.model, run.guide).state_dict()


def same(a: Run, b: Run) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def last_step(folder: Path) -> int:
    return int(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


def test_a_model_has_defaults_of_its_own_and_options_win(corpus: Corpus) -> None:
    config = LanguageModel.for_corpus(corpus).config
    assert (config.positions, config.norm, config.init_std) == ("rotary", "rms", 0.02)
    assert LanguageModel.for_corpus(corpus, positions="sinusoidal").config.positions == "sinusoidal"
    assert LanguageModel.for_corpus(corpus, attention="probabilistic").config.positions == "learned"
    assert NVAE.for_corpus(corpus).config.positions == "learned"


@pytest.mark.parametrize("name", ["lm", "nvae"])
def test_training_learns_and_is_reproducible(corpus: Corpus, tmp_path: Path, name: str) -> None:
    first = train(corpus, tmp_path / "a", name, steps=30, learning_rate=3e-3)
    metrics = first.folder.read_metrics()
    held_out = [v for v, split in zip(metrics["objective"], metrics["split"], strict=True) if split == "valid"]
    assert len(held_out) == 3
    assert held_out[-1] < held_out[0]
    assert same(first, train(corpus, tmp_path / "b", name, steps=30, learning_rate=3e-3))
    assert same(first, load(tmp_path / "a"))


@pytest.mark.parametrize("accumulate_grad_batches", [1, 2])
def test_a_crashed_run_resumes_to_the_same_weights(
    corpus: Corpus, tmp_path: Path, accumulate_grad_batches: int
) -> None:
    options: dict[str, Any] = {
        "steps": 9,
        "accumulate_grad_batches": accumulate_grad_batches,
        "kl_schedule": "cyclical",
    }
    train(corpus, tmp_path / "whole", **options)
    crashed_at(6, train, corpus, tmp_path / "cut", **options)
    assert last_step(tmp_path / "cut") == 3
    train(corpus, tmp_path / "cut", resume=True, **options)
    whole, cut = last_weights(tmp_path / "whole"), last_weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    steps = load(tmp_path / "cut").folder.read_metrics()["step"]
    assert steps == sorted(steps)


def test_resuming_nothing_starts_at_the_beginning(corpus: Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path / "whole", steps=3)
    crashed_at(0, train, corpus, tmp_path / "cut", steps=3)
    assert not (tmp_path / "cut" / "checkpoints" / "last.ckpt").exists()
    train(corpus, tmp_path / "cut", steps=3, resume=True)
    assert torch.equal(*(next(iter(last_weights(tmp_path / name).values())) for name in ("whole", "cut")))


def test_a_used_folder_and_another_model_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path, "lm", steps=1)
    with pytest.raises(ValueError, match=r"already holds a run \(step 1\)"):
        train(corpus, tmp_path, "lm", steps=2)
    with pytest.raises(ValueError, match="holds a run of another model"):
        train(corpus, tmp_path, "nvae", steps=2, resume=True)


def test_an_interrupt_leaves_a_usable_run(corpus: Corpus, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(status: Status) -> None:
        if status.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    run = train(corpus, tmp_path, "lm", steps=100_000, callback=interrupt)
    assert 1 <= run.step < 1000
    assert same(run, load(tmp_path))
    assert signal.getsignal(signal.SIGINT) is before


def test_training_goes_on_from_the_weights_of_a_run(corpus: Corpus, tmp_path: Path) -> None:
    first = train(corpus, tmp_path / "a", steps=4)
    before = {name: value.clone() for name, value in weights(first).items()}
    second = fit(first.model, first.guide, corpus, out=tmp_path / "b", steps=1, batch_size=16, learning_rate=1e-9)
    assert set(weights(second)) == set(before)
    for name, value in weights(second).items():
        torch.testing.assert_close(value, before[name], msg=name)


def test_minutes_end_a_run(corpus: Corpus, tmp_path: Path) -> None:
    start = time.monotonic()
    run = train(corpus, tmp_path, "lm", minutes=0.02)
    assert run.step >= 1
    assert time.monotonic() - start < 60


def test_patience_stops_early(corpus: Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path, "lm", steps=50, validations=50, patience=2, learning_rate=1e-12, weight_decay=0.0)
    step = last_step(tmp_path)
    assert step < 50
    train(corpus, tmp_path, "lm", validations=50, resume=True)
    assert last_step(tmp_path) == step, "it has ended"
    train(corpus, tmp_path, "lm", validations=50, resume=True, patience=3)
    assert last_step(tmp_path) == step + 1


def test_a_validation_has_the_same_texts_whatever_the_batch_size(corpus: Corpus, tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "validations": 1, "validation_texts": 3, "learning_rate": 1e-12}
    train(corpus, tmp_path / "whole", "lm", batch_size=16, **options)
    train(corpus, tmp_path / "parts", "lm", batch_size=2, accumulate_grad_batches=8, **options)
    whole, parts = (RunFolder(tmp_path / name).read_metrics()["objective"] for name in ("whole", "parts"))
    assert len(corpus.valid) > 3 and whole[-1] == pytest.approx(parts[-1], rel=1e-5)


def test_losses_on_other_texts_are_not_compared(corpus: Corpus, tmp_path: Path) -> None:
    options: dict[str, Any] = {"validations": 1, "learning_rate": 1e-12}
    for name, count in [("same", 3), ("others", 1)]:
        first = train(corpus, tmp_path / name, "lm", steps=1, validation_texts=3, **options)
        saved = torch.load(first.folder.last, weights_only=False)
        saved["run"]["best"] = 0.0 if name == "others" else saved["run"]["best"]  # as on texts that are easier
        torch.save(saved, first.folder.last)
        run = train(corpus, tmp_path / name, "lm", steps=2, validation_texts=count, resume=True, **options)
        now = torch.load(run.folder.last, weights_only=False)["run"]
        alone = train(corpus, tmp_path / f"alone-{name}", "lm", steps=1, validation_texts=count, **options)
        expected = torch.load(alone.folder.last, weights_only=False)["run"]["best"]
        assert now["best"] == pytest.approx(expected, abs=1e-4) and run.step in (1, 2)


def test_svi_gives_the_loss_that_fit_reports(corpus: Corpus, tmp_path: Path) -> None:
    run = train(corpus, tmp_path, steps=1)
    reported = run.folder.read_metrics()["objective"][0]
    model, guide = pair(corpus, "nvae")
    batch = next(corpus.batches("train", batch_size=16, seed=0))
    svi = SVI(model, guide, torch.optim.AdamW, loss=NVIB(), lr=1e-3)
    torch.manual_seed(derived_seed(0, 0, 0, 0))
    loss = svi.evaluate_loss(batch)
    assert loss / float(batch.lengths.float().mean()) == pytest.approx(reported, rel=1e-4)


def test_the_objective_is_what_the_options_name(corpus: Corpus) -> None:
    model, guide = pair(corpus, "nvae")
    assert make_objective(model, guide, TrainingOptions(), 10).elbo.name == "nvib"
    exact = make_objective(model, guide, TrainingOptions(objective="elbo", beta=0.5), 10)
    assert exact.elbo.name == "elbo"
    assert {name: float(value) for name, value in exact.kl_weights.named_buffers()} == {"weights": 0.5, "vectors": 0.5}


def test_less_precise_networks_train_with_clipped_gradients(corpus: Corpus, tmp_path: Path) -> None:
    assert train(corpus, tmp_path, steps=2, precision="bf16", gradient_clip_val=1.0).step == 2


def test_a_checkpoint_of_another_model_is_not_gone_on_from(corpus: Corpus, tmp_path: Path) -> None:
    mine, other = (train(corpus, tmp_path / name, name, steps=1) for name in ("lm", "nvae"))
    shutil.copy(other.folder.last, mine.folder.last)
    with pytest.raises(ValueError, match=r"last\.ckpt is a checkpoint of another model than .*config\.yaml names"):
        train(corpus, tmp_path / "lm", "lm", steps=2, resume=True)


def test_biases_do_not_decay(corpus: Corpus, tmp_path: Path) -> None:
    model = DELLA.for_corpus(corpus, width=16, layers=1, heads=2, latent_size=2)
    objective = make_objective(model, DELLAGuide(model), TrainingOptions(), 10)
    training = Training(objective, corpus, TrainingOptions(weight_decay=0.5), RunFolder(tmp_path))
    decay, rest = (group["params"] for group in training.configure_optimizers().param_groups)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    free = [names[id(parameter)] for parameter in rest]
    assert any(name.endswith("latent_bias") and p.ndim == 2 for name, p in zip(free, rest, strict=True))
    assert not any(names[id(parameter)].endswith("bias") for parameter in decay) and len(decay) > 5


@pytest.mark.parametrize("name", ["vocabulary", "max_length"])
def test_a_model_that_is_too_small_for_the_corpus_is_refused(corpus: Corpus, tmp_path: Path, name: str) -> None:
    config = {"vocabulary": corpus.vocabulary, "max_length": corpus.max_length}
    model = LanguageModel(TransformerConfig(**config | {name: 8}, width=16, layers=1, heads=2))
    with pytest.raises(ValueError, match=rf"the {name} of the model is 8, .*: make the model with LanguageModel.for_c"):
        fit(model, None, corpus, out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("longest", [3, 96])
def test_a_prior_of_other_lengths_is_refused(corpus: Corpus, longest: int) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SMALL, max_length=80, length_prior=LengthPrior(longest))
    with pytest.raises(ValueError, match=rf"the length_prior is {longest}, but texts have up to \d+ tokens"):
        fit(model, NVAEGuide(model), corpus, steps=1)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    script = Path(__file__).parent / "train_until_killed.py"
    arguments = [sys.executable, str(script), str(corpus.folder), str(tmp_path / "cut")]
    process = subprocess.Popen(arguments)
    checkpoint = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 200
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert checkpoint.exists()
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert 0 < last_step(tmp_path / "cut") <= 40
    subprocess.run([*arguments, str(tmp_path / "whole")], check=True, timeout=300)
    whole, cut = last_weights(tmp_path / "whole"), last_weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def objective_of(corpus: Corpus) -> tuple[Objective, Batch]:
    model, guide = pair(corpus, "nvae")
    return ELBO()(model, guide), next(corpus.batches("train", batch_size=8))


Step = tuple[torch.Tensor, dict[str, torch.Tensor | None]]


def step_of(losses: Any, objective: Objective, batch: Batch) -> Step:
    """The loss of a batch and its gradients."""
    torch.manual_seed(7)
    objective.zero_grad()
    loss = losses(batch)["objective"]
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in objective.named_parameters()}


def assert_same(one: Step, other: Step) -> None:
    assert torch.allclose(one[0], other[0], rtol=1e-4)
    for name, gradient in one[1].items():
        expected = other[1][name]
        assert gradient is not None and expected is not None, name
        assert torch.allclose(gradient, expected, atol=1e-4 * float(gradient.abs().max()) + 1e-6), name


@pytest.mark.compile
def test_steps_of_compiled_blocks_equal_eager_ones(corpus: Corpus) -> None:
    from pyroformer.models.transformer.blocks import compile_blocks

    objective, batch = objective_of(corpus)
    eager = step_of(objective.losses, objective, batch)
    compile_blocks(objective, backend="eager")
    assert_same(eager, step_of(objective.losses, objective, batch))


def test_a_capture_names_each_place_of_a_tensor_once() -> None:
    shared = nn.Linear(2, 2, bias=False)
    tied = nn.Linear(2, 2, bias=False)
    tied.weight = shared.weight
    state = _state(nn.ModuleDict({"one": nn.Sequential(shared), "two": nn.Sequential(shared), "three": tied}))
    assert list(state) == ["one.0.weight", "three.weight"]


@pytest.mark.compile
def test_captured_steps_equal_eager_ones_and_do_not_share_a_graph(corpus: Corpus) -> None:
    batch = next(corpus.batches("train", batch_size=8))
    model = DELLA.for_corpus(corpus, **SMALL, latent_size=4)
    guide = DELLAGuide(model)
    objective, weighted = ELBO()(model, guide), ELBO(kl_weights={"z_1": 0.0})(model, guide)
    losses = []
    for each in (objective, weighted):
        eager = step_of(each.losses, each, batch)
        captured = step_of(CompiledObjective(each, backend="aot_eager").losses, each, batch)
        assert_same(eager, captured)
        losses.append(float(captured[0]))
    assert losses[1] < losses[0]
