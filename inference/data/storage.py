"""The folder of a corpus: its description, its tokenizer, its tokens, each written whole or not at all."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from .labels import Labels
from .readers import SPLITS
from .texts import Texts
from .tokenizer import Tokenizer

__all__ = ["TOKENIZER", "TemporaryFolder", "condition_tokenizer", "read_about", "read_splits", "write_corpus"]

TOKENIZER = "tokenizer.json"
_ABOUT = "corpus.json"
_KEYS = {
    "name",
    "max_length",
    "overlong",
    "seed",
    "asked",
    "vocabulary",
    "texts",
    "widths",
    "counts",
}  # and "conditions"


class TemporaryFolder:
    """A folder that goes when nothing needs it any more; a forked process leaves it alone."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="pyroformer-"))
        weakref.finalize(self, _remove, str(self.path), os.getpid())


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)


def condition_tokenizer(about: Mapping[str, Any], tokenizer: Tokenizer) -> Tokenizer | Labels | None:
    """What the tokens of conditions mean, if a corpus has any."""
    if "conditions" not in about:
        return None
    names = about["conditions"]["labels"]
    return tokenizer if names is None else Labels(names, tokenizer.vocabulary)


def write_corpus(folder: Path, splits: Mapping[str, Texts], tokenizer: Tokenizer, about: Mapping[str, Any]) -> None:
    """Writes a corpus into a folder; the description, without which nothing counts, comes last.

    Raises:
        ValueError: In one line, if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _ABOUT).unlink(missing_ok=True)
        for name, array in _arrays(splits):
            _replace(folder / f"{name}.npy", partial(_save, array))
        _replace(folder / TOKENIZER, tokenizer.save)
        _replace(folder / _ABOUT, lambda path: path.write_text(json.dumps(about, indent=1)))
    except OSError as error:
        raise ValueError(f"cannot write the corpus into {folder}: {error.strerror}. Give another folder.") from error


def read_about(folder: Path) -> dict[str, Any]:
    """The description of the corpus in a folder.

    Raises:
        ValueError: In one line, if there is none, or it is damaged.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text())
    except OSError as error:
        raise ValueError(
            f"{folder} holds no corpus ({_ABOUT}: {error.strerror}): make one with Corpus.from_file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{_ABOUT}: {error}") from error
    if not isinstance(about, dict) or not about.keys() >= _KEYS:
        raise _damaged(folder, f"{_ABOUT} describes no corpus")
    conditions = about.get("conditions", {"labels": None, "widths": []})
    if not isinstance(conditions, dict) or not conditions.keys() >= {"labels", "widths"}:
        raise _damaged(folder, f"{_ABOUT} describes no conditions")
    return about


def read_splits(folder: Path, about: Mapping[str, Any], tokenizer: Tokenizer, owner: object) -> list[Texts]:
    """The splits of the corpus in a folder, their tokens memory-mapped.

    Raises:
        ValueError: In one line, if something of it is missing or damaged.
    """
    reader = condition_tokenizer(about, tokenizer)
    vocabulary = (reader or tokenizer).vocabulary
    if vocabulary != about["vocabulary"]:
        raise _damaged(folder, f"its tokenizer has {vocabulary} tokens, not {about['vocabulary']}")
    splits = []
    for split in SPLITS:
        size, conditions = about["texts"][split], None
        if reader is not None:
            arrays = _load(folder, f"{split}.conditions", size)
            conditions = Texts(*arrays, reader, tuple(about["conditions"]["widths"]), owner)
        splits.append(Texts(*_load(folder, split, size), tokenizer, tuple(about["widths"]), owner, conditions))
    return splits


def _arrays(splits: Mapping[str, Texts]) -> Iterator[tuple[str, Integer[np.ndarray, " n"]]]:
    """What is kept of texts, and of their conditions, by the names of the files."""
    for split, texts in splits.items():
        yield f"{split}.tokens", texts.tokens
        yield f"{split}.offsets", texts.offsets
        if texts.conditions is not None:
            yield from _arrays({f"{split}.conditions": texts.conditions})


def _load(folder: Path, name: str, size: int) -> tuple[Integer[np.ndarray, " n"], Int[np.ndarray, " texts_and_1"]]:
    try:
        tokens = np.load(folder / f"{name}.tokens.npy", mmap_mode="r")
        offsets = np.load(folder / f"{name}.offsets.npy")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error
    if len(offsets) != size + 1 or offsets[-1] != len(tokens):
        raise _damaged(folder, f"the {name} texts are not all there")
    return tokens, offsets


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside a file and renames, so that a kill leaves the old file or the new one."""
    beside = path.with_name(path.name + ".partial")
    try:
        write(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _damaged(folder: Path, why: object) -> ValueError:
    return ValueError(f"the corpus in {folder} is damaged ({why}): make it anew.")
