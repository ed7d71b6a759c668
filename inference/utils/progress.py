"""Progress on standard error: tqdm's bars, where a person watches."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .registry import imported

__all__ = ["progress_bar", "progress_enabled", "tqdm_bar"]


def progress_enabled(progress: bool | None = None) -> bool:
    """Whether to show progress: as asked for; by default in a terminal and in notebooks, not in pipes and log files.

    The environment variable ``TQDM_DISABLE=1`` turns the default off.
    """
    if progress is not None:
        return progress
    if os.environ.get("TQDM_DISABLE", "0") not in ("", "0"):
        return False
    return sys.stderr.isatty() or _in_notebook()


@contextmanager
def progress_bar(
    description: str, total: int, unit: str = "text", progress: bool | None = None
) -> Iterator[Callable[[int], object]]:
    """A bar of ``total`` units, which disappears when its block ends; the function that it gives advances it.

    Arguments:
        description: What is going on, such as "evaluating".
        total: Number of units.
        unit: What is counted.
        progress: Whether to show it; None as :func:`progress_enabled` says.

    Examples:
        >>> with progress_bar("reading", total=3, progress=False) as advance:
        ...     advance(2)
    """
    if not progress_enabled(progress):
        yield lambda count: None
        return
    with tqdm_bar(desc=description, total=total, unit=f" {unit}s", leave=False) as bar:
        yield bar.update


def tqdm_bar(**options: Any) -> Any:
    """A bar as a widget in notebooks, where ipywidgets is installed, and as text elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # then it is text
        tqdm = imported("tqdm.auto.tqdm")
    return tqdm(**options, file=sys.stderr)


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
