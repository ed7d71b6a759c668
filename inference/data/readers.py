"""Readers of text files with one text, or one pair (condition, text), a line, and of folders of them."""

import gzip
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from .entries import Pair
from .formats import FORMATS, Field
from .labels import label_names

__all__ = ["SPLITS", "Pair", "read_file", "read_texts", "split_texts"]

SPLITS = ("train", "valid", "test")
Entry = TypeVar("Entry", str, Pair)
MIN_TEXTS = 20  # one text in twenty is held out in each split

_WAY_OUT = "Give a .txt, .txt.gz, .jsonl or .tsv file, or a folder with train/valid/test."
_STEMS = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}


@overload
def read_texts(
    path: str | Path, field: Field | None = None, seed: int = 0, *, condition: None = None, labels: bool | None = None
) -> tuple[dict[str, list[str]], int]: ...
@overload
def read_texts(
    path: str | Path, field: Field | None = None, seed: int = 0, *, condition: Field, labels: bool | None = None
) -> tuple[dict[str, list[Pair]], int]: ...
def read_texts(
    path: str | Path,
    field: Field | None = None,
    seed: int = 0,
    *,
    condition: Field | None = None,
    labels: bool | None = None,
) -> tuple[dict[str, Any], int]:
    """The texts of a file or folder by split, and the number of blank lines; pairs, if ``condition`` names a field.

    A folder holds a file for each split; where ``valid`` or ``test`` is missing, one text in twenty is taken from
    ``train``, as from a single file (see :func:`split_texts`).

    Raises:
        ValueError: If there is nothing to read, it is not text, or there are too few texts to split.
    """
    path = Path(path)
    with _readable_errors(path):
        files = _split_files(path) if path.is_dir() else None
    if files is None:
        texts, blank = read_file(path, field, condition=condition)
        return split_texts(texts, seed, name=str(path), labels=labels), blank
    contents = {split: read_file(file, field, condition=condition) for split, file in files.items()}
    splits: dict[str, Any] = {split: texts for split, (texts, _) in contents.items()}
    missing = tuple(split for split in SPLITS if split not in splits)
    if missing:
        splits |= split_texts(splits["train"], seed, missing, name=str(files["train"]), labels=labels)
    return {split: splits[split] for split in SPLITS}, sum(blank for _, blank in contents.values())


@overload
def read_file(path: str | Path, field: Field | None = None, *, condition: None = None) -> tuple[list[str], int]: ...
@overload
def read_file(path: str | Path, field: Field | None = None, *, condition: Field) -> tuple[list[Pair], int]: ...
def read_file(path: str | Path, field: Field | None = None, *, condition: Field | None = None) -> tuple[list[Any], int]:
    """The texts of one file without the blanks around them, and the number of blank lines.

    Arguments:
        path: A file in UTF-8 with one text a line: ``.txt``; ``.jsonl``, one JSON object a line; ``.tsv``, columns
            separated by tabs. Each may be compressed (``.gz``).
        field: Field of the text: the key of a ``.jsonl`` file ("text" if None); the column of a ``.tsv``
            file, as a name in its first line or as a number from 0 of a file without such a line (if None: the
            column "text", or the only one that is not the condition).
        condition: Field of the condition, likewise: then the file holds pairs (condition, text). A ``.txt`` file of
            pairs is read like a ``.tsv`` file.

    Raises:
        ValueError: If the file cannot be read, is not text, or contains no text or half a pair.
    """
    path = Path(path)
    ending = next((ending for ending in FORMATS if path.name.lower().endswith((ending, ending + ".gz"))), None)
    with _readable_errors(path), gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        lines = _lines(file, path)
        if ending is None:
            deque(islice(lines, 1000), maxlen=0)  # that it is not text is reported first
            raise ValueError(f"{path} ends in none of {', '.join(FORMATS)} (or these with .gz). {_WAY_OUT}")
        fields = (field,) if condition is None else (condition, field)
        rows = list(FORMATS[ending](lines, path, fields))
    entries = [row for row in rows if any(row)]
    if not entries:
        problem = f"holds only blank lines ({len(rows)} of them)" if rows else "is empty"
        raise ValueError(f"{path} {problem}. {_WAY_OUT}")
    return [text for (text,) in entries] if condition is None else entries, len(rows) - len(entries)


def split_texts(
    texts: list[Entry],
    seed: int = 0,
    parts: tuple[str, ...] = ("valid", "test"),
    *,
    name: str = "the corpus",
    labels: bool | None = None,
) -> dict[str, list[Entry]]:
    """A random split of texts, or pairs, into ``train`` and ``parts``, each with one in twenty of the distinct texts.

    Equal texts go to the same part, whatever their conditions, so that no text is both trained and tested on; their
    order is kept. If conditions are labels (see :func:`~.labels.label_names`), ``train`` has at least one text of each.

    Raises:
        ValueError: If there are fewer than 20 different texts, or a part is empty because ``train`` needs every label.

    Examples:
        >>> {part: len(texts) for part, texts in split_texts([f"text {i}" for i in range(100)]).items()}
        {'train': 90, 'valid': 5, 'test': 5}
    """
    different = list(dict.fromkeys(map(_text, texts)))
    if len(different) < MIN_TEXTS:
        raise ValueError(
            f"{name} holds {len(different)} different texts, too few to split: give at least {MIN_TEXTS}, or a folder "
            "with train, valid and test files."
        )
    order = np.random.default_rng(seed).permutation(len(different))
    size = len(different) // 20
    part_of = {different[i]: part for j, part in enumerate(parts) for i in order[j * size : (j + 1) * size]}
    for text in _texts_of_missing_labels(texts, part_of, labels):
        del part_of[text]
    split: dict[str, list[Entry]] = {part: [] for part in ("train", *parts)}
    for entry in texts:
        split[part_of.get(_text(entry), "train")].append(entry)
    if empty := [part for part in parts if not split[part]]:
        raise ValueError(
            f"{name} has so few texts of each label that none is left for {empty[0]}: give more, make the conditions "
            "texts (labels=False, or --labels false), or give a folder with train, valid and test files."
        )
    return split


def _texts_of_missing_labels(entries: Sequence[str | Pair], held_out: Collection[str], labels: bool | None) -> set[str]:
    """The first text of each label whose texts would all be held out: the label could not be learned."""
    pairs = [entry for entry in entries if not isinstance(entry, str)]
    if not pairs or label_names((condition for condition, _ in pairs), labels) is None:
        return set()
    known = {condition for condition, text in pairs if text not in held_out}
    first = {condition: text for condition, text in reversed(pairs) if condition not in known}
    return set(first.values())


def _text(entry: str | Pair) -> str:
    return entry if isinstance(entry, str) else entry[-1]


@contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    """Errors of the system as a ValueError of one line that names the file."""
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
    names = sorted(path.name for path in folder.iterdir())
    files = {}
    for split, stems in _STEMS.items():
        possible = {stem + ending + packed for stem in stems for ending in FORMATS for packed in ("", ".gz")}
        present = [name for name in names if name in possible]
        if len(present) > 1:
            raise ValueError(f"{folder} holds {' and '.join(present)}: leave one of them for {split}.")
        if present:
            files[split] = folder / present[0]
    if "train" not in files:
        some = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        content = f"no train file (but {some})" if names else "nothing"
        raise ValueError(f"the folder {folder} holds {content}. Put train.txt, valid.txt and test.txt there.")
    return files


def _lines(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, str]]:
    """Decoded lines, numbered from 1."""
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
