"""The state of an interrupted preparation: the texts read so far, on the disk, and the place of each split."""

import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ...utils.files import write_atomically
from ..stored_texts import TEXTS, StoredTexts

__all__ = ["READ", "forget_texts", "keep_texts", "kept_texts"]

READ = "read.npz"

Kept = tuple[dict[str, StoredTexts], int]  # the texts of each split, and the number of blank rows


def keep_texts(folder: Path, key: str, splits: Mapping[str, StoredTexts], blank: int) -> None:
    """Notes in a folder what its texts are.

    Arguments:
        folder: The folder with the files of the texts.
        key: What they were read from, and how.
        splits: The texts of each split.
        blank: The number of blank rows.

    Raises:
        OSError: If it cannot be written.
    """
    arrays: dict[str, Any] = {"key": key, "blank": blank, "splits": list(splits)}
    for name, part in _parts(splits).items():
        arrays |= {f"{name}.file": part.path.name, f"{name}.size": part.path.stat().st_size}
        arrays |= {f"{name}.starts": part.starts, f"{name}.sizes": part.sizes}
    write_atomically(folder / READ, partial(_save, arrays))


def kept_texts(folder: Path, key: str) -> Kept | None:
    """The texts that are noted in a folder; None if they are of something else, or not all there."""
    with suppress(*_DAMAGED), (folder / READ).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if any(part.compress_type for part in arrays.zip.infolist()) or str(arrays["key"]) != key:
            return None  # ours are not compressed: a bomb would be
        splits = {}
        for split in arrays["splits"].tolist():
            splits[split] = _part(folder, arrays, split)
            if f"{split}{_CONDITIONS}.file" in arrays:
                splits[split].conditions = _part(folder, arrays, f"{split}{_CONDITIONS}")
        return splits, int(arrays["blank"])
    return None


def forget_texts(folder: Path) -> None:
    """Removes all texts from a folder."""
    with suppress(NotADirectoryError):
        for path in [folder / READ, *folder.glob(f"*{TEXTS}*")]:
            path.unlink(missing_ok=True)


_CONDITIONS = " conditions"
_DAMAGED = (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error)


def _parts(splits: Mapping[str, StoredTexts]) -> dict[str, StoredTexts]:
    """The texts and the conditions of all splits by name."""
    conditions = {f"{split}{_CONDITIONS}": texts.conditions for split, texts in splits.items()}
    return dict(splits) | {name: part for name, part in conditions.items() if part is not None}


def _part(folder: Path, arrays: Mapping[str, Any], name: str) -> StoredTexts:
    """Texts from where they are noted.

    Raises:
        ValueError: If their file is not as long as it was.
    """
    path = folder / Path(str(arrays[f"{name}.file"])).name
    if path.stat().st_size != int(arrays[f"{name}.size"]):
        raise ValueError(f"{path} is not whole")
    return StoredTexts(path, *(arrays[f"{name}.{field}"] for field in ("starts", "sizes")))


def _save(arrays: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)
