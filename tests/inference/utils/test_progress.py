"""Progress on standard error: where it is shown, and what it says."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.lightning_module import Status
from pyroformer.inference.utils.progress import TrainingBar, progress_bar, progress_enabled
from pyroformer.models.language_model import LanguageModel


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts([f"number {n} of many" for n in range(40)], vocabulary=265, max_length=24)


def language_model(corpus: Corpus) -> LanguageModel:
    return LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_is_shown_in_a_terminal_and_not_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not progress_enabled() and progress_enabled(True) and not progress_enabled(False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress_enabled() and not progress_enabled(False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert not progress_enabled() and progress_enabled(True)


def test_it_is_shown_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    shell: Any = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress_enabled()
    shell.config = {}  # IPython in a pipe
    assert not progress_enabled()


def test_a_bar_counts_and_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with progress_bar("evaluating", total=8, progress=True) as advance:
        for _ in range(4):
            advance(2)
    frames = stream.getvalue().split("\r")
    assert "evaluating:   0%" in frames[1] and "0/8" in frames[1]
    assert not frames[-1].strip() and not frames[-2].strip(), "the bar is wiped out at its end"


def test_a_training_says_how_far_it_is(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Status] = []
    fit(language_model(corpus), None, corpus, steps=4, batch_size=8, progress=True, callback=seen.append)
    captured = capsys.readouterr()
    assert not captured.out
    assert "training: 100 %" in captured.err.replace("100%", "100 %")
    assert "step 4 | objective " in captured.err and "held-out " in captured.err and "left" in captured.err
    assert seen[-1].step == 4, "a callback of one's own is called as well"


def test_a_training_is_quiet_on_request_and_in_pipes(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, None):
        fit(language_model(corpus), None, corpus, steps=1, batch_size=8, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_drawn_before_the_first_report(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar()
    bar.close("done")
    assert capsys.readouterr() == ("", "")
