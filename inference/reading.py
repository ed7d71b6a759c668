"""Where texts come from: files of one text a line, and folders of them."""

import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

import numpy as np

__all__ = ["SPLITS", "divide", "read_file", "read_splits"]

SPLITS = ("train", "valid", "test")
FEWEST = 20  # texts: one in twenty is a split

_WAY_OUT = "Give a .txt, .txt.gz, .jsonl or .tsv file, or a folder with train/valid/test."
_STEMS = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}


def read_splits(path: str | Path, field: str | int | None = None, seed: int = 0) -> tuple[dict[str, list[str]], int]:
    """The texts of a file or folder by split, and the number of blank lines.

    A folder holds a file for each split; where ``valid`` or ``test`` is missing, one text in twenty is taken from
    ``train``, as from a single file (see :func:`divide`).

    Raises:
        ValueError: In one line, if there is nothing to read, or it is not text, or too little of it.
    """
    path = Path(path)
    with _told(path):
        files = _split_files(path) if path.is_dir() else None
    if files is None:
        texts, blank = read_file(path, field)
        return divide(texts, seed, name=str(path)), blank
    read = {split: read_file(file, field) for split, file in files.items()}
    splits = {split: texts for split, (texts, _) in read.items()}
    missing = tuple(split for split in SPLITS if split not in splits)
    if missing:
        splits |= divide(splits["train"], seed, missing, name=str(files["train"]))
    return {split: splits[split] for split in SPLITS}, sum(blank for _, blank in read.values())


def read_file(path: str | Path, field: str | int | None = None) -> tuple[list[str], int]:
    """The texts of one file without the blanks around them, and the number of blank lines.

    Arguments:
        path: A file in UTF-8 with one text a line: ``.txt``; ``.jsonl``, one JSON object a line; ``.tsv``, columns
            separated by tabs. Each may be compressed (``.gz``).
        field: Which part of a line is the text: the key of a ``.jsonl`` file ("text" if None); the column of a ``.tsv``
            file, as a name in its first line or as a number from 0 of a file without such a line (if None: the
            column "text", or the only one).

    Raises:
        ValueError: In one line, if the file cannot be read, or is not text, or holds none.
    """
    path = Path(path)
    kind = next((kind for kind in _KINDS if path.name.endswith((kind, kind + ".gz"))), None)
    with _told(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = _lines(file, path)
        if kind is None:
            deque(islice(lines, 1000), maxlen=0)  # what is no text at all is told first
            raise ValueError(f"{path} ends in none of {', '.join(_KINDS)} (or these with .gz). {_WAY_OUT}")
        texts = [text.strip() for text in _KINDS[kind](lines, path, field)]
    found = [text for text in texts if text]
    if not found:
        what = f"holds only blank lines ({len(texts)} of them)" if texts else "is empty"
        raise ValueError(f"{path} {what}. {_WAY_OUT}")
    return found, len(texts) - len(found)


def divide(
    texts: list[str], seed: int = 0, parts: tuple[str, ...] = ("valid", "test"), *, name: str = "the corpus"
) -> dict[str, list[str]]:
    """A random split into ``train`` and ``parts``, each of one different text in twenty.

    Equal texts go to the same part, so that none is trained on and tested on; they keep their number and their order.

    Raises:
        ValueError: If there are fewer than 20 different texts.

    Examples:
        >>> {part: len(texts) for part, texts in divide([f"text {i}" for i in range(100)]).items()}
        {'train': 90, 'valid': 5, 'test': 5}
    """
    different = list(dict.fromkeys(texts))
    if len(different) < FEWEST:
        raise ValueError(
            f"{name} holds {len(different)} different texts, too few to split: give at least {FEWEST}, or a folder "
            "with train, valid and test files."
        )
    order = np.random.default_rng(seed).permutation(len(different))
    size = len(different) // 20
    part_of = {different[i]: part for j, part in enumerate(parts) for i in order[j * size : (j + 1) * size]}
    split: dict[str, list[str]] = {part: [] for part in ("train", *parts)}
    for text in texts:
        split[part_of.get(text, "train")].append(text)
    return split


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system says, in a line that says which file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist. {_WAY_OUT}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file ({error}). Compress it again, or give it unpacked.") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}. {_WAY_OUT}") from error


def _split_files(folder: Path) -> dict[str, Path]:
    """The file of each split that a folder has."""
    held = sorted(path.name for path in folder.iterdir())
    files = {}
    for split, stems in _STEMS.items():
        known = {stem + kind + packed for stem in stems for kind in _KINDS for packed in ("", ".gz")}
        found = [name for name in held if name in known]
        if len(found) > 1:
            raise ValueError(f"{folder} holds {' and '.join(found)}: leave one of them for {split}.")
        if found:
            files[split] = folder / found[0]
    if "train" not in files:
        what = f"no train file (but {', '.join(held[:3])}{', ...' if len(held) > 3 else ''})" if held else "nothing"
        raise ValueError(f"the folder {folder} holds {what}. Put train.txt, valid.txt and test.txt there.")
    return files


def _lines(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1."""
    position = 0
    for number, line in enumerate(file, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            byte = f"byte 0x{line[error.start]:02x} at position {position + error.start:,}"
            raise ValueError(f"{path} is not UTF-8 text ({byte}). {_WAY_OUT}") from error
        if "\0" in text:
            byte = f"a NUL byte at position {position + line.index(0):,}"
            raise ValueError(f"{path} is not text ({byte}). {_WAY_OUT}")
        yield number, text.removeprefix("\ufeff") if number == 1 else text
        position += len(line)


def _plain(lines: Iterable[tuple[int, str]], path: Path, field: str | int | None) -> Iterator[str]:
    if field is not None:
        raise ValueError(f"{path} has no fields, so none that is {field!r}: leave the field out, each line is a text.")
    return (line for _, line in lines)


def _json(lines: Iterable[tuple[int, str]], path: Path, field: str | int | None) -> Iterator[str]:
    key = "text" if field is None else str(field)
    for number, line in lines:
        if not line.strip():
            yield ""
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {path} is not JSON ({error}). Give one JSON object a line.") from error
        if not isinstance(entry, dict) or key not in entry:
            has = f"has only {', '.join(map(repr, entry))}" if isinstance(entry, dict) else "is no JSON object"
            raise ValueError(f"line {number} of {path} lacks the field {key!r}: it {has}. Name the field of the text.")
        text = entry[key]
        if not isinstance(text, str) or not _whole(text):
            held = "half a character" if isinstance(text, str) else json.dumps(text)[:20]
            raise ValueError(f"line {number} of {path} holds {held} as {key!r}: it must be a text.")
        yield text


def _tabs(lines: Iterable[tuple[int, str]], path: Path, field: str | int | None) -> Iterator[str]:
    rows = ((number, line.rstrip("\r\n").split("\t")) for number, line in lines)
    first = next(rows, None)
    if first is None:
        return
    column, named = _column(first[1], path, field)
    for number, row in rows if named else chain([first], rows):
        if row == [""]:
            yield ""
        elif column < len(row):
            yield row[column]
        else:
            raise ValueError(f"line {number} of {path} has {_columns(row)}, so none of number {column} (from 0).")


def _column(first: list[str], path: Path, field: str | int | None) -> tuple[int, bool]:
    """The number of the column with the texts, and whether the first line is a line of names."""
    name = "text" if field is None else field
    if name in first:
        return first.index(str(name)), True
    if field is None and len(first) == 1:
        return 0, False
    if field is None:
        raise ValueError(
            f"{path} has {_columns(first)}: name the one with the texts as the field, by its name in the first line "
            "or its number from 0."
        )
    if not str(field).isdecimal():
        raise ValueError(
            f"{path} has no column {field!r} but {', '.join(map(repr, first[:5]))}: give a name in its first line, or "
            "a column's number from 0."
        )
    return int(field), False


def _columns(row: list[str]) -> str:
    return f"{len(row)} column{'s' if len(row) > 1 else ''}"


def _whole(text: str) -> bool:
    """Whether a text is free of halves of surrogate pairs, which no file in UTF-8 can hold but JSON can spell."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


_KINDS: dict[str, Callable[[Iterable[tuple[int, str]], Path, str | int | None], Iterator[str]]] = {
    ".txt": _plain,
    ".jsonl": _json,
    ".tsv": _tabs,
}
