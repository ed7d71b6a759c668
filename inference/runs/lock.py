"""A lock on a run's folder: one training at a time writes into it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LOCK", "run_lock"]

try:
    import fcntl
except ImportError:  # Windows has none: no lock there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


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
