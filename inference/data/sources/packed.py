"""Compressed files as they are unpacked, and what is said of damaged ones."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ....models.utils.errors import one_line
from .columns import pyarrow_for

__all__ = ["PACKED", "unpacked", "unpacking_errors"]

PACKED = ("", ".gz", ".zst")  # the endings of text files, compressed or not


def unpacked(file: BinaryIO, path: Path) -> Any:
    """The content of a file by the ending of its name: compressed by gzip, by Zstandard (with pyarrow), or as it is.

    Raises:
        ValueError: If pyarrow is needed and missing.
    """
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.GzipFile(fileobj=file)
    if ending == ".zst":
        return io.BufferedReader(pyarrow_for(path).CompressedInputStream(file, "zstd"))
    return file


@contextmanager
def unpacking_errors(path: Path) -> Iterator[None]:
    """Errors of a damaged compressed file as a ValueError of one line; those of the system pass."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, OSError) as error:
        kinds = {".gz": "gzip", ".zst": "zst"}
        if isinstance(error, OSError) and error.errno is not None or path.suffix.lower() not in kinds:
            raise
        kind, reason = kinds[path.suffix.lower()], one_line(error)
        raise ValueError(
            f"{path} is no whole {kind} file ({reason}). Compress it again, or give it unpacked."
        ) from error
