"""Tokenized texts: a long array of tokens, and where each text begins."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from tokenizers import Encoding
from torch import Tensor

from ...models.batch import EOS, PAD, Batch
from .bucketing import buckets
from .labels import Labels
from .tokenizer import Tokenizer

__all__ = ["SHORTEST_MAX_LENGTH", "Texts", "check_window", "tokenized"]

SHORTEST_MAX_LENGTH = 8  # tokens: any character and the end fit, with room for a word
Overlong = Literal["split", "drop"]


class Texts(Sequence[str]):
    r"""Texts as a sequence of strings that lie as tokens in one array, usually a memory-mapped file.

    Arguments:
        tokens: The tokens of all texts one after the other, each text's end included.
        offsets: Where text :math:`i` begins, and where the last one ends.
        tokenizer: What the tokens mean.
        widths: The widths to which batches are padded, ascending; no text is longer than the last.
        owner: An object that must live as long as the array, such as the folder it lies in.
        conditions: What each text is written for, if anything: as many texts, or labels.

    Examples:
        >>> tokenizer = Tokenizer.train(["a rose is a rose"], vocabulary=259)
        >>> texts = Texts.encode(["a rose", "is"], tokenizer, max_length=8)
        >>> texts[1], texts.lengths.tolist(), texts.bytes.tolist(), texts.widths
        ('is', [7, 3], [6, 2], (8,))
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, " n"],
        offsets: Int[np.ndarray, " texts_and_1"],
        tokenizer: Tokenizer | Labels,
        widths: tuple[int, ...],
        owner: object = None,
        conditions: "Texts | None" = None,
    ) -> None:
        self.tokens = tokens
        self.offsets = offsets
        self.tokenizer = tokenizer
        self.widths = widths
        self.owner = owner
        self.conditions = conditions

    @classmethod
    def encode(
        cls, texts: Sequence[str], tokenizer: Tokenizer, max_length: int, overlong: Overlong = "split"
    ) -> "Texts":
        """Strings as ``Texts`` in memory. Those that do not fit into ``max_length`` are split or dropped as in a corpus."""
        tokens, offsets, _ = tokenized(texts, tokenizer, max_length, overlong)
        return cls(tokens, offsets, tokenizer, buckets(np.diff(offsets), max_length))

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
        """Number of bytes of each text in UTF-8: what bits per byte are counted over."""
        return np.add.reduceat(self.tokenizer.byte_lengths()[self.tokens], self.offsets[:-1], dtype=np.int64)

    def select(self, indices: Int[np.ndarray, " some"]) -> "Texts":
        """Some of the texts in memory, with their conditions, as wide as before."""
        rows = [self.tokens[self.offsets[index] : self.offsets[index + 1]] for index in indices]
        tokens = np.concatenate([np.empty(0, self.tokens.dtype), *rows])
        offsets = np.cumsum([0, *map(len, rows)])
        conditions = None if self.conditions is None else self.conditions.select(indices)
        return Texts(tokens, offsets, self.tokenizer, self.widths, conditions=conditions)

    def pad(
        self, indices: Int[np.ndarray, " B"], width: int, end: bool = True
    ) -> tuple[Int[Tensor, "B {width}"], Bool[Tensor, "B {width}"]]:
        """Tokens and mask of some texts; index -1 gives a row that only fills up a batch: an end and nothing else.

        Without ``end`` every row lacks the end of its text, as a condition does.
        """
        filler = indices < 0
        starts = np.where(filler, 0, self.offsets[indices])[:, None]
        lengths = np.where(filler, 1, self.offsets[indices + 1] - self.offsets[indices])[:, None]
        positions = np.arange(width)
        mask = positions < (lengths if end else lengths - 1)
        tokens = np.where(mask, self.tokens[np.where(mask, starts + positions, 0)], PAD).astype(np.int64)
        if end:
            tokens[filler, 0] = EOS
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def batch(self, indices: Int[np.ndarray, " B"], width: int, weight: float | None = None) -> Batch:
        """A batch of some texts, each weighing ``weight`` (1 / number of texts, if None) and fillers nothing."""
        tokens, mask = self.pad(indices, width)
        real = torch.from_numpy(indices >= 0)
        if weight is None:
            weight = 1 / max(1, int(real.sum()))
        batch = Batch(tokens, mask, real.float() * weight)
        if self.conditions is None:
            return batch
        condition, condition_mask = self.conditions.pad(indices, self.conditions.padded_length(indices) - 1, end=False)
        return batch._replace(condition_tokens=condition, condition_mask=condition_mask)

    def padded_length(self, indices: Int[np.ndarray, " B"]) -> int:
        """The smallest of the widths that some texts fit into; index -1 is no text."""
        real = indices[indices >= 0]
        longest = (self.offsets[real + 1] - self.offsets[real]).max(initial=1)
        return self.widths[int(np.searchsorted(self.widths, longest))]

    def __repr__(self) -> str:
        what = "texts" if self.conditions is None else "pairs"
        return f"Texts({len(self):,} {what}, {len(self.tokens):,} tokens)"

    def __getstate__(self) -> dict[str, Any]:
        """A memory-mapped array travels to another process as its path."""
        state = self.__dict__.copy()
        if isinstance(self.tokens, np.memmap):
            state |= {"tokens": self.tokens.filename, "owner": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self.tokens, np.ndarray):
            self.tokens = np.load(self.tokens, mmap_mode="r")


def tokenized(
    texts: Sequence[str], tokenizer: Tokenizer | Labels, max_length: int, overlong: Overlong = "split"
) -> tuple[Integer[np.ndarray, " n"], Int[np.ndarray, " texts_and_1"], int]:
    """Texts that fit into a max_length as one array of tokens and where each begins, and how many texts did not fit.

    A text that does not fit is dropped, or split between words into pieces that do (within a word only where one word
    fills a max_length). Pieces are tokenized as the texts they are, without the blanks around them.

    Raises:
        ValueError: If the max_length is too short for a word, or ``overlong`` is neither "split" nor "drop".
    """
    check_window(max_length, overlong)
    kind = np.uint16 if tokenizer.vocabulary <= 2**16 else np.uint32
    parts, lengths, count = [np.empty(0, kind)], [0], 0
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        encoded = tokenizer.encode_batch(some)
        too_long = [i for i, row in enumerate(encoded) if len(row) > max_length]
        pieces = (
            _split([some[i] for i in too_long], tokenizer, max_length)
            if overlong == "split"
            else [[] for _ in too_long]
        )
        instead = dict(zip(too_long, pieces, strict=True))
        rows = [row for i, one in enumerate(encoded) for row in instead.get(i, [one])]
        parts.append(np.fromiter(chain.from_iterable(rows), kind))
        lengths.extend(map(len, rows))
        count += len(too_long)
    return np.concatenate(parts), np.cumsum(lengths), count


def check_window(max_length: int, overlong: str) -> None:
    """Raises a ValueError if a max_length is too short for a word, or ``overlong`` is neither "split" nor "drop"."""
    if max_length < SHORTEST_MAX_LENGTH:
        raise ValueError(
            f"a max_length of {max_length} tokens is too short for text: give at least {SHORTEST_MAX_LENGTH}."
        )
    if overlong not in ("split", "drop"):
        raise ValueError(f"overlong is {overlong!r}: 'split' or 'drop' what is longer than the max_length.")


_AT_ONCE = 20_000  # texts; bounds the memory that the tokenizer's own objects take


def _split(texts: list[str], tokenizer: Tokenizer | Labels, max_length: int) -> list[list[list[int]]]:
    """For each text the tokens of its pieces."""
    assert isinstance(tokenizer, Tokenizer), "a label is one token: there is nothing to split"
    done: dict[tuple[int, ...], list[int]] = {}
    todo: list[tuple[tuple[int, ...], str]] = [((i,), text.strip()) for i, text in enumerate(texts)]
    while todo:  # rounds, because a piece that lost the blank before it can have become longer
        rest: list[tuple[tuple[int, ...], str]] = []
        for (place, text), encoding in zip(todo, tokenizer.core.encode_batch([text for _, text in todo]), strict=True):
            if len(encoding.ids) < max_length:
                done[place] = [*encoding.ids, EOS]
            else:
                rest.extend(((*place, j), piece) for j, piece in enumerate(_cut(text, encoding, max_length)) if piece)
        todo = rest
    rows: list[list[list[int]]] = [[] for _ in texts]
    for place in sorted(done):
        rows[place[0]].append(done[place])
    return rows


def _cut(text: str, encoding: Encoding, max_length: int) -> list[str]:
    """A text in as few pieces as may fit, similarly long, cut between words or, in a long word, characters."""
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
