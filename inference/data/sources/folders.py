"""Which files of a folder hold the texts of which split."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .columns import COLUMNAR
from .formats import FORMATS
from .packed import PACKED

__all__ = ["Files", "named_splits", "split_files"]

Files = tuple[Path, ...]  # of one split, in order
_STEMS = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
_PART = r"-(\d{5})-of-(\d{5})\S*"  # as datasets names the files of a split
_ENDINGS = [*(ending + packed for ending in FORMATS for packed in PACKED), *COLUMNAR]


def split_files(folder: Path, needed: str = "train") -> dict[str, Files]:
    """The files of each split that a folder has, or all of its files under "" if they are of no split.

    A split is one file (``train.txt``); several, in the folder or in ``data`` inside it, as data sets of the hub have
    them (``train-00000-of-00002.parquet``); or a folder of Parquet or Arrow files, as ``DatasetDict.save_to_disk``
    writes it. Otherwise such files in the folder itself, as ``Dataset.save_to_disk`` writes them, are one set of texts.

    Arguments:
        folder: The folder.
        needed: The split that it must have.

    Raises:
        ValueError: If there is no file of the needed split, several could be meant, or one of its parts is missing.
        OSError: If the folder cannot be read.
    """
    paths = sorted(folder.iterdir())
    inside = folder / "data"
    shards = paths + (sorted(inside.iterdir()) if inside.is_dir() else [])
    files = {}
    for split, stems in _STEMS.items():
        tables = {stem + ending for stem in stems for ending in ("", *COLUMNAR)}
        folders = [path for path in paths if path.name.lower() in tables and path.is_dir()]
        possible = {stem + ending for stem in stems for ending in _ENDINGS}
        named = [(path,) for path in paths if path.name.lower() in possible and path not in folders]
        several = [*(_parts(shards, stem) for stem in stems), *map(_tables, folders)]
        present = [*named, *filter(None, several)]
        if len(present) > 1:
            several_names = " and ".join(str(found[0].relative_to(folder)) for found in present)
            raise ValueError(f"{folder} holds {several_names}: leave one of them for {split}.")
        if present:
            files[split] = present[0]
    if needed not in files:
        if not files and (whole := _tables(folder)):
            return {"": whole}
        raise _no_file(folder, needed, [path.name for path in paths])
    return files


def named_splits(splits: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of a dictionary by the splits that its keys name; other keys are left out.

    Raises:
        ValueError: If there is none for training, or several for one split.

    Examples:
        >>> named_splits({"train": 1, "validation": 2, "unsupervised": 3})
        {'train': 1, 'valid': 2}
    """
    found = {}
    for split, stems in _STEMS.items():
        keys = [key for key in splits if str(key).lower() in stems]
        if len(keys) > 1:
            raise ValueError(f"the splits {' and '.join(map(repr, keys))} are both for {split}: leave one of them.")
        if keys:
            found[split] = splits[keys[0]]
    if "train" not in found:
        raise ValueError(f"the splits are {', '.join(map(repr, splits)) or 'none'}: one must be train.")
    return found


def _parts(paths: list[Path], stem: str) -> Files:
    """The files in which one split lies, as ``train-00000-of-00002.parquet``."""
    pattern = re.compile(re.escape(stem) + _PART + f"({'|'.join(map(re.escape, COLUMNAR))})", re.IGNORECASE)
    matches = [(path, match) for path in paths if (match := pattern.fullmatch(path.name))]
    if not matches:
        return ()
    numbers, totals = ([int(match[group]) for _, match in matches] for group in (1, 2))
    if numbers != list(range(totals[0])) or len(set(totals)) > 1:
        raise ValueError(
            f"{matches[0][0].parent} holds {len(matches)} of the {totals[0]} parts of {stem}, such as "
            f"{matches[0][0].name}: put each there, once."
        )
    return tuple(path for path, _ in matches)


def _tables(folder: Path) -> Files:
    """The Parquet and Arrow files of a folder: those that ``datasets`` notes, which caches others beside them, or all.

    Raises:
        ValueError: If one that is noted is missing.
    """
    tables = [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(COLUMNAR)]
    try:
        noted = json.loads((folder / "state.json").read_text())["_data_files"]
        names = [Path(str(item["filename"])).name for item in noted]
    except (OSError, ValueError, KeyError, TypeError):
        return tuple(path for path in tables if not path.name.startswith((".", "_")))
    if missing := [name for name in names if folder / name not in tables]:
        raise ValueError(f"{folder} lacks {missing[0]}, which its state.json names: put it there.")
    return tuple(folder / name for name in names)


def _no_file(folder: Path, needed: str, names: list[str]) -> ValueError:
    some = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    content = f"no {needed} file (but {some})" if names else "nothing"
    way_out = "Put train.txt, valid.txt and test.txt there." if needed == "train" else "Give the file itself."
    return ValueError(f"the folder {folder} holds {content}. {way_out}")
