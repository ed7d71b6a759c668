"""Messages about a training that ends early."""

from .output import print_line
from .progress import Progress

__all__ = ["print_early_end"]


def print_early_end(progress: Progress, signal: int | None, again: str) -> None:
    """Says why a training ended before all of it was done: by a signal, or by its own rule.

    Arguments:
        progress: The progress of the training.
        signal: The number of the signal that ended it, if one did.
        again: The command that goes on.
    """
    if progress.done >= 1:
        return
    share = f"{100 * progress.done:.0f} %"
    if signal is None:
        print_line(f"finished at {share}: no better on held-out texts for as long as patience lasts")
    else:
        print_line(f"ended at {share}; {again} goes on")
