"""A training as a command shows it: its progress, how it ended, and where its run is."""

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from .output import print_line
from .progress import Progress

__all__ = ["train_and_report"]

if TYPE_CHECKING:  # torch is imported when a command runs, not for its help
    from ..run import Run


def train_and_report(
    *parts: Any,
    out: str,
    again: str,
    remark: Callable[["Run"], str | None] = lambda run: None,
    **options: Any,
) -> None:
    """Train into a folder, with the progress in one line, and say how it ended.

    Arguments:
        parts: The model, the guide and the corpus.
        out: The folder of the run.
        again: The command that goes on, if a signal ends the training.
        remark: The last line, if there is something to say about the run.
        options: Options of :func:`~pyroformer.fit`.

    Raises:
        SystemExit: With code 128 + signal, if a signal ended it.
    """
    from ..training.fit import run_training

    with closing(Progress()) as progress:
        run, signal = run_training(*parts, out=out, callback=progress, notice=print_line, **options)
    if progress.done < 1:
        _print_early_end(100 * progress.done, signal, again)
    best = "best" if run.folder.best.exists() else "no validation yet; saved"
    print_line(f"{best} at step {run.step:,}; run saved in {out}")
    if (line := remark(run)) is not None:
        print_line(line)
    if signal is not None:
        raise SystemExit(128 + signal)


def _print_early_end(percent: float, signal: int | None, again: str) -> None:
    """Says why a training ended before all of it was done: by a signal, or by its own rule."""
    if signal is None:
        print_line(f"finished at {percent:.0f} %: no better on held-out texts for as long as patience lasts")
    else:
        print_line(f"ended at {percent:.0f} %; {again} goes on")
