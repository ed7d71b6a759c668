"""The folder of a corpus: metadata, tokenizer and token arrays, each written atomically."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer

from ..utils.files import write_atomically
from .labels import Labels
from .metadata import CorpusMetadata
from .shards import TokenizedSplit, read_shard
from .splits import SPLITS
from .texts import Texts
from .tokenizer import Tokenizer

__all__ = ["TOKENIZER", "TemporaryFolder", "condition_tokenizer", "load_splits", "read_metadata", "write_corpus"]

TOKENIZER = "tokenizer.json"
_METADATA = "corpus.json"


class TemporaryFolder:
    """A folder that is deleted with the last reference to it; a forked process does not delete it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="pyroformer-"))
        weakref.finalize(self, _remove, str(self.path), os.getpid())


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)


def condition_tokenizer(metadata: CorpusMetadata, tokenizer: Tokenizer) -> Tokenizer | Labels | None:
    """The tokenizer of conditions: that of the texts or the labels; None without conditions."""
    if metadata.conditions is None:
        return None
    labels = metadata.conditions.labels
    return tokenizer if labels is None else Labels(labels, tokenizer.vocabulary)


def write_corpus(
    folder: Path, splits: Mapping[str, TokenizedSplit], tokenizer: Tokenizer, metadata: CorpusMetadata
) -> None:
    """Writes a corpus into a folder; the metadata come last, so that an interrupted write leaves no corpus.

    Raises:
        OSError: If it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _METADATA).unlink(missing_ok=True)
    for name, split in splits.items():
        shards = partial(map, read_shard, split.files)
        _write_texts(folder / name, split.lengths, (shard.tokens for shard in shards()))
        if split.condition_lengths is not None:
            tokens = (shard.conditions.tokens for shard in shards() if shard.conditions)
            _write_texts(folder / f"{name}.conditions", split.condition_lengths, tokens)
    write_atomically(folder / TOKENIZER, tokenizer.save)
    content = json.dumps(metadata.to_json(), indent=1)
    write_atomically(folder / _METADATA, lambda path: path.write_text(content))


def read_metadata(folder: Path) -> CorpusMetadata:
    """The metadata of the corpus in a folder.

    Raises:
        ValueError: If the folder holds none, or they are damaged.
    """
    try:
        content = json.loads((folder / _METADATA).read_text())
    except OSError as error:
        raise ValueError(
            f"{folder} holds no corpus ({_METADATA}: {error.strerror}): make one with Corpus.from_file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{_METADATA}: {error}") from error
    try:
        return CorpusMetadata.from_json(content)
    except (TypeError, ValueError) as error:
        raise _damaged(folder, f"{_METADATA} {error}") from error


def load_splits(folder: Path, metadata: CorpusMetadata, tokenizer: Tokenizer, owner: object) -> list[Texts]:
    """The splits of the corpus in a folder, with memory-mapped tokens.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    conditions_by = condition_tokenizer(metadata, tokenizer)
    vocabulary = (conditions_by or tokenizer).vocabulary
    if vocabulary != metadata.vocabulary:
        raise _damaged(folder, f"its tokenizer has {vocabulary} tokens, not {metadata.vocabulary}")
    splits = []
    for split in SPLITS:
        size, conditions = metadata.texts[split], None
        if conditions_by is not None and metadata.conditions is not None:
            arrays = _load(folder, f"{split}.conditions", size)
            conditions = Texts(*arrays, conditions_by, metadata.conditions.padded_lengths, owner)
        splits.append(Texts(*_load(folder, split, size), tokenizer, metadata.padded_lengths, owner, conditions))
    return splits


def _load(folder: Path, name: str, size: int) -> tuple[Integer[np.ndarray, " n"], Int[np.ndarray, " texts_and_1"]]:
    try:
        tokens = np.load(folder / f"{name}.tokens.npy", mmap_mode="r")
        offsets = np.load(folder / f"{name}.offsets.npy")
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from error
    if len(offsets) != size + 1 or offsets[-1] != len(tokens):
        raise _damaged(folder, f"the {name} texts are not all there")
    return tokens, offsets


def _write_texts(path: Path, lengths: Int[np.ndarray, " texts"], tokens: Iterator[Integer[np.ndarray, " n"]]) -> None:
    """Writes the tokens of texts, which come in parts, and the offset of each text."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    write_atomically(path.with_name(f"{path.name}.tokens.npy"), partial(_save_parts, tokens, int(offsets[-1])))
    write_atomically(path.with_name(f"{path.name}.offsets.npy"), partial(_save, offsets))


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _save_parts(parts: Iterator[Integer[np.ndarray, " n"]], size: int, path: Path) -> None:
    """Writes an array of which only a part at a time is in memory; the file is the same as of ``np.save``."""
    first = next(parts)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": (size,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in chain([first], parts):
            file.write(part.tobytes())


def _damaged(folder: Path, reason: object) -> ValueError:
    return ValueError(f"the corpus in {folder} is damaged ({reason}): make it anew.")
