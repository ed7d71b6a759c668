"""Locks of trainings: one at a time in a run's folder, and one at a time in a process."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

__all__ = ["LOCK", "one_training", "run_lock"]

try:
    import fcntl
except ImportError:  # Windows has none: no lock there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TRAINING = RLock()  # the same thread may enter again


@contextmanager
def one_training() -> Iterator[None]:
    """A training, of which a process has one at a time: Pyro's handlers and torch's generator are global.

    Raises:
        ValueError: If another thread trains.
    """
    if not _TRAINING.acquire(blocking=False):
        raise ValueError(
            "another thread of this process is training, and Pyro's state is global: wait for it to end, or train in a "
            "process of its own."
        )
    try:
        yield
    finally:
        _TRAINING.release()


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder; the system releases it if the process ends in any other way.

    Raises:
        ValueError: If another training, in this process or in another, holds it.
    """
    path = folder / LOCK
    file = _locked(path)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)  # while it is locked: nobody else can have it
            os.close(file)


def _locked(path: Path) -> int | None:
    """A locked file at ``path``; None where the file system has no locks."""
    while fcntl is not None:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"{path.parent} is being trained by another process: wait for it to end, or choose another out."
                ) from error
            return None
        os.close(file)  # removed by its owner between opening and locking
    return None
