"""Tokenized texts: one array of all tokens, and the offset of each text in it."""

from collections.abc import Collection, Sequence
from itertools import chain, pairwise
from typing import Any, Literal, SupportsIndex, get_args, overload

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from tokenizers import Encoding
from torch import Tensor

from ...models.batch import EOS, PAD, Batch
from ...models.utils.choices import check_choice
from ...models.utils.numbers import declared_number
from ..utils.bucketing import bucket_lengths
from .labels import Labels
from .tokenizer import Tokenizer

__all__ = ["MIN_MAX_LENGTH", "Overlong", "Texts", "check_length_options", "evenly_spaced", "tokenize"]

MIN_MAX_LENGTH = 8  # tokens: any character and the end fit, with room for a word
Overlong = Literal["split", "drop"]


class Texts(Sequence[str]):
    r"""A sequence of strings, stored as tokens in one array, usually a memory-mapped file.

    Arguments:
        tokens: The tokens of all texts one after the other, each text's end included.
        offsets: The start of each text :math:`i`, then the end of the last one.
        tokenizer: The tokenizer or labels that decode the tokens.
        padded_lengths: Lengths to which batches are padded, ascending; no text is longer than the last.
        owner: An object that must live as long as the array, such as the temporary folder of the file.
        conditions: The condition of each text, if there are any: as many texts or labels.
        overlong: How many texts were split or dropped when they were encoded, as longer than ``max_length``.

    Examples:
        >>> tokenizer = Tokenizer.train(["a rose is a rose"], vocabulary=259)
        >>> texts = Texts.encode(["a rose", "is"], tokenizer, max_length=8)
        >>> texts[1], texts.lengths.tolist(), texts.bytes.tolist(), texts.padded_lengths
        ('is', [7, 3], [6, 2], (8,))
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, " n"],
        offsets: Int[np.ndarray, " texts_and_1"],
        tokenizer: Tokenizer | Labels,
        padded_lengths: tuple[int, ...],
        owner: object = None,
        conditions: "Texts | None" = None,
        overlong: int = 0,
    ) -> None:
        self.tokens = tokens
        self.offsets = offsets
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary
        self.padded_lengths = padded_lengths
        self.owner = owner
        self.conditions = conditions
        self.overlong = overlong

    @classmethod
    def encode(
        cls, texts: Collection[str], tokenizer: Tokenizer, max_length: int, overlong: Overlong = "split"
    ) -> "Texts":
        """Strings as ``Texts`` in memory; texts longer than ``max_length`` are split or dropped."""
        tokens, offsets, count = tokenize(texts, tokenizer, max_length, overlong)
        return cls(tokens, offsets, tokenizer, bucket_lengths(np.diff(offsets), max_length), overlong=count)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.tokenizer.decode_batch([self.ids(i) for i in range(*index.indices(len(self)))])
        return self.tokenizer.decode(self.ids(index))

    def ids(self, index: SupportsIndex) -> Int[np.ndarray, " n"]:
        """The tokens of one text, its end included."""
        index = range(len(self))[index]
        return np.asarray(self.tokens[self.offsets[index] : self.offsets[index + 1]], dtype=np.int64)

    @property
    def lengths(self) -> Int[np.ndarray, " texts"]:
        """Number of tokens of each text, its end included."""
        return np.diff(self.offsets)

    @property
    def bytes(self) -> Int[np.ndarray, " texts"]:
        """Number of bytes of each text in UTF-8, the denominator of bits per byte."""
        return np.add.reduceat(self.tokenizer.byte_lengths()[self.tokens], self.offsets[:-1], dtype=np.int64)

    def select(self, indices: Int[np.ndarray, " some"]) -> "Texts":
        """A subset of the texts in memory, with their conditions and the same padded lengths."""
        rows = [self.tokens[self.offsets[index] : self.offsets[index + 1]] for index in indices]
        tokens = np.concatenate([np.empty(0, self.tokens.dtype), *rows])
        offsets = np.cumsum([0, *map(len, rows)])
        conditions = None if self.conditions is None else self.conditions.select(indices)
        return Texts(tokens, offsets, self.tokenizer, self.padded_lengths, conditions=conditions)

    def pad(
        self, indices: Int[np.ndarray, " B"], length: int, end: bool = True
    ) -> tuple[Int[Tensor, "B {length}"], Bool[Tensor, "B {length}"]]:
        """Tokens and mask of some texts, padded to ``length``.

        Index -1 gives a filler row, which has an end token only. Without ``end`` the end tokens are left out, as
        conditions need it.
        """
        filler = indices < 0
        starts = np.where(filler, 0, self.offsets[indices])[:, None]
        lengths = np.where(filler, 1, self.offsets[indices + 1] - self.offsets[indices])[:, None]
        positions = np.arange(length)
        mask = positions < (lengths if end else lengths - 1)
        tokens = np.where(mask, self.tokens[np.where(mask, starts + positions, 0)], PAD).astype(np.int64)
        if tokens.size and tokens.max() >= self.vocabulary:
            raise ValueError(
                f"the corpus is damaged (it holds token {tokens.max()}, and its tokenizer has {self.vocabulary}): make "
                "it anew."
            )
        if end:
            tokens[filler, 0] = EOS
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def batch(self, indices: Int[np.ndarray, " B"], length: int, weight: float | None = None) -> Batch:
        """A batch of some texts, padded to ``length``.

        Each text has weight ``weight`` (1 / number of texts, if None), filler rows (index -1) have weight zero.
        """
        tokens, mask = self.pad(indices, length)
        real = torch.from_numpy(indices >= 0)
        if weight is None:
            weight = 1 / max(1, int(real.sum()))
        batch = Batch(tokens, mask, real.float() * weight)
        if self.conditions is None:
            return batch
        condition, condition_mask = self.conditions.pad(indices, self.conditions.padded_length(indices) - 1, end=False)
        return batch._replace(condition_tokens=condition, condition_mask=condition_mask)

    def padded_length(self, indices: Int[np.ndarray, " B"]) -> int:
        """The smallest of the padded lengths that fits some texts; filler rows have index -1."""
        real = indices[indices >= 0]
        longest = (self.offsets[real + 1] - self.offsets[real]).max(initial=1)
        return self.padded_lengths[int(np.searchsorted(self.padded_lengths, longest))]

    def __repr__(self) -> str:
        kind = "texts" if self.conditions is None else "pairs"
        return f"Texts({len(self):,} {kind}, {len(self.tokens):,} tokens)"

    def __getstate__(self) -> dict[str, Any]:
        """A memory-mapped array is pickled as its path."""
        state = self.__dict__.copy()
        if isinstance(self.tokens, np.memmap):
            state |= {"tokens": self.tokens.filename, "owner": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self.tokens, np.ndarray):
            self.tokens = np.load(self.tokens, mmap_mode="r")


def evenly_spaced(texts: Texts, limit: int | None) -> Texts:
    """At most ``limit`` of the texts, evenly spaced; all if None.

    Examples:
        >>> tokenizer = Tokenizer.train(["a rose is a rose"], vocabulary=259)
        >>> evenly_spaced(Texts.encode(list("abcdefg"), tokenizer, max_length=8), 3)[:]
        ['a', 'd', 'g']
    """
    if limit is None or limit >= len(texts):
        return texts
    return texts.select(np.linspace(0, len(texts) - 1, limit).round().astype(int))


def tokenize(
    texts: Collection[str], tokenizer: Tokenizer | Labels, max_length: int, overlong: Overlong = "split"
) -> tuple[Integer[np.ndarray, " n"], Int[np.ndarray, " texts_and_1"], int]:
    """The tokens of texts in one array, the offset of each text in it, and the number of overlong texts.

    An overlong text is dropped, or split between words into pieces that fit (within a word only if the word alone is
    longer than ``max_length``). Blanks around pieces are removed before they are tokenized.
    """
    dtype = np.uint16 if tokenizer.vocabulary <= 2**16 else np.uint32
    parts, lengths, count = [np.empty(0, dtype)], [0], 0
    texts = texts if isinstance(texts, Texts) else list(texts)
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        encoded = tokenizer.encode_batch(chunk)
        too_long = [i for i, tokens in enumerate(encoded) if len(tokens) > max_length]
        pieces: list[list[list[int]]] = [[] for _ in too_long]
        if overlong == "split":
            pieces = _split_overlong([chunk[i] for i in too_long], tokenizer, max_length)
        replacements = dict(zip(too_long, pieces, strict=True))
        rows = [row for i, tokens in enumerate(encoded) for row in replacements.get(i, [tokens])]
        parts.append(np.fromiter(chain.from_iterable(rows), dtype))
        lengths.extend(map(len, rows))
        count += len(too_long)
    return np.concatenate(parts), np.cumsum(lengths), count


def check_length_options(max_length: int, overlong: str) -> None:
    """Raises a ValueError if ``max_length`` is too small, or ``overlong`` is neither "split" nor "drop"."""
    if declared_number("max_length", max_length, int) < MIN_MAX_LENGTH:
        raise ValueError(f"a max_length of {max_length} tokens is too short for text: give at least {MIN_MAX_LENGTH}.")
    check_choice("overlong", overlong, get_args(Overlong))


_CHUNK = 5_000  # texts; bounds the memory that their tokens take as objects


def _split_overlong(texts: list[str], tokenizer: Tokenizer | Labels, max_length: int) -> list[list[list[int]]]:
    """The tokens of the pieces of each text."""
    assert isinstance(tokenizer, Tokenizer), "a label is one token: there is nothing to split"
    done: dict[tuple[int, ...], list[int]] = {}
    todo: list[tuple[tuple[int, ...], str]] = [((i,), text.strip()) for i, text in enumerate(texts)]
    while todo:  # repeated, because a piece can become longer without the blank before it
        rest: list[tuple[tuple[int, ...], str]] = []
        for (place, text), encoding in zip(todo, tokenizer.core.encode_batch([text for _, text in todo]), strict=True):
            if len(encoding.ids) < max_length:
                done[place] = [*encoding.ids, EOS]
            else:
                rest.extend(
                    ((*place, j), piece) for j, piece in enumerate(_pieces(text, encoding, max_length)) if piece
                )
        todo = rest
    rows: list[list[list[int]]] = [[] for _ in texts]
    for place in sorted(done):
        rows[place[0]].append(done[place])
    return rows


def _pieces(text: str, encoding: Encoding, max_length: int) -> list[str]:
    """As few pieces as may fit, of similar length, cut between words or, within one long word, characters."""
    starts = np.array([start for start, _ in encoding.offsets])
    inner = np.arange(1, len(starts))
    places = inner[[text[start].isspace() for start in starts[1:]]]
    if not len(places):
        places = inner[starts[1:] > starts[:-1]]
    pieces = -(-len(starts) // (max_length - 1))
    targets = np.arange(1, pieces) * len(starts) / pieces
    after = np.searchsorted(places, targets).clip(1, max(1, len(places) - 1))
    before, after = places[after - 1], places[after.clip(max=len(places) - 1)]
    nearest = np.where(targets - before <= after - targets, before, after)
    cuts = [0, *np.unique(starts[nearest]).tolist(), len(text)]
    return [text[start:end].strip() for start, end in pairwise(cuts)]
