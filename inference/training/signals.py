"""Signals that end a training: its step is finished and a checkpoint written first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .lightning_module import Training

__all__ = ["stop_on_signal"]

# Of Ctrl-C, of kill, docker stop and schedulers, of a closed terminal, and of SLURM's --signal.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


@contextmanager
def stop_on_signal(training: Training) -> Iterator[None]:
    """The first signal ends the run after its step and writes a checkpoint; a second Ctrl-C ends it at once.

    The number of the signal is ``training.signal``. Where SIGHUP is ignored, as under nohup, it stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        training.signal = number
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    changed = [number for number in numbers if not (number != signal.SIGINT and before[number] == signal.SIG_IGN)]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
