"""A corpus: texts in three splits, their tokenizer, and the window that every text fits into."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..models.batch import Batch
from . import builtin, reading
from .batches import TrainingStream, once
from .texts import Long, Texts, buckets, check_window, tokenised
from .tokenizer import Tokenizer, check_vocabulary

__all__ = ["Corpus"]


class Corpus:
    r"""Texts to train on, to choose by and to test on.

    The texts are tokenised once into memory-mapped arrays, in a folder of the user's choice or in a temporary one that
    lives as long as the corpus. The tokenizer has seen the training texts only. The constructor opens a folder; use
    :meth:`builtin`, :meth:`read` or :meth:`of` to make a corpus and :meth:`open` to open one.

    Attributes:
        train, valid, test: The splits, each a sequence of strings (:class:`Texts`).
        tokenizer: What the tokens mean.
        window: The most tokens that a text has, its end included.
        widths: The at most six widths that batches have.
        counts: How many texts were read, how many of them were longer than the window, how many lines were blank.

    Examples:
        >>> corpus = Corpus.of([f"Number {i} is not {i + 1}." for i in range(100)], vocabulary=270)
        >>> corpus.describe(), len(corpus.train)
        ('100 texts, 270-token BPE', 90)
        >>> batch = next(corpus.batches("train", batch_size=4))
        >>> batch.tokens.shape
        torch.Size([4, 16])
    """

    def __init__(self, folder: str | Path, owner: object = None) -> None:
        self.folder = Path(folder)
        about = _about(self.folder)
        self.name: str = about["name"]
        self.window: int = about["window"]
        self.long: str = about["long"]
        self.seed: int = about["seed"]
        self.asked: int | None = about["asked"]
        self.counts: dict[str, int] = about["counts"]
        self.widths: tuple[int, ...] = tuple(about["widths"])
        self.tokenizer = Tokenizer.load(self.folder / _TOKENIZER)
        if self.vocabulary != about["vocabulary"]:
            raise _damaged(self.folder, f"its tokenizer has {self.vocabulary} tokens, not {about['vocabulary']}")
        self.train = self._texts("train", about, owner)
        self.valid = self._texts("valid", about, owner)
        self.test = self._texts("test", about, owner)

    @classmethod
    def builtin(
        cls,
        *,
        vocabulary: int | Literal["auto"] = "auto",
        window: int = 64,
        long: Long = "drop",
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> "Corpus":
        """About 12,000 English sentences that every Python carries in its documentation: nothing is downloaded."""
        _check(vocabulary, window, long)
        splits = reading.divide(builtin.sentences(), seed, name="this Python's documentation")
        return cls.of(
            splits,
            vocabulary=vocabulary,
            window=window,
            long=long,
            seed=seed,
            folder=folder,
            tokenizer=tokenizer,
            name="Python's documentation",
        )

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        vocabulary: int | Literal["auto"] = "auto",
        window: int = 64,
        long: Long = "split",
        field: str | int | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> "Corpus":
        """A file of texts, or a folder with a file for each split.

        One file is split at random into 90 % training, 5 % validation and 5 % test texts; equal texts go to the same
        split. Blank lines are left out and counted.

        Arguments:
            path: A .txt, .txt.gz, .jsonl or .tsv file, or a folder with train/valid/test files of these kinds.
            vocabulary: Number of tokens, or "auto": from 1,000 to 32,000 by the size of the training texts.
            window: The most tokens that a text may have, its end included.
            long: What becomes of longer texts: "split" between words into texts that fit, or "drop".
            field: The field of a .jsonl file or the column of a .tsv file that holds the text (see :func:`read_file`).
            seed: What the split follows from.
            folder: Where the tokenised corpus is kept, such as a run's folder; temporary if None. One process writes.
            tokenizer: A tokenizer to use instead of a new one.

        Raises:
            ValueError: In one line, whatever is wrong with the file, the folder or the sizes.
        """
        _check(vocabulary, window, long)
        splits, blank = reading.read_splits(path, field, seed)
        return cls.of(
            splits,
            vocabulary=vocabulary,
            window=window,
            long=long,
            seed=seed,
            folder=folder,
            tokenizer=tokenizer,
            name=Path(path).resolve().name,
            blank=blank,
        )

    @classmethod
    def of(
        cls,
        texts: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        vocabulary: int | Literal["auto"] = "auto",
        window: int = 64,
        long: Long = "split",
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
        name: str = "",
        blank: int = 0,
    ) -> "Corpus":
        """Strings, split as in :meth:`read`, or a dictionary of strings by split."""
        _check(vocabulary, window, long)
        splits = texts if isinstance(texts, Mapping) else reading.divide(list(texts), seed)
        if set(splits) != set(reading.SPLITS):
            raise ValueError(f"the splits are {', '.join(splits) or 'none'}: give train, valid and test.")
        asked = None if vocabulary == "auto" or tokenizer else vocabulary
        tokenizer = tokenizer or Tokenizer.train(splits["train"], asked or _vocabulary(splits["train"]))
        about: dict[str, Any] = {"name": name, "window": window, "long": long, "seed": seed, "asked": asked}
        owner = _TemporaryFolder() if folder is None else None
        target = owner.path if owner else Path(str(folder))
        _write(target, splits, tokenizer, about, blank)
        return cls(target, owner)

    @classmethod
    def open(cls, folder: str | Path) -> "Corpus":
        """A corpus that was made in ``folder``, without the files that it was made from.

        Raises:
            ValueError: If the folder holds no whole corpus.
        """
        return cls(folder)

    @property
    def vocabulary(self) -> int:
        """Number of tokens, special ones included."""
        return self.tokenizer.vocabulary

    def batches(self, split: str = "train", batch_size: int = 64, *, epochs: int = 1, seed: int = 0) -> Iterator[Batch]:
        """Batches for a loop of one's own: ``train`` shuffled anew each epoch, the others shortest first.

        Every batch has ``batch_size`` rows and one of at most six widths. Texts weigh 1 / number of texts in the batch;
        the last batch of an epoch is filled with rows of weight zero.
        """
        if split not in reading.SPLITS:
            raise ValueError(f"there is no split {split!r}: give {', '.join(reading.SPLITS)}.")
        texts: Texts = getattr(self, split)
        if split == "train":
            stream = TrainingStream(texts, batch_size, seed)
            return (stream.micro_batch(step) for step in range(epochs * stream.steps_per_epoch))
        return (batch for _ in range(epochs) for _, batch in once(texts, batch_size))

    def describe(self) -> str:
        """What was read, in a line."""
        notes = []
        if self.counts["long"]:
            notes.append(f"{self.counts['long']:,} longer than {self.window} tokens {_PAST[self.long]}")
        if self.counts["blank"]:
            notes.append(f"{self.counts['blank']:,} blank line{'s' if self.counts['blank'] > 1 else ''} left out")
        size = f"{self.vocabulary:,}-token BPE"
        if self.asked and self.vocabulary < self.asked:
            size += f" (the text has no more; {self.asked:,} were asked for)"
        return f"{self.name and self.name + ': '}{self.counts['texts']:,} texts{_bracket(notes)}, {size}"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(getattr(self, split)):,}" for split in reading.SPLITS)
        return f"Corpus({self.describe()}; window {self.window}; {sizes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.folder,)

    def _texts(self, split: str, about: dict[str, Any], owner: object) -> Texts:
        try:
            tokens = np.load(self.folder / f"{split}.tokens.npy", mmap_mode="r")
            offsets = np.load(self.folder / f"{split}.offsets.npy")
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(self.folder, error) from error
        if len(offsets) != about["texts"][split] + 1 or offsets[-1] != len(tokens):
            raise _damaged(self.folder, f"the {split} texts are not all there")
        return Texts(tokens, offsets, self.tokenizer, self.widths, owner)


_ABOUT, _TOKENIZER = "corpus.json", "tokenizer.json"
_KEYS = {"name", "window", "long", "seed", "asked", "vocabulary", "texts", "widths", "counts"}
_PAST = {"split": "split", "drop": "dropped"}


class _TemporaryFolder:
    """A folder that goes when nothing needs it any more; a forked process leaves it alone."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="pyroformer-"))
        weakref.finalize(self, _remove, str(self.path), os.getpid())


def _remove(path: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(path, ignore_errors=True)


def _check(vocabulary: int | Literal["auto"], window: int, long: str) -> None:
    """Says what is wrong before anything is read."""
    if vocabulary != "auto":
        check_vocabulary(vocabulary)
    check_window(window, long)


def _vocabulary(texts: Sequence[str]) -> int:
    """4,000 tokens for a megabyte of training text, twice as many for four times the text, in thousands."""
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return int(np.clip(round(4 * (size / 1e6) ** 0.5), 1, 32)) * 1000


def _bracket(notes: list[str]) -> str:
    return f" ({', '.join(notes)})" if notes else ""


def _write(
    folder: Path, splits: Mapping[str, Sequence[str]], tokenizer: Tokenizer, about: dict[str, Any], blank: int
) -> None:
    """Tokenises the splits into a folder; the description, without which nothing counts, comes last."""
    found = {split: tokenised(splits[split], tokenizer, about["window"], about["long"]) for split in reading.SPLITS}
    lengths = {split: np.diff(offsets) for split, (_, offsets, _) in found.items()}
    for split, some in lengths.items():
        if not len(some):
            raise ValueError(
                f"no text of the {split} split fits into a window of {about['window']} tokens: give a longer window, "
                "or split long texts."
            )
    longest = max(int(some.max()) for some in lengths.values())
    about |= {
        "vocabulary": tokenizer.vocabulary,
        "texts": {split: len(some) for split, some in lengths.items()},
        "widths": buckets(np.append(lengths["train"], longest), about["window"]),
        "counts": {
            "texts": sum(len(splits[split]) for split in reading.SPLITS),
            "long": sum(count for _, _, count in found.values()),
            "blank": blank,
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _ABOUT).unlink(missing_ok=True)
        for split, (tokens, offsets, _) in found.items():
            _replace(folder / f"{split}.tokens.npy", partial(_save, tokens))
            _replace(folder / f"{split}.offsets.npy", partial(_save, offsets))
        _replace(folder / _TOKENIZER, tokenizer.save)
        _replace(folder / _ABOUT, lambda path: path.write_text(json.dumps(about, indent=1)))
    except OSError as error:
        raise ValueError(f"cannot write the corpus into {folder}: {error.strerror}. Give another folder.") from error


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


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / _ABOUT).read_text())
    except OSError as error:
        raise ValueError(
            f"{folder} holds no corpus ({_ABOUT}: {error.strerror}): make one with Corpus.read."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{_ABOUT}: {error}") from error
    if not isinstance(about, dict) or not about.keys() >= _KEYS:
        raise _damaged(folder, f"{_ABOUT} describes no corpus")
    return about


def _damaged(folder: Path, why: object) -> ValueError:
    return ValueError(f"the corpus in {folder} is damaged ({why}): make it anew.")
