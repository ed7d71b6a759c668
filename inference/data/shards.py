"""Texts tokenized in parts, each kept in a file of its own, from which an interrupted preparation goes on."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from ..utils.files import write_atomically
from .labels import Labels
from .pairs import encode_pairs
from .stored_texts import chunk_bounds
from .texts import Overlong, tokenize
from .tokenizer import Tokenizer

__all__ = ["ENDING", "Shard", "ShardOptions", "TokenizedSplit", "read_shard", "tokenize_in_shards"]

ENDING = ".shard"
MAX_THREADS = 4  # each holds a shard in memory


class ShardOptions(NamedTuple):
    """How texts are tokenized; pairs, if there is a tokenizer of their conditions."""

    tokenizer: Tokenizer
    condition_tokenizer: Tokenizer | Labels | None
    max_length: int
    overlong: Overlong


class Shard(NamedTuple):
    """Tokenized texts: their lengths, tokens one after the other, and the number of those that were too long.

    Conditions are the same of each text's condition, if there are any.
    """

    lengths: Integer[np.ndarray, " texts"]
    tokens: Integer[np.ndarray, " n"]
    overlong: int
    conditions: "Shard | None" = None


class TokenizedSplit(NamedTuple):
    """The shards of a split, and what they hold together; its tokens stay on the disk."""

    files: list[Path]
    lengths: Int[np.ndarray, " texts"]
    condition_lengths: Int[np.ndarray, " texts"] | None
    overlong: int


def tokenize_in_shards(
    texts: Sequence[str],
    conditions: Sequence[str] | None,
    options: ShardOptions,
    path: Path,
    advance: Callable[[int], object],
) -> TokenizedSplit:
    """Tokenizes texts, or pairs, in a few threads; shards that are there already are not made again.

    The tokenizer's own threads use all cores, without Python's lock; those here keep them busy while tokens become
    arrays. The shards are the same in any number of threads.

    Arguments:
        texts: The texts.
        conditions: The condition of each, if there are any.
        options: How they are tokenized.
        path: Folder and name of the shards, to which their number is added.
        advance: Called with the number of texts of each shard once it is finished.

    Raises:
        ValueError: If a pair is too long and ``overlong`` is "split".
        OSError: If a shard cannot be written.
    """
    bounds = chunk_bounds(texts)
    paths = [path.with_name(f"{path.name}.{number:05}{ENDING}") for number in range(len(bounds))]
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    lengths, condition_lengths, overlong = [np.empty(0, np.int32)], [np.empty(0, np.int32)], 0
    try:
        for chunk, shard in zip(
            bounds, pool.map(partial(_finished, texts, conditions, options), bounds, paths), strict=True
        ):
            lengths.append(shard.lengths)
            overlong += shard.overlong
            if shard.conditions is not None:
                condition_lengths.append(shard.conditions.lengths)
            advance(chunk.stop - chunk.start)
    finally:
        pool.shutdown(cancel_futures=True)
    of_conditions = None if options.condition_tokenizer is None else np.concatenate(condition_lengths)
    return TokenizedSplit(paths, np.concatenate(lengths), of_conditions, overlong)


def read_shard(path: Path) -> Shard:
    """The content of a finished shard.

    Raises:
        OSError, ValueError, EOFError: If it is missing or damaged.
    """
    with path.open("rb") as file:
        paired, overlong = np.load(file).tolist()
        arrays = [np.load(file) for _ in range(4 if paired else 2)]
    return Shard(arrays[0], arrays[1], overlong, Shard(arrays[2], arrays[3], 0) if paired else None)


def _finished(
    texts: Sequence[str], conditions: Sequence[str] | None, options: ShardOptions, chunk: slice, path: Path
) -> Shard:
    """A shard without its tokens, which are in its file."""
    try:
        shard = read_shard(path)
    except (OSError, ValueError, EOFError):
        shard = _tokenize(texts[chunk], None if conditions is None else conditions[chunk], options)
        write_atomically(path, partial(_write, shard))
    none = np.empty(0, np.int32)
    of_conditions = None if shard.conditions is None else shard.conditions._replace(tokens=none)
    return shard._replace(tokens=none, conditions=of_conditions)


def _tokenize(texts: Sequence[str], conditions: Sequence[str] | None, options: ShardOptions) -> Shard:
    tokenizer, condition_tokenizer, max_length, overlong = options
    if condition_tokenizer is None:
        tokens, offsets, count = tokenize(texts, tokenizer, max_length, overlong)
        return Shard(np.diff(offsets).astype(np.int32), tokens, count)
    pairs = encode_pairs(texts, conditions or [], tokenizer, condition_tokenizer, max_length, overlong)
    assert pairs.conditions is not None
    of_conditions = Shard(pairs.conditions.lengths.astype(np.int32), pairs.conditions.tokens, 0)
    return Shard(pairs.lengths.astype(np.int32), pairs.tokens, pairs.overlong, of_conditions)


def _write(shard: Shard, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([shard.conditions is not None, shard.overlong]))
        for part in filter(None, (shard, shard.conditions)):
            np.save(file, part.lengths)
            np.save(file, part.tokens)
