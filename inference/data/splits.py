"""Random splits of texts into training, validation and test texts."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, Shaped

from ...models.utils.numbers import check_at_least
from .entries import Pair
from .labels import label_names
from .pairs import unzip_pairs
from .stored_texts import StoredTexts, encoded_chunks

__all__ = ["SPLITS", "split_texts"]

SPLITS = ("train", "valid", "test")
HELD_OUT = 20  # one text in so many is held out in each split
Entries = TypeVar("Entries", list[str], list[Pair], StoredTexts)


def split_texts(
    texts: Entries,
    seed: int = 0,
    parts: tuple[str, ...] = ("valid", "test"),
    *,
    name: str = "the corpus",
    labels: bool | None = None,
) -> dict[str, Entries]:
    """A random split of texts, or pairs, into ``train`` and ``parts``, each with one in twenty of the distinct texts.

    Equal texts go to the same part, whatever their conditions, so that no text is both trained and tested on; their
    order is kept. If conditions are labels (see :func:`~.labels.label_names`), ``train`` has at least one text of each.

    Raises:
        ValueError: If the seed is negative, there are fewer than 20 different texts, or a part is empty because
            ``train`` needs every label.

    Examples:
        >>> {part: len(texts) for part, texts in split_texts([f"text {i}" for i in range(100)]).items()}
        {'train': 90, 'valid': 5, 'test': 5}
    """
    check_at_least(0, seed=seed)
    plain, conditions = unzip_pairs(texts)
    numbers, count = _distinct_numbers(plain)
    if count < HELD_OUT:
        raise ValueError(
            f"{name} holds {count} different text{'' if count == 1 else 's'}, too few to split: give at least "
            f"{HELD_OUT}, or a folder with train, valid and test files."
        )
    order, size = np.random.default_rng(seed).permutation(count), count // HELD_OUT
    part_of = np.zeros(count, np.uint8)  # of each distinct text; 0: train
    for j, _ in enumerate(parts):
        part_of[order[j * size : (j + 1) * size]] = j + 1
    del order
    part_of[_texts_of_missing_labels(conditions, numbers, part_of, labels)] = 0
    parts_of_texts = part_of[numbers]
    split = {part: _select(texts, np.flatnonzero(parts_of_texts == j)) for j, part in enumerate(("train", *parts))}
    if empty := [part for part in parts if not len(split[part])]:
        raise ValueError(
            f"{name} has so few texts of each label that none is left for {empty[0]}: give more, make the conditions "
            "texts (labels=False), or give a folder with train, valid and test files."
        )
    return split


def _distinct_numbers(texts: Sequence[str]) -> tuple[Int[np.ndarray, " texts"], int]:
    """The number of each text among the distinct ones, in the order in which they first appear, and their count.

    Texts are compared by hashes of 64 bits: among ten million, that two differ and are taken for equal has a
    probability of 3e-6, and would put them into the same part.
    """
    hashes = np.empty(len(texts), np.int64)
    place = 0
    for chunk in encoded_chunks(texts):
        digests = b"".join(blake2b(text, digest_size=8).digest() for text in chunk)
        hashes[place : (place := place + len(chunk))] = np.frombuffer(digests, np.int64)
    index = np.int32 if len(texts) < 2**31 else np.int64  # millions of texts in half the memory
    order = np.argsort(hashes, kind="stable").astype(index)
    hashes = hashes[order]
    begins = np.append(np.ones(min(1, len(order)), bool), hashes[1:] != hashes[:-1])
    del hashes
    rank = np.empty(int(begins.sum()), index)  # of each group of equal hashes, by where it first appears
    rank[np.argsort(order[begins])] = np.arange(len(rank), dtype=index)
    group = np.cumsum(begins, dtype=index)  # from 1
    numbers = np.empty(len(order), index)
    numbers[order] = rank[np.subtract(group, 1, out=group)]
    return numbers, len(rank)


def _texts_of_missing_labels(
    conditions: Sequence[str] | None,
    numbers: Int[np.ndarray, " texts"],
    part_of: Shaped[np.ndarray, " distinct"],
    labels: bool | None,
) -> Int[np.ndarray, " some"]:
    """The number of the first text of each label that no training text has; none if conditions are no labels."""
    names = None if conditions is None else label_names(conditions, labels)
    if conditions is None or names is None:
        return np.empty(0, np.int64)
    index = {name: place for place, name in enumerate(names)}
    label = np.fromiter((index[condition] for condition in conditions), np.int64, len(numbers))
    present, first = np.unique(label, return_index=True)
    return numbers[first[~np.isin(present, label[part_of[numbers] == 0])]]


def _select(texts: Any, rows: Int[np.ndarray, " some"]) -> Any:
    return texts.select(rows) if isinstance(texts, StoredTexts) else [texts[row] for row in rows.tolist()]
