"""Pairs (condition, text), tokenized: the texts, and with each what it is written for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from .bucketing import buckets
from .labels import Labels
from .texts import Overlong, Texts, check_window, tokenized
from .tokenizer import Tokenizer

__all__ = ["condition_widths", "encode_pairs", "unzip_pairs"]


def unzip_pairs(entries: Sequence[Any]) -> tuple[Sequence[str], Sequence[str] | None]:
    """The texts of some entries, and their conditions; None if the entries are texts alone.

    Raises:
        ValueError: If texts and pairs are mixed, or something else is among them.

    Examples:
        >>> unzip_pairs([("book", "a table for two"), ("cancel", "never mind")])
        (['a table for two', 'never mind'], ['book', 'cancel'])
    """
    if isinstance(entries, Texts):
        return entries, entries.conditions
    if not len(entries) or isinstance(entries[0], str):
        return entries, None
    for index, entry in enumerate(entries):
        if isinstance(entry, str) or len(entry) != 2:
            raise ValueError(f"entry {index} is {entry!r}, the first one a pair: give pairs (condition, text) alone.")
    return [text for _, text in entries], [condition for condition, _ in entries]


def encode_pairs(
    texts: Sequence[str],
    conditions: Sequence[str],
    tokenizer: Tokenizer,
    condition_tokenizer: Tokenizer | Labels,
    max_length: int,
    overlong: Overlong = "split",
) -> tuple[Texts, int]:
    """Texts in memory with their conditions, and how many pairs were dropped because a half was too long.

    A condition may have ``max_length`` tokens and a text as many with its end.

    Arguments:
        texts: The texts.
        conditions: What each is written for.
        tokenizer: What the texts' tokens mean.
        condition_tokenizer: What the conditions' tokens mean: the same, or labels.
        max_length: The most tokens.
        long: "drop" pairs of which a half is longer; "split" is an error then, because a pair cannot be split.

    Raises:
        ValueError: If a half is too long for the max_length and is not to be dropped, or a label is unknown.

    Examples:
        >>> tokenizer = Tokenizer.train(["a rose is a rose"], vocabulary=259)
        >>> texts, dropped = encode_pairs(["rose", "is"], ["noun", "verb"], tokenizer, tokenizer, max_length=8)
        >>> texts[0], texts.conditions[0], dropped
        ('rose', 'noun', 0)
    """
    check_window(max_length, overlong)
    pairs = _whole(texts, tokenizer)
    pairs.conditions = _whole(conditions, condition_tokenizer)
    fits = (pairs.lengths <= max_length) & (pairs.conditions.lengths <= max_length + 1)
    if not fits.all():
        if overlong == "split":
            raise _too_long(pairs, int(fits.argmin()), max_length)
        pairs = pairs.select(np.flatnonzero(fits))
    assert pairs.conditions is not None
    pairs.widths = buckets(pairs.lengths, max_length)
    pairs.conditions.widths = condition_widths(pairs.conditions.lengths, max_length)
    return pairs, int((~fits).sum())


def condition_widths(lengths: Integer[np.ndarray, " texts"], max_length: int) -> tuple[int, ...]:
    """The widths of conditions, by their numbers of tokens with the end, which batches leave out.

    One column is enough for labels; otherwise there are at most three widths, since each multiplies the shapes of
    batches.

    Examples:
        >>> condition_widths(np.array([2, 2]), max_length=64), condition_widths(np.array([2, 9, 20]), max_length=64)
        ((2,), (9, 25))
    """
    bare = lengths - 1
    return (2,) if bare.max(initial=0) <= 1 else tuple(width + 1 for width in buckets(bare, max_length, at_most=3))


def _whole(texts: Sequence[str], tokenizer: Tokenizer | Labels) -> Texts:
    """Texts of any length, none split or dropped."""
    tokens, offsets, _ = tokenized(texts, tokenizer, _ENDLESS, "drop")
    return Texts(tokens, offsets, tokenizer, (_ENDLESS,))


_ENDLESS = 2**62  # tokens


def _too_long(pairs: Texts, index: int, max_length: int) -> ValueError:
    assert pairs.conditions is not None
    what, half, length = "text", pairs, int(pairs.lengths[index])
    if length <= max_length:
        what, half, length = "condition", pairs.conditions, int(pairs.conditions.lengths[index]) - 1
    return ValueError(
        f"the {what} {half[index][:40]!r}... has {length} tokens, the max_length is {max_length}, and a pair cannot be split: "
        "give a longer max_length, or leave such pairs out (overlong='drop', --overlong drop)."
    )
