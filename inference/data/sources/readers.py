"""Readers of files with one text, or one pair (condition, text), a line or row, and of folders of them."""

import codecs
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ...utils.files import as_path, content_fingerprint
from ...utils.progress import progress_bar
from ..splits import SPLITS, split_texts
from ..stored_texts import TEXTS, StoredTexts, store_texts
from .columns import COLUMNAR, read_columns
from .folders import Files, split_files
from .formats import FORMATS
from .kept import forget_texts, keep_texts, kept_texts
from .packed import PACKED, unpacked, unpacking_errors
from .rows import Field

__all__ = ["combined_splits", "read_file", "read_split", "read_texts", "read_to_disk"]

LINES_PER_UPDATE = 10_000  # of the progress bar
LONGEST_PART = 2**20  # bytes of a line that are read at a time
LONGEST_LINE = 2**30  # bytes; a small .gz file can hold a line without end
_VERSION = 3  # of what is read from a file: texts of another one are read again

_WAY_OUT = (
    f"Give a {', '.join(FORMATS)}, .parquet or .arrow file (text also packed .gz or .zst), or a folder with "
    "train/valid/test."
)
_SAVE = "Save it as UTF-8, as with: iconv -f {} -t UTF-8."
Line = TypeVar("Line", bytes, tuple[str, ...])
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # that of UTF-32-LE begins as the first


def read_texts(
    path: str | Path,
    field: Field | None = None,
    seed: int = 0,
    *,
    condition: Field | None = None,
    labels: bool | None = None,
) -> tuple[dict[str, Any], int]:
    """The texts of a file or folder by split, and the number of blank lines; pairs, if ``condition`` names a field.

    A folder holds a file or several for each split (see :func:`~.folders.split_files`); where ``valid`` or ``test`` is
    missing, one text in twenty is taken from ``train``, as from a single file (see :func:`~.splits.split_texts`).

    Raises:
        ValueError: If there is nothing to read, it is not text, or there are too few texts to split.
    """
    return _read_splits(path, seed, labels, lambda split, files: _read_files(files, field, condition))


def read_to_disk(
    path: str | Path,
    folder: Path,
    field: Field | None = None,
    seed: int = 0,
    *,
    condition: Field | None = None,
    labels: bool | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, StoredTexts], int]:
    """What :func:`read_texts` reads, kept in files in ``folder`` and not in memory.

    What an interrupted call has read of the same files, by their content, is not read again.

    Raises:
        ValueError: As :func:`read_texts`.
        OSError: If the folder cannot be written.
    """
    key = _reading_key(path, [field, seed, condition, labels])
    if key is not None and (kept := kept_texts(folder, key)) is not None:
        return kept
    forget_texts(folder)

    def read(split: str, files: Files) -> tuple[StoredTexts, int]:
        folder.mkdir(parents=True, exist_ok=True)
        rows = chain.from_iterable(_rows(file, field, condition, progress) for file in files)
        texts, blank = store_texts(rows, folder / f"{split or 'all'}{TEXTS}")
        _check_not_blank(_source(files), len(texts), blank)
        return texts, blank

    splits, blank = _read_splits(path, seed, labels, read)
    if key is not None:
        keep_texts(folder, key, splits, blank)
    return splits, blank


def read_file(path: str | Path, field: Field | None = None, *, condition: Field | None = None) -> tuple[list[Any], int]:
    """The texts of one file without the blanks around them, and the number of blank lines.

    Arguments:
        path: A file in UTF-8: ``.txt``, one text a line; ``.csv`` and ``.tsv``, a table with columns separated by
            commas or tabs, quoted as pandas and spreadsheets do (see :mod:`~.tables`); ``.jsonl``, one JSON object a
            line; ``.json``, an array of texts or of objects. Each may be compressed (``.gz``, ``.zst``). Or a table
            with types, ``.parquet``, ``.arrow`` or ``.feather``, which is read some rows at a time.
        field: Field of the text: the key of a JSON object ("text" if None); the column of a table, as a name in its
            first line or as a number from 0 of a table without such a line (if None: the column "text", or the only
            one that is not the condition). The only column of a table is named by its first line if that is one word,
            unlike the rows below it; a warning says so.
        condition: Field of the condition, likewise: then the file holds pairs (condition, text). A ``.txt`` file of
            pairs is read like a ``.tsv`` file.

    Raises:
        ValueError: If the file cannot be read, is not text, or contains no text or half a pair.
    """
    return _read_files((as_path(path, "path"),), field, condition)


def read_split(
    path: str | Path, split: str, field: Field | None = None, *, condition: Field | None = None
) -> list[Any]:
    """The texts or pairs of one split of a folder, whose other files are not read, or all of a file.

    Those of a folder that knows no splits, a data set on the disk, are split as :func:`read_texts` does.

    Raises:
        ValueError: As :func:`read_file`, or if the folder has no file of that split.
    """
    path = as_path(path, "path")
    files = _files(path, split)
    if split not in files and path.is_dir():
        whole: Any = read_texts(path, field, condition=condition)[0]
        return list(whole[split])
    return _read_files(files.get(split) or files[""], field, condition)[0]


def combined_splits(
    contents: Mapping[str, tuple[Any, int]], seed: int, labels: bool | None, name: str
) -> tuple[dict[str, Any], int]:
    """Texts of some splits, or of none under "", as all splits, and the number of blank rows.

    Splits that are missing are taken at random from ``train``, or from the texts of none.
    """
    splits: dict[str, Any] = {split: texts for split, (texts, _) in contents.items()}
    blank = sum(count for _, count in contents.values())
    if "" in splits:
        return split_texts(splits[""], seed, name=name, labels=labels), blank
    if missing := tuple(split for split in SPLITS if split not in splits):
        splits |= split_texts(splits["train"], seed, missing, name=name, labels=labels)
    return {split: splits[split] for split in SPLITS}, blank


def _files(path: str | Path, needed: str = "train") -> dict[str, Files]:
    """Map splits to files; a single file gets the key "". Raises unless a folder has the split ``needed``."""
    path = as_path(path, "path")
    with _readable_errors(path):
        return split_files(path, needed) if path.is_dir() else {"": (path,)}


def _reading_key(path: str | Path, options: Sequence[object]) -> str | None:
    """A hash of the files and the options of reading them; None for a pipe, which can be read only once."""
    splits = _files(path)
    with _readable_errors(as_path(path, "path")):
        if not all(file.is_file() for files in splits.values() for file in files):
            return None
        content = {split: [(file.name, content_fingerprint(file)) for file in files] for split, files in splits.items()}
    return blake2b(repr((_VERSION, content, options)).encode(), digest_size=16).hexdigest()


def _read_splits(
    path: str | Path, seed: int, labels: bool | None, read: Callable[[str, Files], tuple[Any, int]]
) -> tuple[dict[str, Any], int]:
    """The texts of a file or folder by split, each read by ``read``, and the number of blank lines."""
    splits = _files(path)
    contents = {split: read(split, files) for split, files in splits.items()}
    return combined_splits(contents, seed, labels, str(_source(splits.get("train") or splits[""])))


def _read_files(files: Files, field: Field | None, condition: Field | None) -> tuple[list[Any], int]:
    rows = [row for file in files for row in _rows(file, field, condition)]
    entries = [row for row in rows if any(row)]
    _check_not_blank(_source(files), len(entries), len(rows))
    return [text for (text,) in entries] if condition is None else entries, len(rows) - len(entries)


def _source(files: Files) -> Path:
    """The path that messages name for some files: the only file, or their folder."""
    return files[0] if len(files) == 1 else files[0].parent


def _rows(
    path: Path, field: Field | None, condition: Field | None, progress: bool | None = False
) -> Iterator[tuple[str, ...]]:
    """The fields of each line or row: a text, or a condition and a text; empty ones if it is blank."""
    name = path.name.lower()
    ending = next((ending for ending in FORMATS if name.endswith(tuple(ending + packed for packed in PACKED))), None)
    fields = (field,) if condition is None else (condition, field)
    with _readable_errors(path), unpacking_errors(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with progress_bar(f"reading {path.name}", size, "byte", progress) as advance:
            if name.endswith(COLUMNAR):
                yield from _with_progress(read_columns(file, path, fields), file, advance)
                return
            lines = _lines(_with_progress(_whole_lines(unpacked(file, path), path), file, advance), path)
            if ending is None:
                deque(islice(lines, 1000), maxlen=0)  # that it is not text is reported first
                raise ValueError(f"{path} ends in none of {', '.join([*FORMATS, *COLUMNAR])}. {_WAY_OUT}")
            yield from FORMATS[ending](lines, path, fields)


def _whole_lines(file: Any, path: Path) -> Iterator[bytes]:
    """Lines of a binary file; one with a NUL byte, as of /dev/zero, ends there, however long it would become.

    The only line of a file may be all of them, with the line ends of old spreadsheets (CR).
    """
    first = True
    while part := file.readline(LONGEST_PART):
        parts = [part]
        while not part.endswith(b"\n") and b"\0" not in part and (part := file.readline(LONGEST_PART)):
            parts.append(part)
            if len(parts) * LONGEST_PART > LONGEST_LINE:
                raise ValueError(
                    f"{path} has a line of more than {LONGEST_LINE / 2**20:,.0f} MB. Give one text a line."
                )
        line = b"".join(parts)
        yield from line.splitlines(keepends=True) if first and not line.endswith(b"\n") else (line,)
        first = False


def _with_progress(lines: Iterable[Line], file: BinaryIO, advance: Callable[[int], object]) -> Iterator[Line]:
    """Lines or rows, with the bytes of the file that were read for them shown now and then."""
    shown = 0
    for number, line in enumerate(lines):
        if number % LINES_PER_UPDATE == 0 and file.seekable():  # a pipe is not
            position = max(shown, file.tell())  # columns are read in turn
            advance(position - shown)
            shown = position
        yield line


def _check_not_blank(path: Path, texts: int, rows: int) -> None:
    if not texts:
        problem = f"holds only blank lines ({rows} of them)" if rows else "is empty"
        raise ValueError(f"{path} {problem}. {_WAY_OUT}")


@contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    """Errors of the system as a ValueError of one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist. {_WAY_OUT}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}. {_WAY_OUT}") from error


def _lines(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, str]]:
    """Decoded lines, numbered from 1."""
    position = 0
    for number, line in enumerate(file, 1):
        if number == 1 and line.startswith(_WIDE):
            problem = f"{path} is not UTF-8 text (byte 0x{line[0]:02x} at position 0)"
            raise ValueError(f"{problem}: it is UTF-16 or UTF-32. {_SAVE.format('UTF-16')}")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            byte = f"byte 0x{line[error.start]:02x} at position {position + error.start:,}"
            raise ValueError(f"{path} is not UTF-8 text ({byte}){_other_encoding(path, line)}") from error
        if "\0" in text:
            byte = f"a NUL byte at position {position + line.index(0):,}"
            raise ValueError(f"{path} is not text ({byte}){_other_encoding(path, line)}")
        yield number, text.lstrip("\ufeff")  # of a file, or of several that were put together
        position += len(line)


def _other_encoding(path: Path, line: bytes) -> str:
    """The encoding that a file of texts seems to have, by a line of it, and what to do; for other files, what to give.

    Of Latin letters in UTF-16, every other byte is NUL; in Latin-1 and Windows-1252, no byte is a control character.
    """
    found = None
    for encoding, high in (("UTF-16LE", line[1::2]), ("UTF-16BE", line[::2])):
        if len(line) >= 4 and 2 * high.count(0) > len(high):
            found = encoding
    if not found and not any(byte < 32 and byte not in b"\t\n\f\r" for byte in line):
        found = "WINDOWS-1252"  # with all characters of Latin-1
    if found is None or not set(path.suffixes) & set(FORMATS):
        return f". {_WAY_OUT}"
    name = {"WINDOWS-1252": "Latin-1 or Windows-1252"}.get(found, found)
    return f": it seems to be {name}. {_SAVE.format(found)}"
