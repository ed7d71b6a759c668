"""Atomic writing of files and folders."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

__all__ = ["as_path", "content_fingerprint", "is_disk_full", "write_atomically"]

# On a full disk torch's zip writer raises a RuntimeError and numpy's tofile an OSError without a number.
_DISK_FULL = re.compile(r"PytorchStreamWriter|inline_container\.cc.*unexpected pos|^\d+ requested and \d+ written$")


def as_path(value: object, name: str) -> Path:
    """A path that a user gave.

    Raises:
        ValueError: If it is no path.

    Examples:
        >>> as_path(5, "out")
        Traceback (most recent call last):
        ValueError: out is 5: give a path, a string or a pathlib.Path.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise ValueError(f"{name} is {value!r}: give a path, a string or a pathlib.Path.")
    return Path(path)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside a file or folder and renames, so that a crash or a full disk leaves the old content intact.

    The new content is on the disk before it has its name, so that it is whole after a power failure too.

    Arguments:
        path: The file or folder to write; its parent is created if missing.
        write: Writes the content to the path that it is called with.

    Raises:
        OSError: If it cannot be written; with errno ``ENOSPC`` if the disk is full, whichever error a library raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, f"{path} could not be written whole: is the disk full?") from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def is_disk_full(error: Exception) -> bool:
    """Whether an error without an errno is one that torch or numpy raises on a full disk."""
    return getattr(error, "errno", None) is None and _DISK_FULL.search(str(error)) is not None


def content_fingerprint(path: Path, nested: Iterable[str] = ()) -> str:
    """A hash of a file, or of the files of a folder and of those in its folders that match the patterns ``nested``."""
    digest = blake2b(digest_size=16)
    inside = sorted(file for pattern in nested for file in path.glob(pattern))
    for file in [*sorted(path.iterdir()), *inside] if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() if path.is_dir() else b"")
            with file.open("rb") as content:
                while block := content.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file, or the files of a folder, are on the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as content:
                os.fsync(content.fileno())
