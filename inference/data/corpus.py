"""A corpus: texts or pairs in three splits, their tokenizer, and the max_length that every text fits into."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from ...models.batch import Batch
from . import builtin
from . import readers as reading
from .bucketing import buckets
from .formats import Field
from .labels import Labels, label_names
from .loaders import TrainingStream, sequential_batches
from .pairs import condition_widths, encode_pairs, unzip_pairs
from .readers import Pair
from .storage import TOKENIZER, TemporaryFolder, condition_tokenizer, read_about, read_splits, write_corpus
from .texts import Overlong, Texts, check_window, tokenized
from .tokenizer import Tokenizer, check_vocabulary

__all__ = ["Corpus"]


class Corpus:
    r"""Texts to train on, to choose by and to test on; or pairs (condition, text), for models that write on demand.

    The texts are tokenized once into memory-mapped arrays, in a folder of the user's choice or in a temporary one that
    lives as long as the corpus. The tokenizer has seen the training texts only. The constructor opens a folder; use
    :meth:`builtin`, :meth:`read` or :meth:`of` to make a corpus and :meth:`open` to open one.

    A condition is a text as well, cut by the same tokenizer, or a label: one token of its own beyond those of texts.

    Attributes:
        train, valid, test: The splits, each a sequence of strings (:class:`Texts`), with their ``conditions`` if any.
        tokenizer: What the tokens mean.
        condition_tokenizer: What those of conditions mean: ``tokenizer``, :class:`Labels`, or None without conditions.
        max_length: The most tokens that a text has, its end included.
        widths: The at most six widths that batches have.
        counts: How many texts were read, how many of them were longer than the max_length, how many lines were blank.

    Examples:
        >>> corpus = Corpus.from_texts([f"Number {i} is not {i + 1}." for i in range(100)], vocabulary=270)
        >>> corpus.describe(), len(corpus.train)
        ('100 texts, 270-token BPE', 90)
        >>> batch = next(corpus.batches("train", batch_size=4))
        >>> batch.tokens.shape
        torch.Size([4, 16])
        >>> pairs = Corpus.from_texts([("even" if i % 2 == 0 else "odd", f"Number {i}") for i in range(100)], vocabulary=270)
        >>> pairs.describe(), pairs.labels, pairs.vocabulary
        ('100 pairs, 2 labels, 270-token BPE', ('even', 'odd'), 272)
    """

    def __init__(self, folder: str | Path, owner: object = None) -> None:
        self.folder = Path(folder)
        about = read_about(self.folder)
        self.name: str = about["name"]
        self.max_length: int = about["max_length"]
        self.overlong: Overlong = about["overlong"]
        self.seed: int = about["seed"]
        self.asked: int | None = about["asked"]
        self.counts: dict[str, int] = about["counts"]
        self.widths: tuple[int, ...] = tuple(about["widths"])
        self.tokenizer = Tokenizer.load(self.folder / TOKENIZER)
        self.condition_tokenizer = condition_tokenizer(about, self.tokenizer)
        self.train, self.valid, self.test = read_splits(self.folder, about, self.tokenizer, owner)

    @classmethod
    def builtin(
        cls,
        *,
        vocabulary: int | Literal["auto"] = "auto",
        max_length: int = 64,
        overlong: Overlong = "drop",
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> "Corpus":
        """About 12,000 English sentences that every Python carries in its documentation: nothing is downloaded."""
        _check(vocabulary, max_length, overlong)
        splits = reading.split_texts(builtin.sentences(), seed, name="this Python's documentation")
        return cls.from_texts(
            splits,
            vocabulary=vocabulary,
            max_length=max_length,
            overlong=overlong,
            seed=seed,
            folder=folder,
            tokenizer=tokenizer,
            name="Python's documentation",
        )

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        vocabulary: int | Literal["auto"] = "auto",
        max_length: int = 64,
        overlong: Overlong = "split",
        field: Field | None = None,
        condition: Field | None = None,
        labels: bool | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> "Corpus":
        """A file of texts or pairs, or a folder with a file for each split.

        One file is split at random into 90 % training, 5 % validation and 5 % test texts; equal texts go to the same
        split. Blank lines are left out and counted.

        Arguments:
            path: A .txt, .txt.gz, .jsonl or .tsv file, or a folder with train/valid/test files of these kinds.
            vocabulary: Number of tokens, or "auto": from 1,000 to 32,000 by the size of the training texts.
            max_length: The most tokens that a text may have, its end included.
            overlong: What becomes of longer texts: "split" between words into texts that fit, or "drop". A pair can only be
                dropped, and is if its condition or its text is longer.
            field: The field of a .jsonl file or the column of a .tsv file that holds the text (see :func:`read_file`).
            condition: The field or column, likewise, that holds what the text is written for, if anything.
            labels: Whether each different condition is a label; if None, it is if the training texts have at most 1,000
                and each is one word, with no blank in it.
            seed: What the split follows from.
            folder: Where the tokenized corpus is kept, such as a run's folder; temporary if None. One process writes.
            tokenizer: A tokenizer to use instead of a new one.

        Raises:
            ValueError: In one line, whatever is wrong with the file, the folder or the sizes.
        """
        _check(vocabulary, max_length, overlong)
        splits, blank = reading.read_splits(path, field, seed, condition=condition, labels=labels)
        return cls.from_texts(
            splits,
            vocabulary=vocabulary,
            max_length=max_length,
            overlong=overlong,
            labels=labels,
            seed=seed,
            folder=folder,
            tokenizer=tokenizer,
            name=Path(path).resolve().name,
            blank=blank,
        )

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str] | Sequence[Pair] | Mapping[str, Sequence[str]] | Mapping[str, Sequence[Pair]],
        *,
        vocabulary: int | Literal["auto"] = "auto",
        max_length: int = 64,
        overlong: Overlong = "split",
        labels: bool | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
        name: str = "",
        blank: int = 0,
    ) -> "Corpus":
        """Strings or pairs (condition, text), split as in :meth:`read`, or a dictionary of either by split."""
        _check(vocabulary, max_length, overlong)
        parts = _separated(
            texts if isinstance(texts, Mapping) else reading.split_texts(list(texts), seed, labels=labels)
        )
        read, conditions = parts["train"]
        if labels is not None and conditions is None:
            raise ValueError("labels are conditions, and these texts have none: give pairs, or leave labels out.")
        names = None if conditions is None else label_names(conditions, labels)
        if conditions is not None and names is None:
            read = [*read, *conditions]
        asked = None if vocabulary == "auto" or tokenizer else vocabulary
        tokenizer = tokenizer or Tokenizer.train(read, asked or _vocabulary(read))
        about: dict[str, Any] = {
            "name": name,
            "max_length": max_length,
            "overlong": overlong,
            "seed": seed,
            "asked": asked,
        }
        if conditions is not None:
            about["conditions"] = {"labels": names}
        found, too_long = _encoded(parts, tokenizer, about)
        about |= {
            "vocabulary": tokenizer.vocabulary + len(names or ()),
            "texts": {split: len(some) for split, some in found.items()},
            "widths": buckets(_typical(list(found.values())), max_length),
            "counts": {"texts": sum(len(some) for some, _ in parts.values()), "overlong": too_long, "blank": blank},
        }
        if conditions is not None:
            held = [some.conditions for some in found.values() if some.conditions is not None]
            about["conditions"]["widths"] = condition_widths(_typical(held), max_length)
        owner = TemporaryFolder() if folder is None else None
        target = owner.path if owner else Path(str(folder))
        write_corpus(target, found, tokenizer, about)
        return cls(target, owner)

    @classmethod
    def load(cls, folder: str | Path) -> "Corpus":
        """A corpus that was made in ``folder``, without the files that it was made from.

        Raises:
            ValueError: If the folder holds no whole corpus.
        """
        return cls(folder)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, special ones and labels included."""
        return (self.condition_tokenizer or self.tokenizer).vocabulary

    @property
    def conditional(self) -> bool:
        """Whether texts come with conditions."""
        return self.condition_tokenizer is not None

    @property
    def max_condition_length(self) -> int:
        """The most tokens that a condition has: one for a label, a max_length for a text, 0 where there is none."""
        return 0 if not self.conditional else 1 if self.labels else self.max_length

    @property
    def labels(self) -> tuple[str, ...]:
        """The conditions, where each is a token of its own."""
        return self.condition_tokenizer.names if isinstance(self.condition_tokenizer, Labels) else ()

    def entries(self, split: str = "test", limit: int | None = None) -> list[str] | list[Pair]:
        """The first texts of a split, or pairs (condition, text), as :meth:`of` takes them."""
        texts: Texts = getattr(self, split)
        if texts.conditions is None:
            return texts[:limit]
        return list(zip(texts.conditions[:limit], texts[:limit], strict=True))

    def encode(self, entries: Sequence[str] | Sequence[Pair]) -> Texts:
        """Other texts in memory, or pairs if those of the corpus are; what is too long is treated as it was there.

        Raises:
            ValueError: If texts are given for pairs or pairs for texts, a label is unknown, or a pair too long.
        """
        texts, conditions = unzip_pairs(entries)
        if len(texts) and self.conditional and conditions is None:
            raise ValueError(
                "these texts lack the conditions that those of the corpus have: give pairs (condition, text), or the "
                "file's field with --condition."
            )
        if len(texts) and conditions is not None and not self.conditional:
            raise ValueError("these texts have conditions, and those of the corpus have none: give the texts alone.")
        if isinstance(texts, Texts):
            return texts
        if self.condition_tokenizer is None:
            return Texts.encode(texts, self.tokenizer, self.max_length, self.overlong)
        reader = self.condition_tokenizer
        return encode_pairs(texts, conditions or [], self.tokenizer, reader, self.max_length, self.overlong)[0]

    def batches(self, split: str = "train", batch_size: int = 64, *, epochs: int = 1, seed: int = 0) -> Iterator[Batch]:
        """Batches for a loop of one's own: ``train`` shuffled anew each epoch, the others shortest first.

        Every batch has ``batch_size`` rows and one of at most six widths; its conditions have one of at most three.
        Texts weigh 1 / number of texts in the batch; the last batch of an epoch is filled with rows of weight zero.
        """
        if split not in reading.SPLITS:
            raise ValueError(f"there is no split {split!r}: give {', '.join(reading.SPLITS)}.")
        texts: Texts = getattr(self, split)
        if split == "train":
            stream = TrainingStream(texts, batch_size, seed)
            return (stream.micro_batch(step) for step in range(epochs * stream.steps_per_epoch))
        return (batch for _ in range(epochs) for _, batch in sequential_batches(texts, batch_size))

    def describe(self) -> str:
        """What was read, in a line."""
        notes = []
        if self.counts["overlong"]:
            notes.append(f"{self.counts['long']:,} longer than {self.max_length} tokens {_PAST[self.overlong]}")
        if self.counts["blank"]:
            notes.append(f"{self.counts['blank']:,} blank line{'s' if self.counts['blank'] > 1 else ''} left out")
        size = f"{self.tokenizer.vocabulary:,}-token BPE"
        if self.asked and self.tokenizer.vocabulary < self.asked:
            size += f" (the text has no more; {self.asked:,} were asked for)"
        what = f"{self.counts['texts']:,} {'pairs' if self.conditional else 'texts'}{_bracket(notes)}"
        what += f", {len(self.labels):,} label{'s' if len(self.labels) > 1 else ''}" if self.labels else ""
        return f"{self.name and self.name + ': '}{what}, {size}"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(getattr(self, split)):,}" for split in reading.SPLITS)
        return f"Corpus({self.describe()}; max_length {self.max_length}; {sizes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.folder,)


_PAST = {"split": "split", "drop": "dropped"}


def _check(vocabulary: int | Literal["auto"], max_length: int, overlong: str) -> None:
    """Says what is wrong before anything is read."""
    if vocabulary != "auto":
        check_vocabulary(vocabulary)
    check_window(max_length, overlong)


def _vocabulary(texts: Sequence[str]) -> int:
    """4,000 tokens for a megabyte of training text, twice as many for four times the text, in thousands."""
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return int(np.clip(round(4 * (size / 1e6) ** 0.5), 1, 32)) * 1000


def _bracket(notes: list[str]) -> str:
    return f" ({', '.join(notes)})" if notes else ""


_Parts = Mapping[str, tuple[Sequence[str], Sequence[str] | None]]  # the texts of each split, and their conditions


def _separated(splits: Mapping[str, Sequence[Any]]) -> _Parts:
    """Each split's texts, and their conditions in all or none."""
    if set(splits) != set(reading.SPLITS):
        raise ValueError(f"the splits are {', '.join(splits) or 'none'}: give train, valid and test.")
    parts = {split: unzip_pairs(splits[split]) for split in reading.SPLITS}
    paired = [split for split, (_, conditions) in parts.items() if conditions is not None]
    alone = [split for split, (texts, conditions) in parts.items() if conditions is None and len(texts)]
    if paired and alone:
        raise ValueError(f"{paired[0]} holds pairs and {alone[0]} texts alone: give pairs in every split, or in none.")
    return parts


def _encoded(parts: _Parts, tokenizer: Tokenizer, about: Mapping[str, Any]) -> tuple[dict[str, Texts], int]:
    """The splits in memory, and how many of their texts or pairs were too long for the max_length."""
    max_length, overlong, reader = about["max_length"], about["overlong"], condition_tokenizer(about, tokenizer)
    found, count = {}, 0
    for split, (texts, conditions) in parts.items():
        if reader is None:
            tokens, offsets, some = tokenized(texts, tokenizer, max_length, overlong)
            found[split] = Texts(tokens, offsets, tokenizer, (max_length,))
        else:
            found[split], some = encode_pairs(texts, conditions or [], tokenizer, reader, max_length, overlong)
        if not len(found[split]):
            what, instead = ("text", ", or split long texts") if reader is None else ("pair", "")
            raise ValueError(
                f"no {what} of the {split} split fits into a max_length of {max_length} tokens: give a longer max_length{instead}."
            )
        count += some
    return found, count


def _typical(splits: Sequence[Texts]) -> Int[np.ndarray, " n"]:
    """The lengths of the training texts and the longest of all: what the widths of batches are chosen by."""
    return np.append(splits[0].lengths, max(int(texts.lengths.max()) for texts in splits))
