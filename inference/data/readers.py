"""Where texts come from: files of one text a line, or of one pair (condition, text), and folders of them."""

import gzip
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from .formats import KINDS, Field
from .labels import label_names

__all__ = ["SPLITS", "Pair", "read_file", "read_splits", "split_texts"]

SPLITS = ("train", "valid", "test")
Pair = tuple[str, str]  # a condition, and the text that is written for it
Entry = TypeVar("Entry", str, Pair)
FEWEST = 20  # texts: one in twenty is a split

_WAY_OUT = "Give a .txt, .txt.gz, .jsonl or .tsv file, or a folder with train/valid/test."
_STEMS = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}


@overload
def read_splits(
    path: str | Path, field: Field | None = None, seed: int = 0, *, condition: None = None, labels: bool | None = None
) -> tuple[dict[str, list[str]], int]: ...
@overload
def read_splits(
    path: str | Path, field: Field | None = None, seed: int = 0, *, condition: Field, labels: bool | None = None
) -> tuple[dict[str, list[Pair]], int]: ...
def read_splits(
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
        ValueError: In one line, if there is nothing to read, or it is not text, or too little of it.
    """
    path = Path(path)
    with _told(path):
        files = _split_files(path) if path.is_dir() else None
    if files is None:
        texts, blank = read_file(path, field, condition=condition)
        return split_texts(texts, seed, name=str(path), labels=labels), blank
    read = {split: read_file(file, field, condition=condition) for split, file in files.items()}
    splits: dict[str, Any] = {split: texts for split, (texts, _) in read.items()}
    missing = tuple(split for split in SPLITS if split not in splits)
    if missing:
        splits |= split_texts(splits["train"], seed, missing, name=str(files["train"]), labels=labels)
    return {split: splits[split] for split in SPLITS}, sum(blank for _, blank in read.values())


@overload
def read_file(path: str | Path, field: Field | None = None, *, condition: None = None) -> tuple[list[str], int]: ...
@overload
def read_file(path: str | Path, field: Field | None = None, *, condition: Field) -> tuple[list[Pair], int]: ...
def read_file(path: str | Path, field: Field | None = None, *, condition: Field | None = None) -> tuple[list[Any], int]:
    """The texts of one file without the blanks around them, and the number of blank lines.

    Arguments:
        path: A file in UTF-8 with one text a line: ``.txt``; ``.jsonl``, one JSON object a line; ``.tsv``, columns
            separated by tabs. Each may be compressed (``.gz``).
        field: Which part of a line is the text: the key of a ``.jsonl`` file ("text" if None); the column of a ``.tsv``
            file, as a name in its first line or as a number from 0 of a file without such a line (if None: the
            column "text", or the only one that is not the condition).
        condition: Which part of a line, likewise, is what the text is written for: then the file holds pairs
            (condition, text). A ``.txt`` file of pairs is read like a ``.tsv`` file.

    Raises:
        ValueError: In one line, if the file cannot be read, or is not text, or holds none, or half a pair.
    """
    path = Path(path)
    kind = next((kind for kind in KINDS if path.name.endswith((kind, kind + ".gz"))), None)
    with _told(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = _lines(file, path)
        if kind is None:
            deque(islice(lines, 1000), maxlen=0)  # what is no text at all is told first
            raise ValueError(f"{path} ends in none of {', '.join(KINDS)} (or these with .gz). {_WAY_OUT}")
        fields = (field,) if condition is None else (condition, field)
        rows = list(KINDS[kind](lines, path, fields))
    found = [row for row in rows if any(row)]
    if not found:
        what = f"holds only blank lines ({len(rows)} of them)" if rows else "is empty"
        raise ValueError(f"{path} {what}. {_WAY_OUT}")
    return [text for (text,) in found] if condition is None else found, len(rows) - len(found)


def split_texts(
    texts: list[Entry],
    seed: int = 0,
    parts: tuple[str, ...] = ("valid", "test"),
    *,
    name: str = "the corpus",
    labels: bool | None = None,
) -> dict[str, list[Entry]]:
    """A random split of texts, or pairs, into ``train`` and ``parts``, each of one different text in twenty.

    Equal texts go to the same part, so that none is trained on and tested on, whatever their conditions; they keep
    their number and their order. Where conditions are labels, as :func:`~.labels.label_names` tells, ``train`` has at
    least one text of each.

    Raises:
        ValueError: If there are fewer than 20 different texts, or all are needed to learn their labels.

    Examples:
        >>> {part: len(texts) for part, texts in split_texts([f"text {i}" for i in range(100)]).items()}
        {'train': 90, 'valid': 5, 'test': 5}
    """
    different = list(dict.fromkeys(map(_text, texts)))
    if len(different) < FEWEST:
        raise ValueError(
            f"{name} holds {len(different)} different texts, too few to split: give at least {FEWEST}, or a folder "
            "with train, valid and test files."
        )
    order = np.random.default_rng(seed).permutation(len(different))
    size = len(different) // 20
    part_of = {different[i]: part for j, part in enumerate(parts) for i in order[j * size : (j + 1) * size]}
    for text in _missed(texts, part_of, labels):
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


def _missed(entries: Sequence[str | Pair], held: Collection[str], labels: bool | None) -> set[str]:
    """The first text of each label whose texts would all be held out: nothing could be learned of it."""
    pairs = [entry for entry in entries if not isinstance(entry, str)]
    if not pairs or label_names((condition for condition, _ in pairs), labels) is None:
        return set()
    known = {condition for condition, text in pairs if text not in held}
    first = {condition: text for condition, text in reversed(pairs) if condition not in known}
    return set(first.values())


def _text(entry: str | Pair) -> str:
    return entry if isinstance(entry, str) else entry[-1]


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
        known = {stem + kind + packed for stem in stems for kind in KINDS for packed in ("", ".gz")}
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
