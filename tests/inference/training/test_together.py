"""Two processes train what one trains: with whole weights (DDP) and with shares of them (FSDP), begun and resumed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import pyroformer as pf
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.runs.checkpoints import read_checkpoint
from pyroformer.inference.training.distributed.sharding import check_shardable
from pyroformer.inference.training.lightning_module import Training
from pyroformer.inference.training.status import Status

SCRIPT = Path(__file__).parent / "together.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    before = Training.configure_optimizers
    spec = importlib.util.spec_from_file_location("together", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    Training.configure_optimizers = before  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, script: ModuleType) -> Path:
    """The runs of one process and of two."""
    folder = tmp_path_factory.mktemp("together")
    corpus = pf.Corpus.from_texts(script.TEXTS, vocabulary=270, folder=folder / "corpus")

    def interrupt(status: Status) -> None:
        if status.step == 2 and status.split == "valid":  # a second one would end it at once
            os.kill(os.getpid(), signal.SIGINT)

    alone = {"accumulate_grad_batches": 2}
    script.trained(corpus, "nvae", folder / "begun-alone", callback=interrupt, validations=4, **alone)
    (folder / "texts.txt").write_text("\n".join(script.TEXTS))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], env=environment, stdout=log, stderr=log)
        script.commanded(folder, "launched-alone", "--accumulate_grad_batches", "2")
        for name in (*script.SYSTEMS, "frozen"):
            script.trained(corpus, name, folder / name, **alone)
        script.trained(corpus, "short", folder / "short", **script.SHORT, **alone)
        code = process.wait(timeout=300)
    assert code == 0, (folder / "log").read_text()[-3000:]
    script.trained(corpus, "frozen", folder / "begun-together", resume=True, devices=1, strategy="ddp", **alone)
    return folder


def weights(run: Path, checkpoint: str = "last") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(run / "checkpoints" / f"{checkpoint}.ckpt")["state_dict"]
    return state


def distance(one: Path, two: Path, checkpoint: str = "last") -> float:
    """The largest difference of a weight."""
    a, b = weights(one, checkpoint), weights(two, checkpoint)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["lm", "nvae", "vae", "della"])
def test_two_processes_train_what_one_trains_with_their_batches(folder: Path, name: str, strategy: str) -> None:
    assert distance(folder / name, folder / f"{name}-{strategy}") < 2e-6


def test_shards_go_with_compiled_blocks_and_activations_that_are_computed_again(folder: Path) -> None:
    assert distance(folder / "short", folder / "short-compiled") < 2e-6


def test_a_command_starts_the_processes_that_it_names(folder: Path) -> None:
    assert distance(folder / "launched-alone", folder / "launched") < 2e-6


def test_the_weights_have_moved(folder: Path, script: ModuleType) -> None:
    model, _ = script.pair(pf.Corpus.load(folder / "corpus"), "lm")
    after = weights(folder / "lm")
    before = {f"objective.model.{name}": value for name, value in model.state_dict().items()}
    moved = [float((value - after[name]).abs().max()) for name, value in before.items()]
    assert max(moved) > 1e-2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_several_processes_opens_anywhere(folder: Path, strategy: str) -> None:
    alone, together = pf.load(folder / "nvae"), pf.load(folder / f"nvae-{strategy}")
    assert together.step == alone.step == 4
    for a, b in zip(alone.guide.parameters(), together.guide.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "begun"),
    [("nvae", "begun-alone"), ("frozen", "begun-together"), ("frozen", "begun-and-ended-together")],
)
def test_a_run_goes_on_with_another_number_of_processes_or_as_many(folder: Path, name: str, begun: str) -> None:
    assert distance(folder / name, folder / begun) < 2e-6


def test_checkpoints_to_resume_from_are_written_in_shards(folder: Path, script: ModuleType) -> None:
    """Neither process writes more than its half, and what a killed one has left is removed."""
    checkpoints = folder / "begun-and-ended-together" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        *("best.ckpt", "frozen.ckpt", "last-4-again", "last.ckpt")
    ]
    shares = [path.stat().st_size for path in sorted((checkpoints / "last-4-again").glob("*.distcp"))]
    assert len(shares) == 2 and max(shares) < 1.1 * min(shares)
    own = torch.load(checkpoints / "last.ckpt", weights_only=True)
    _, guide = script.pair(pf.Corpus.load(folder / "corpus"), "frozen")
    assert not {f"objective.guide.{name}" for name, _ in guide.named_parameters()} & own["state_dict"].keys()
    whole = read_checkpoint(checkpoints / "last.ckpt")
    alone = read_checkpoint(folder / "frozen" / "checkpoints" / "last.ckpt")
    assert whole["state_dict"].keys() == alone["state_dict"].keys()
    for index, entries in alone["optimizer_states"][0]["state"].items():
        for name, value in entries.items():
            torch.testing.assert_close(whole["optimizer_states"][0]["state"][index][name], value, atol=1e-4, rtol=1e-4)


def test_a_run_that_goes_on_alone_leaves_no_shards(folder: Path) -> None:
    names = [path.name for path in (folder / "begun-together" / "checkpoints").iterdir()]
    assert sorted(names) == ["best.ckpt", "frozen.ckpt", "last.ckpt"]


def test_gradients_are_exchanged_once_a_step_and_a_signal_reaches_all(folder: Path) -> None:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result["held back"] == 4  # one of two micro-batches in each step
    assert result["ended"] == 128 + signal.SIGTERM
    assert distance(folder / "lm", folder / "lm-accumulated") < 2e-6


def test_gradients_of_two_processes_are_those_of_the_joint_batch(folder: Path, script: ModuleType) -> None:
    one = script.gradient(pf.Corpus.load(folder / "corpus"), 0, 1)
    assert json.loads((folder / "result.json").read_text())["gradient"] == pytest.approx(one, rel=1e-5)


def test_what_cannot_be_sharded_is_refused() -> None:
    layer = nn.Linear(2, 2)
    layer.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match="strategy is fsdp, but temperature is a single number, which has no shares"):
        check_shardable(layer)
    with pytest.raises(ValueError, match="compile is full, but with the strategy fsdp no process has all weights"):
        TrainingOptions(strategy="fsdp", compile="full")
