"""Progress on standard error: where it is shown, and what it says."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pyroformer.inference.utils.progress import progress_bar, progress_enabled


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
