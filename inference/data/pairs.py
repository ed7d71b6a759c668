"""Tokenized pairs (condition, text)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from ..utils.bucketing import bucket_lengths
from .entries import as_entries
from .labels import Labels
from .stored_texts import StoredTexts
from .texts import Overlong, Texts, tokenize
from .tokenizer import Tokenizer

__all__ = ["condition_lengths", "encode_pairs", "unzip_pairs"]


def unzip_pairs(entries: Iterable[Any]) -> tuple[Sequence[str], Sequence[str] | None]:
    """The texts of entries and their conditions, which are None if the entries are texts alone.

    Raises:
        ValueError: If texts and pairs are mixed, or an entry is neither (see :func:`~.entries.as_entries`).

    Examples:
        >>> unzip_pairs([("book", "a table for two"), ("cancel", "never mind")])
        (['a table for two', 'never mind'], ['book', 'cancel'])
    """
    if isinstance(entries, Texts | StoredTexts):
        return entries, entries.conditions
    rows: list[Any] = as_entries(entries)
    if not rows or isinstance(rows[0], str):
        return rows, None
    return [text for _, text in rows], [condition for condition, _ in rows]


def encode_pairs(
    texts: Sequence[str],
    conditions: Sequence[str],
    tokenizer: Tokenizer,
    condition_tokenizer: Tokenizer | Labels,
    max_length: int,
    overlong: Overlong = "split",
) -> Texts:
    """Texts in memory with their conditions; ``overlong`` of them is the number of pairs dropped as too long.

    A condition may have ``max_length`` tokens and a text as many with its end.

    Arguments:
        texts: The texts.
        conditions: The condition of each text.
        tokenizer: Tokenizer of the texts.
        condition_tokenizer: Tokenizer of the conditions: the same one, or labels.
        max_length: The largest number of tokens.
        overlong: "drop" drops pairs with a longer part; with "split" they are an error, since pairs cannot be split.

    Raises:
        ValueError: If a part is longer than ``max_length`` and not dropped, or a label is unknown.

    Examples:
        >>> tokenizer = Tokenizer.train(["a rose is a rose"], vocabulary=259)
        >>> texts = encode_pairs(["rose", "is"], ["noun", "verb"], tokenizer, tokenizer, max_length=8)
        >>> texts[0], texts.conditions[0], texts.overlong
        ('rose', 'noun', 0)
    """
    pairs = _unlimited(texts, tokenizer)
    pairs.conditions = _unlimited(conditions, condition_tokenizer)
    fits = (pairs.lengths <= max_length) & (pairs.conditions.lengths <= max_length + 1)
    if not fits.all():
        if overlong == "split":
            raise _too_long(pairs, int(fits.argmin()), max_length)
        pairs = pairs.select(np.flatnonzero(fits))
    assert pairs.conditions is not None
    pairs.padded_lengths = bucket_lengths(pairs.lengths, max_length)
    pairs.overlong = int((~fits).sum())
    pairs.conditions.padded_lengths = condition_lengths(pairs.conditions.lengths, max_length)
    return pairs


def condition_lengths(lengths: Integer[np.ndarray, " texts"], max_length: int) -> tuple[int, ...]:
    """The padded lengths of conditions, their end included, which batches leave out.

    Labels need one token; otherwise there are at most three lengths, since each multiplies the shapes of batches.

    Arguments:
        lengths: Number of tokens of each condition, its end included.
        max_length: The largest number of tokens of a condition without its end.

    Examples:
        >>> condition_lengths(np.array([2, 2]), max_length=64), condition_lengths(np.array([2, 9, 20]), max_length=64)
        ((2,), (9, 25))
    """
    bare = lengths - 1
    if bare.max(initial=0) <= 1:
        return (2,)
    return tuple(length + 1 for length in bucket_lengths(bare, max_length, at_most=3))


def _unlimited(texts: Sequence[str], tokenizer: Tokenizer | Labels) -> Texts:
    """Texts of any length, none of them split or dropped."""
    tokens, offsets, _ = tokenize(texts, tokenizer, _NO_LIMIT, "drop")
    return Texts(tokens, offsets, tokenizer, (_NO_LIMIT,))


_NO_LIMIT = 2**62  # tokens


def _too_long(pairs: Texts, index: int, max_length: int) -> ValueError:
    assert pairs.conditions is not None
    role, part, length = "text", pairs, int(pairs.lengths[index])
    if length <= max_length:
        role, part, length = "condition", pairs.conditions, int(pairs.conditions.lengths[index]) - 1
    return ValueError(
        f"the {role} {part[index][:40]!r}... has {length} tokens, the max_length is {max_length}, and a pair cannot be "
        "split: give a longer max_length, or leave such pairs out (overlong='drop')."
    )
