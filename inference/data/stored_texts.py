"""Texts in a file on the disk, which are read when they are asked for."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, SupportsIndex, overload

import numpy as np
from jaxtyping import Int, Integer

__all__ = ["TEXTS", "StoredTexts", "byte_count", "chunk_bounds", "encoded_chunks", "store_texts"]

TEXTS = ".texts"  # the ending of a file
CHUNK_TEXTS = 20_000  # texts in memory at a time
CHUNK_BYTES = 4_000_000  # or as many as have this size
SPARSE = 4  # texts that lie this many times farther apart than they are long are read one by one


class StoredTexts(Sequence[str]):
    """A sequence of strings, stored one after the other in a file in UTF-8: of each, only the place is in memory.

    Arguments:
        path: The file.
        starts: The byte at which each text begins, ascending.
        sizes: Number of bytes of each text.
        conditions: The condition of each text, if there are any.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     texts, blank = store_texts([("a rose",), ("",), ("is",)], Path(folder) / "texts")
        ...     texts[:], texts.select(np.array([1]))[0], blank
        (['a rose', 'is'], 'is', 1)
    """

    def __init__(
        self,
        path: Path,
        starts: Int[np.ndarray, " texts"],
        sizes: Integer[np.ndarray, " texts"],
        conditions: "StoredTexts | None" = None,
    ) -> None:
        self.path = path
        self.starts = starts
        self.sizes = sizes
        self.conditions = conditions

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [text.decode() for text in self.encoded(np.arange(len(self))[index])]
        return self.encoded(np.array([range(len(self))[index]]))[0].decode()

    def __iter__(self) -> Iterator[str]:
        return (text.decode() for chunk in encoded_chunks(self) for text in chunk)

    def encoded(self, rows: Int[np.ndarray, " some"]) -> list[bytes]:
        """Some texts as bytes."""
        if not len(rows):
            return []
        starts, sizes = self.starts[rows], self.sizes[rows].tolist()
        first, end = int(starts.min()), int((starts + sizes).max())
        with self.path.open("rb") as file:
            if end - first > SPARSE * sum(sizes):
                return [_read(file, start, size) for start, size in zip(starts.tolist(), sizes, strict=True)]
            together = _read(file, first, end - first)
        places = (starts - first).tolist()
        return [together[place : place + size] for place, size in zip(places, sizes, strict=True)]

    def select(self, rows: Int[np.ndarray, " some"]) -> "StoredTexts":
        """A subset of the texts, with their conditions."""
        conditions = None if self.conditions is None else self.conditions.select(rows)
        return StoredTexts(self.path, self.starts[rows], self.sizes[rows], conditions)


def store_texts(rows: Iterable[tuple[str, ...]], path: Path) -> tuple[StoredTexts, int]:
    """Writes texts, or pairs (condition, text), as they come, and counts the blank rows, which are left out.

    Raises:
        OSError: If they cannot be written.
    """
    blank, files = 0, None
    with path.open("wb") as text_file, _beside(path).open("wb") as condition_file:
        writers = [_Writer(condition_file), _Writer(text_file)]
        for row in rows:
            if not any(row):
                blank += 1
                continue
            files = writers[-len(row) :]
            for writer, part in zip(files, row, strict=True):
                writer.write(part)
        conditions, texts = (writer.sizes() for writer in writers)
    if files is None or len(files) == 1:
        _beside(path).unlink()
        return _from_sizes(path, texts), blank
    stored = _from_sizes(path, texts)
    stored.conditions = _from_sizes(_beside(path), conditions)
    return stored, blank


def encoded_chunks(texts: Sequence[str]) -> Iterator[list[bytes]]:
    """Texts as bytes, as many at a time as memory should hold."""
    for chunk in chunk_bounds(texts):
        if isinstance(texts, StoredTexts):
            yield texts.encoded(np.arange(chunk.start, chunk.stop))
        else:
            yield [text.encode() for text in texts[chunk]]


def byte_count(texts: Sequence[str]) -> int:
    """Number of bytes of all texts in UTF-8."""
    if isinstance(texts, StoredTexts):
        return int(texts.sizes.sum(dtype=np.int64))
    return sum(len(text) for chunk in encoded_chunks(texts) for text in chunk)


def chunk_bounds(texts: Sequence[str]) -> list[slice]:
    """Slices of at most 20,000 texts and about 4 MB, in order.

    Examples:
        >>> chunk_bounds(["x" * 3_000_000] * 3)
        [slice(0, 2, None), slice(2, 3, None)]
    """
    sizes = texts.sizes if isinstance(texts, StoredTexts) else np.fromiter(map(len, texts), np.int64, len(texts))
    ends, bounds = np.cumsum(sizes, dtype=np.int64), [0]
    while bounds[-1] < len(texts):
        start = bounds[-1]
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + CHUNK_BYTES)) + 1
        bounds.append(min(stop, start + CHUNK_TEXTS, len(texts)))
    return [slice(start, stop) for start, stop in pairwise(bounds)]


class _Writer:
    """Texts on their way into a file, many at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.waiting: list[bytes] = []
        self.size = 0  # of what is waiting
        self.written: list[Int[np.ndarray, " texts"]] = []

    def write(self, text: str) -> None:
        self.waiting.append(text.encode())
        self.size += len(self.waiting[-1])
        if len(self.waiting) == CHUNK_TEXTS or self.size >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        self.file.write(b"".join(self.waiting))
        self.written.append(np.fromiter(map(len, self.waiting), np.uint32, len(self.waiting)))
        self.waiting, self.size = [], 0

    def sizes(self) -> Integer[np.ndarray, " texts"]:
        """Number of bytes of each text, once all are written."""
        self.flush()
        return np.concatenate(self.written)


def _from_sizes(path: Path, sizes: Integer[np.ndarray, " texts"]) -> StoredTexts:
    starts = np.cumsum(sizes, dtype=np.int64)
    starts -= sizes
    return StoredTexts(path, starts, sizes)


def _beside(path: Path) -> Path:
    """The file of the conditions of texts."""
    return path.with_name(f"{path.name}.conditions")


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
