"""How trainings end before their time, and what the commands say of it; trainings in threads."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.cli.progress import Progress
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.training.status import Status

TEXTS = [f"The number {n} follows {n - 1} and comes before {n + 1}." for n in range(1, 61)]
TINY = "--model.width 16 --model.layers 1 --model.heads 2 --vocabulary 280 --max_length 32"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("endings")
    (here / "texts.txt").write_text("\n".join(TEXTS))
    options = f"--prior gaussian --steps 2 --batch_size 8 {TINY}"
    assert main(f"fit nvae --data {here}/texts.txt --out {here}/run {options}".split()) == 0
    return here


def interrupting(at: int) -> Callable[[Any, Any], None]:
    """Progress that presses Ctrl-C at a step."""
    shown = Progress.__call__

    def call(self: Progress, status: Status) -> None:
        shown(self, status)
        if status.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    return call


def ended(command: str) -> Any:
    """The exit code of a command, however it is returned."""
    try:
        return main(command.split())
    except SystemExit as error:
        return error.code


@pytest.mark.parametrize("name", ["fit", "fit-prior"])
def test_ctrl_c_finishes_the_step_saves_and_exits_with_130(
    here: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = f"fit nvae --data {here}/texts.txt {TINY}" if name == "fit" else f"fit-prior {here}/run --prior mixture"
    again = f"fit nvae --out {tmp_path}/new --resume"
    if name == "fit-prior":
        again = f"fit-prior {here}/run --out {tmp_path}/new --resume --prior mixture"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", interrupting(1))
        assert ended(f"{begin} --out {tmp_path}/new --steps 40 --batch_size 8") == 130
    printed = capsys.readouterr().out
    step = RunFolder(tmp_path / "new").step()
    assert 1 <= step < 40
    assert f"ended at {100 * step / 40:.0f} %; pyroformer {again} goes on\n" in printed
    assert printed.endswith(f"run saved in {tmp_path}/new\n") or "no validation yet; saved at step" in printed
    assert ended(again + ("" if name == "fit" else " --steps 40 --batch_size 8")) == 0
    assert RunFolder(tmp_path / "new").step() == 40 and "ended at" not in capsys.readouterr().out


def test_a_run_that_patience_ended_has_finished(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--steps 8 --validations 4 --patience 1 --learning_rate 1e-12"  # so that no validation is better
    assert ended(f"fit nvae --data {here}/texts.txt --out {tmp_path}/run --batch_size 8 {options} {TINY}") == 0
    printed = capsys.readouterr().out
    assert "finished at 50 %: no better on held-out texts for as long as patience lasts" in printed
    assert "ended at" not in printed and "goes on" not in printed


def test_one_thread_trains_at_a_time() -> None:
    corpus = pf.Corpus.from_texts(TEXTS, vocabulary=280, max_length=32)
    models = [pf.LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2) for _ in range(2)]
    refused: list[str] = []

    def train_beside(_: Status) -> None:
        with ThreadPoolExecutor(1) as thread:
            error = thread.submit(pf.fit, models[1], None, corpus, steps=1).exception(timeout=60)
        refused.append(f"{type(error).__name__}: {error}")

    run = pf.fit(models[0], None, corpus, steps=1, batch_size=8, validations=1, callback=train_beside)
    assert run.step == 1 and refused
    assert all(line.startswith("ValueError: another thread of this process is training") for line in refused)
    assert pf.fit(models[1], None, corpus, steps=1, batch_size=8).step == 1  # the other one is over
