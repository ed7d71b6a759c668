"""Files that a command writes for its user: never over a run's own files, over its input, or in place of a device."""

import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .files import write_atomically

__all__ = ["check_output", "write_output"]

RUN_FILES = ("config.yaml", "source.yaml", "metrics.csv")
RUN_FOLDERS = ("corpus", "checkpoints")


def check_output(flag: str, path: str, inputs: Sequence[str | None] = ()) -> None:
    """Checks before the work that a file can be written afterwards.

    Arguments:
        flag: The option that names the file.
        path: The file.
        inputs: Files that are read, and may not be written.

    Raises:
        ValueError: If it is a folder, lies in no folder or in one that cannot be written, belongs to a run, or is
            among ``inputs``.
    """
    target = Path(os.path.realpath(path))
    if not path or target.is_dir():
        raise ValueError(f"{flag} {path or repr(path)} is a folder: name a file, such as {Path(path) / 'result'}.")
    if _is_written_directly(path):
        return
    if not target.parent.is_dir():
        raise ValueError(f"{flag} {path} lies in no folder: make {target.parent} first.")
    if not _can_be_written(target):
        raise ValueError(f"{flag} {path} cannot be written: check its permissions, or choose another file.")
    if (run := _run_of(target)) is not None:
        raise ValueError(f"{flag} {path} is a file of the run {run}, which needs it: choose another file.")
    for source in inputs:
        if source is not None and _same_file(source, target):
            raise ValueError(f"{flag} {path} is also what is read: choose another file.")


def write_output(path: str, content: bytes) -> None:
    """Writes a file whole or not at all; through links, and directly to what is no regular file, such as /dev/stdout.

    Raises:
        OSError: If it cannot be written.
    """
    if _is_written_directly(path):
        with open(path, "ab") as file:  # a redirected /dev/stdout is a file that holds the output so far
            file.write(content)
        return
    target = Path(os.path.realpath(path))

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)
        if target.exists():
            shutil.copymode(target, temporary)

    write_atomically(target, write)


def _can_be_written(target: Path) -> bool:
    """Whether a file may be changed, and one written beside it, which then takes its place."""
    if target.exists() and not os.access(target, os.W_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            return True
    except OSError:
        return False


def _is_written_directly(path: str) -> bool:
    """Whether a path is a device or a pipe, or stands for one, as /dev/stdout and /proc/self/fd/1 do."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return True
    except OSError:  # there is no such file yet
        return False
    link = Path(os.path.abspath(path))
    while link.is_symlink():
        if _is_descriptor(link):
            return True
        link = Path(os.path.normpath(link.parent / os.readlink(link)))
    return _is_descriptor(link)


def _is_descriptor(path: Path) -> bool:
    return any(str(path).startswith(folder) for folder in ("/dev/std", "/dev/fd/", "/proc/"))


def _run_of(target: Path) -> Path | None:
    """The run whose own file this is, under any name; None if it belongs to no run."""
    for folder in target.parents:
        if (folder / "config.yaml").is_file():
            first = target.relative_to(folder).parts[0]
            if target.parent == folder and first in RUN_FILES or first in RUN_FOLDERS:
                return folder
    return None


def _same_file(source: str, target: Path) -> bool:
    try:
        return os.path.samefile(source, target)
    except OSError:
        return False
