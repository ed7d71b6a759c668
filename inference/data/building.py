"""Construction of a corpus: texts or pairs in splits, tokenized and written into a folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from ..utils.bucketing import bucket_lengths
from ..utils.files import write_atomically
from ..utils.memory import return_freed_memory
from ..utils.progress import progress_bar
from .labels import Labels, label_names
from .metadata import ConditionMetadata, CorpusMetadata
from .pairs import condition_lengths, unzip_pairs
from .preparation import preparation_key, take_up
from .shards import ShardOptions, TokenizedSplit, tokenize_in_shards
from .splits import SPLITS
from .storage import write_corpus
from .stored_texts import byte_count, chunk_bounds
from .texts import Overlong, check_length_options
from .tokenizer import Tokenizer, TokenizerKind, check_tokenizer, check_vocabulary

__all__ = ["CorpusOptions", "build_corpus"]

TRAINING_BYTES = (
    30_000_000  # of texts, taken at random, on which a BPE is trained: more change the time, not the tokens
)
Splits = Mapping[str, tuple[Sequence[str], Sequence[str] | None]]  # texts and conditions


@dataclass(frozen=True)
class CorpusOptions:
    """How texts become a corpus, as in :meth:`Corpus.from_file <pyroformer.Corpus.from_file>`.

    Raises:
        ValueError: If an option is out of range.
    """

    vocabulary: int | Literal["auto"]
    max_length: int
    overlong: Overlong
    tokenizer: Tokenizer | TokenizerKind | None
    labels: bool | None = None
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_tokenizer(self.tokenizer, self.vocabulary)
        if self.vocabulary != "auto":
            check_vocabulary(self.vocabulary)
        check_length_options(self.max_length, self.overlong)

    @property
    def requested(self) -> int | None:
        """The vocabulary size of a new tokenizer that was requested, if any."""
        return None if self.vocabulary == "auto" or isinstance(self.tokenizer, Tokenizer) else self.vocabulary


def build_corpus(
    folder: Path,
    workplace: Path,
    entries: Mapping[str, Iterable[Any]],
    options: CorpusOptions,
    *,
    name: str,
    blank: int,
) -> None:
    """Writes a corpus into ``folder``; the tokenizer is trained on the training texts, unless one is given.

    What an interrupted call with the same texts and options has finished in ``workplace`` is not done again.

    Raises:
        ValueError: If splits are missing, mix texts and pairs, or have no text that fits into ``max_length``.
        OSError: If a file cannot be written.
    """
    splits, max_length = _unzip_splits(entries), options.max_length
    _, conditions = splits["train"]
    if options.labels is not None and conditions is None:
        raise ValueError("labels are conditions, and these texts have none: give pairs, or leave labels out.")
    names = None if conditions is None else label_names(conditions, options.labels)
    take_up(workplace, _key(splits, options, names))
    tokenizer = _tokenizer(splits, options, names, workplace / _TRAINED)
    reader = None if conditions is None else tokenizer if names is None else Labels(names, tokenizer.vocabulary)
    shards = ShardOptions(tokenizer, reader, max_length, options.overlong)
    encoded = _encode_splits(splits, shards, workplace, options.progress)
    counts = {
        "texts": sum(len(texts) for texts, _ in splits.values()),
        "overlong": sum(split.overlong for split in encoded.values()),
        "blank": blank,
    }
    metadata = CorpusMetadata(
        name=name,
        max_length=max_length,
        overlong=options.overlong,
        seed=options.seed,
        requested_vocabulary=options.requested,
        vocabulary=tokenizer.vocabulary + len(names or ()),
        texts={split: len(tokenized.lengths) for split, tokenized in encoded.items()},
        padded_lengths=bucket_lengths(_representative_lengths([part.lengths for part in encoded.values()]), max_length),
        counts=counts,
        conditions=None if conditions is None else _condition_metadata(names, encoded, max_length),
    )
    write_corpus(folder, encoded, tokenizer, metadata)


def auto_vocabulary(size: int) -> int:
    """The vocabulary size for training texts of ``size`` bytes: 4,000 for a megabyte, twice as many for four times.

    Examples:
        >>> [auto_vocabulary(size) for size in (10_000, 1_000_000, 4_000_000, 10**12)]
        [1000, 4000, 8000, 32000]
    """
    return int(np.clip(round(4 * (size / 1e6) ** 0.5), 1, 32)) * 1000


_TRAINED = "trained.json"  # the tokenizer, while the texts are tokenized with it
_VERSION = 2  # of the shards: another one is not taken up


def _key(splits: Splits, options: CorpusOptions, names: list[str] | None) -> str:
    """A hash of texts and options, by which a preparation that was interrupted is found again."""
    tokenizer = options.tokenizer
    described: dict[str, Any] = {
        "vocabulary": options.vocabulary,
        "max_length": options.max_length,
        "overlong": options.overlong,
        "labels": names,
        "tokenizer": tokenizer.core.to_str() if isinstance(tokenizer, Tokenizer) else tokenizer or "bpe",
        "seed": options.seed,
        "version": _VERSION,
    }
    return preparation_key((part for split in splits.values() for part in split), described)


def _tokenizer(splits: Splits, options: CorpusOptions, names: list[str] | None, file: Path) -> Tokenizer:
    """The tokenizer that is given, or a new one, trained on the training texts and on conditions that are texts.

    A new one is kept in the file, where an earlier call may have left it. Of texts of more than 30 MB, a BPE is trained
    on so many, taken at random.
    """
    if isinstance(options.tokenizer, Tokenizer):
        return options.tokenizer
    if file.exists():
        with suppress(ValueError):
            return Tokenizer.load(file)
    texts, conditions = splits["train"]
    sources = [texts] if conditions is None or names is not None else [texts, conditions]
    kind, size = options.tokenizer or "bpe", sum(map(byte_count, sources))
    share = 1.0 if kind != "bpe" else min(1.0, TRAINING_BYTES / max(1, size))
    rng = np.random.default_rng(options.seed)
    with progress_bar("training the tokenizer", sum(map(len, sources)), "text", options.progress) as advance:
        sample = chain.from_iterable(_sampled(source, share, rng, advance) for source in sources)
        tokenizer = Tokenizer.train_kind(kind, sample, options.requested or auto_vocabulary(size))
    write_atomically(file, tokenizer.save)
    return tokenizer


def _sampled(
    texts: Sequence[str], share: float, rng: np.random.Generator, advance: Callable[[int], object]
) -> Iterator[str]:
    """A random share of texts, in their order."""
    for chunk in chunk_bounds(texts):
        size = chunk.stop - chunk.start
        rows = range(size) if share == 1 else np.flatnonzero(rng.random(size) < share).tolist()
        part = texts[chunk]
        yield from (part[row] for row in rows)
        advance(size)


def _condition_metadata(
    names: list[str] | None, encoded: Mapping[str, TokenizedSplit], max_length: int
) -> ConditionMetadata:
    lengths = [split.condition_lengths for split in encoded.values() if split.condition_lengths is not None]
    padded_lengths = condition_lengths(_representative_lengths(lengths), max_length)
    return ConditionMetadata(None if names is None else tuple(names), padded_lengths)


def _unzip_splits(entries: Mapping[str, Iterable[Any]]) -> Splits:
    """The texts of each split, and their conditions in all splits or in none."""
    if set(entries) != set(SPLITS):
        raise ValueError(f"the splits are {', '.join(entries) or 'none'}: give train, valid and test.")
    splits = {split: unzip_pairs(entries[split]) for split in SPLITS}
    paired = [split for split, (_, conditions) in splits.items() if conditions is not None]
    alone = [split for split, (texts, conditions) in splits.items() if conditions is None and len(texts)]
    if paired and alone:
        raise ValueError(f"{paired[0]} holds pairs and {alone[0]} texts alone: give pairs in every split, or in none.")
    return splits


def _encode_splits(
    splits: Splits, options: ShardOptions, workplace: Path, progress: bool | None
) -> dict[str, TokenizedSplit]:
    """The splits, tokenized on the disk."""
    return_freed_memory()  # of the texts that were read and of the tokenizer's training
    encoded = {}
    total = sum(len(texts) for texts, _ in splits.values())
    with progress_bar("tokenizing", total, "text", progress) as advance:
        for split, (texts, conditions) in splits.items():
            encoded[split] = tokenize_in_shards(texts, conditions, options, workplace / split, advance)
            if not len(encoded[split].lengths):
                kind, alternative = ("text", ", or split long texts") if conditions is None else ("pair", "")
                raise ValueError(
                    f"no {kind} of the {split} split fits into a max_length of {options.max_length} tokens: give a "
                    f"longer max_length{alternative}."
                )
    return encoded


def _representative_lengths(splits: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " n"]:
    """The lengths by which padded lengths are chosen: those of the training texts and the longest of all."""
    return np.append(splits[0], max(int(lengths.max()) for lengths in splits))
