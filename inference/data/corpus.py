"""A corpus: texts or pairs in three splits, tokenized to at most ``max_length`` tokens."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ...models.batch import Batch
from ...models.utils.choices import check_choice
from ...models.utils.numbers import check_at_least
from ..utils.files import as_path
from ..utils.html import html_table
from ..utils.memory import return_freed_memory
from .building import CorpusOptions, build_corpus
from .entries import Pair, as_entries
from .labels import Labels
from .loaders import TrainingStream, sequential_batches
from .pairs import encode_pairs, unzip_pairs
from .preparation import preparation
from .sources.builtin import sentences
from .sources.datasets import dataset_name, read_dataset
from .sources.readers import read_to_disk
from .sources.rows import Field
from .splits import SPLITS, split_texts
from .storage import TOKENIZER, TemporaryFolder, condition_tokenizer, load_splits, read_metadata
from .texts import Overlong, Texts
from .tokenizer import Tokenizer, TokenizerKind

__all__ = ["Corpus"]

MAX_LENGTH = 64  # of texts, unless another is given
_TOKENS = {"bpe": "{:,}-token BPE", "bytes": "{:,} byte tokens", "characters": "{:,} character tokens"}


class Corpus:
    r"""Training, validation and test texts; or pairs (condition, text), for conditional models.

    The texts are tokenized once into memory-mapped arrays, in a folder of the user's choice or in a temporary one that
    is deleted with the corpus. The tokenizer is trained on the training texts only. The constructor opens a folder; use
    :meth:`builtin`, :meth:`from_file`, :meth:`from_texts` or :meth:`from_dataset` to make a corpus and :meth:`load` to
    open one.

    A condition is a text as well, encoded by the same tokenizer, or a label: one token of its own after those of texts.

    Attributes:
        train, valid, test: The splits, each a sequence of strings (:class:`Texts`), with their ``conditions`` if any.
        tokenizer: The tokenizer of the texts.
        condition_tokenizer: The tokenizer of the conditions: ``tokenizer``, :class:`Labels`, or None if there are none.
        max_length: The largest number of tokens of a text, its end included.
        padded_lengths: The at most six lengths to which batches are padded.
        requested_vocabulary: The vocabulary size that was requested, or None.
        counts: Number of ``texts`` read, of ``overlong`` ones among them, and of ``blank`` lines.

    Examples:
        >>> corpus = Corpus.from_texts([f"Number {i} is not {i + 1}." for i in range(100)], vocabulary=270)
        >>> corpus.summary(), len(corpus.train)
        ('100 texts, 270-token BPE', 90)
        >>> batch = next(corpus.batches("train", batch_size=4))
        >>> batch.tokens.shape
        torch.Size([4, 16])
        >>> pairs = [("even" if i % 2 == 0 else "odd", f"Number {i}") for i in range(100)]
        >>> corpus = Corpus.from_texts(pairs, vocabulary=270)
        >>> corpus.summary(), corpus.labels, corpus.vocabulary
        ('100 pairs, 2 labels, 270-token BPE', ('even', 'odd'), 272)
    """

    def __init__(self, folder: str | Path, owner: object = None) -> None:
        self.folder = as_path(folder, "the folder of the corpus")
        metadata = read_metadata(self.folder)
        self.name = metadata.name
        self.max_length = metadata.max_length
        self.overlong: Overlong = metadata.overlong
        self.seed = metadata.seed
        self.requested_vocabulary = metadata.requested_vocabulary
        self.counts = metadata.counts
        self.padded_lengths = metadata.padded_lengths
        self.tokenizer = Tokenizer.load(self.folder / TOKENIZER)
        self.condition_tokenizer = condition_tokenizer(metadata, self.tokenizer)
        self.train, self.valid, self.test = load_splits(self.folder, metadata, self.tokenizer, owner)

    @classmethod
    def builtin(
        cls,
        *,
        vocabulary: int | Literal["auto"] = "auto",
        max_length: int = MAX_LENGTH,
        overlong: Overlong = "drop",
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | TokenizerKind | None = None,
    ) -> "Corpus":
        """About 12,000 English sentences from the documentation in every Python installation; nothing is downloaded."""
        options = CorpusOptions(vocabulary, max_length, overlong, tokenizer, seed=seed)
        splits = split_texts(sentences(), seed, name="this Python's documentation")
        return cls._prepared(folder, lambda _: (splits, 0), options, name="Python's documentation")

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        vocabulary: int | Literal["auto"] = "auto",
        max_length: int = MAX_LENGTH,
        overlong: Overlong = "split",
        field: Field | None = None,
        condition: Field | None = None,
        labels: bool | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | TokenizerKind | None = None,
        progress: bool | None = None,
    ) -> "Corpus":
        """A file of texts or pairs, or a folder with a file for each split.

        One file is split at random into 90 % training, 5 % validation and 5 % test texts; equal texts go to the same
        split. Blank lines are left out and counted.

        Texts are kept on the disk meanwhile, not in memory, and tokenized on all cores. A preparation that was
        interrupted goes on, if it is begun again with the same file, options and ``folder``, from where it was: what
        was read, the tokenizer and what was tokenized are kept; the corpus is the same. Of more than 30 MB of training
        texts, a BPE is trained on so many, taken at random by ``seed``.

        Arguments:
            path: A .txt, .csv, .tsv, .jsonl or .json file, or one of these with .gz or .zst, a .parquet, .arrow or
                .feather file (see :func:`~.readers.read_file`), or a folder with train/valid/test files of these
                kinds, or as ``save_to_disk`` of ``datasets`` writes it (see :func:`~.folders.split_files`).
            vocabulary: Number of tokens, or "auto": from 1,000 to 32,000 by the size of the training texts.
            max_length: The largest number of tokens of a text, its end included.
            overlong: "split" longer texts between words, or "drop" them. Pairs can only be dropped, and are if the
                condition or the text is longer.
            field: The key of a JSON object or the column of a table that holds the text.
            condition: The field or column, likewise, of the condition, if there is one.
            labels: Whether conditions are labels. If None, they are labels if the training texts have at most 1,000
                different ones and each is one word without blanks.
            seed: Random seed of the split.
            folder: Where the tokenized corpus is kept, such as a run's folder; temporary if None. Only one process may
                write it.
            tokenizer: The kind of a new tokenizer: "bpe" (the default), "bytes", or "characters" of the training texts
                (see :meth:`Tokenizer.train_kind <pyroformer.inference.data.tokenizer.Tokenizer.train_kind>`); or a
                tokenizer to use instead of a new one.
            progress: Whether to show progress on standard error. If None, it is shown in a terminal and in notebooks.

        Raises:
            ValueError: If the file or folder cannot be read or written, or an option is out of range.
        """
        options = CorpusOptions(vocabulary, max_length, overlong, tokenizer, labels, seed, progress)
        read = partial(
            read_to_disk, path, field=field, seed=seed, condition=condition, labels=labels, progress=progress
        )
        return cls._prepared(folder, read, options, name=as_path(path, "path").resolve().name)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[Any] | Mapping[str, Iterable[Any]],
        *,
        vocabulary: int | Literal["auto"] = "auto",
        max_length: int = MAX_LENGTH,
        overlong: Overlong = "split",
        labels: bool | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | TokenizerKind | None = None,
        name: str = "",
        progress: bool | None = None,
    ) -> "Corpus":
        """Strings or pairs (condition, text), split as in :meth:`from_file`, or a dictionary of either by split.

        Any container with an order will do, such as a column of a data frame. A condition that is a whole number, such
        as the number of a class, is taken as its digits.

        Raises:
            ValueError: If an entry is neither a text nor a pair, there are too few texts to split, or an option is out
                of range.
        """
        options = CorpusOptions(vocabulary, max_length, overlong, tokenizer, labels, seed, progress)
        entries: Mapping[str, Iterable[Any]] = (
            texts if isinstance(texts, Mapping) else split_texts(list[Any](as_entries(texts)), seed, labels=labels)
        )
        return cls._prepared(folder, lambda _: (entries, 0), options, name=name)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        vocabulary: int | Literal["auto"] = "auto",
        max_length: int = MAX_LENGTH,
        overlong: Overlong = "split",
        field: Field | None = None,
        condition: Field | None = None,
        labels: bool | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        tokenizer: Tokenizer | TokenizerKind | None = None,
        progress: bool | None = None,
    ) -> "Corpus":
        """A data set of Hugging Face, such as ``datasets.load_dataset("imdb")``; also one that is streamed.

        Its splits are found by their names (train; valid, validation, val or dev; test; others are left out), and
        where valid or test is missing, or there are none, texts are taken at random as in :meth:`from_file`. A thousand
        rows at a time are in memory. Rows without a text are counted as blank lines.

        Arguments:
            dataset: A ``Dataset``, ``IterableDataset``, or a dictionary of either by split.
            vocabulary: As in :meth:`from_file`, like all that follow.
            max_length: The largest number of tokens of a text, its end included.
            overlong: "split" or "drop".
            field: The column of the texts; if None, "text", or the only one that is not the condition.
            condition: The column of the conditions, if there are any. A ``ClassLabel`` gives the names of its classes.
            labels: Whether conditions are labels.
            seed: Random seed of the split.
            folder: Where the tokenized corpus is kept.
            tokenizer: The kind of a new tokenizer, or a tokenizer.
            progress: Whether to show progress.

        Raises:
            ValueError: If it is no such data set, has no train split or no such column, a value is no text, or an
                option is out of range.

        Examples:
            >>> from datasets import Dataset
            >>> reviews = Dataset.from_dict({"review": [f"It was {n} of 10." for n in range(100)]})
            >>> pf.Corpus.from_dataset(reviews, field="review", vocabulary=270).summary()
            '100 texts, 270-token BPE'
        """
        options = CorpusOptions(vocabulary, max_length, overlong, tokenizer, labels, seed, progress)
        read = partial(
            read_dataset, dataset, field=field, seed=seed, condition=condition, labels=labels, progress=progress
        )
        return cls._prepared(folder, read, options, name=dataset_name(dataset))

    @classmethod
    def _prepared(
        cls, folder: str | Path | None, read: Callable[[Path], tuple[Any, int]], options: CorpusOptions, *, name: str
    ) -> "Corpus":
        """Build a corpus from the splits that ``read`` returns, with the number of blank lines that it left out."""
        target, owner = _corpus_folder(folder)
        with preparation(target) as workplace:
            entries, blank = read(workplace)
            build_corpus(target, workplace, entries, options, name=name, blank=blank)
        del entries
        return_freed_memory()
        return cls(target, owner)

    @classmethod
    def load(cls, folder: str | Path) -> "Corpus":
        """The corpus that was made in ``folder``; the files it was made from are not needed.

        Raises:
            ValueError: If the folder contains no complete corpus.
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
        """The largest number of tokens of a condition: 1 for labels, ``max_length`` for texts, 0 without conditions."""
        return 0 if not self.conditional else 1 if self.labels else self.max_length

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, if conditions are labels."""
        return self.condition_tokenizer.names if isinstance(self.condition_tokenizer, Labels) else ()

    def entries(self, split: str = "test", limit: int | None = None) -> list[str] | list[Pair]:
        """The first texts of a split, or pairs (condition, text), as :meth:`from_texts` takes them."""
        texts: Texts = getattr(self, split)
        if texts.conditions is None:
            return texts[:limit]
        return list(zip(texts.conditions[:limit], texts[:limit], strict=True))

    def encode(self, entries: Iterable[Any]) -> Texts:
        """Other texts, or pairs, encoded in memory with the tokenizer and the length options of the corpus.

        Raises:
            ValueError: If texts come where the corpus has pairs or the reverse, a label is unknown, or a pair is too
                long.
        """
        texts, conditions = unzip_pairs(entries)
        if len(texts) and self.conditional and conditions is None:
            raise ValueError(
                "these texts lack the conditions that those of the corpus have: give pairs (condition, text)."
            )
        if len(texts) and conditions is not None and not self.conditional:
            raise ValueError("these texts have conditions, and those of the corpus have none: give the texts alone.")
        if isinstance(texts, Texts):
            return texts
        if self.condition_tokenizer is None:
            return Texts.encode(texts, self.tokenizer, self.max_length, self.overlong)
        reader = self.condition_tokenizer
        return encode_pairs(texts, conditions or [], self.tokenizer, reader, self.max_length, self.overlong)

    def batches(self, split: str = "train", batch_size: int = 64, *, epochs: int = 1, seed: int = 0) -> Iterator[Batch]:
        """Batches for a custom training loop: ``train`` is shuffled in each epoch, the others come shortest first.

        Every batch has ``batch_size`` rows and one of at most six padded lengths; its conditions have one of at most
        three. Texts have weight 1 / number of texts in the batch; the last batch of an epoch is filled with rows of
        weight zero.
        """
        check_choice("split", split, SPLITS)
        check_at_least(1, epochs=epochs)
        texts: Texts = getattr(self, split)
        if split == "train":
            stream = TrainingStream(texts, batch_size, seed)
            return (stream.micro_batch(step) for step in range(epochs * stream.steps_per_epoch))
        return (batch for _ in range(epochs) for _, batch in sequential_batches(texts, batch_size))

    def summary(self) -> str:
        """The source, the number of texts and the vocabulary in one line."""
        notes = []
        if self.counts["overlong"]:
            notes.append(self.overlong_note(self.counts["overlong"]))
        if self.counts["blank"]:
            notes.append(f"{self.counts['blank']:,} blank line{'s' if self.counts['blank'] > 1 else ''} left out")
        size = _TOKENS[self.tokenizer.kind].format(self.tokenizer.vocabulary)
        if self.requested_vocabulary and self.tokenizer.vocabulary < self.requested_vocabulary:
            size += f" (the text has no more; {self.requested_vocabulary:,} were requested)"
        texts = f"{self.counts['texts']:,} {'pairs' if self.conditional else 'texts'}"
        texts += f" ({', '.join(notes)})" if notes else ""
        texts += f", {len(self.labels):,} label{'s' if len(self.labels) > 1 else ''}" if self.labels else ""
        return f"{self.name and self.name + ': '}{texts}, {size}"

    def overlong_note(self, count: int) -> str:
        """What became of so many texts longer than ``max_length``, in words."""
        return f"{count:,} longer than {self.max_length} tokens {_PAST[self.overlong]}"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(getattr(self, split)):,}" for split in SPLITS)
        return f"Corpus({self.summary()}; max_length {self.max_length}; {sizes})"

    def _repr_html_(self) -> str:
        rows = [(split, f"{len(getattr(self, split)):,}") for split in SPLITS]
        return html_table([*rows, ("max_length", self.max_length)], caption=self.summary())

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus, (self.folder,)


def _corpus_folder(folder: str | Path | None) -> tuple[Path, TemporaryFolder | None]:
    """The folder of a corpus, and a temporary one's owner."""
    owner = TemporaryFolder() if folder is None else None
    return owner.path if owner else as_path(folder, "folder"), owner


_PAST = {"split": "split", "drop": "dropped"}
