"""Construction of a corpus: texts or pairs in splits, tokenized and written into a folder."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from .bucketing import bucket_lengths
from .labels import Labels, label_names
from .metadata import ConditionMetadata, CorpusMetadata
from .pairs import condition_lengths, encode_pairs, unzip_pairs
from .readers import SPLITS
from .storage import write_corpus
from .texts import Overlong, Texts, check_length_options, tokenize
from .tokenizer import Tokenizer, check_vocabulary

__all__ = ["build_corpus", "check_options"]

Splits = Mapping[str, tuple[Sequence[str], Sequence[str] | None]]  # texts and conditions


def check_options(vocabulary: int | Literal["auto"], max_length: int, overlong: str) -> None:
    """Raises a ValueError if an option is out of range, before anything is read."""
    if vocabulary != "auto":
        check_vocabulary(vocabulary)
    check_length_options(max_length, overlong)


def build_corpus(
    folder: Path,
    entries: Mapping[str, Iterable[Any]],
    *,
    vocabulary: int | Literal["auto"],
    max_length: int,
    overlong: Overlong,
    labels: bool | None,
    seed: int,
    tokenizer: Tokenizer | None,
    name: str,
    blank: int,
) -> None:
    """Writes a corpus into ``folder``; the tokenizer is trained on the training texts, unless one is given.

    Raises:
        ValueError: If splits are missing, mix texts and pairs, or have no text that fits into ``max_length``.
    """
    splits = _unzip_splits(entries)
    training_texts, conditions = splits["train"]
    if labels is not None and conditions is None:
        raise ValueError("labels are conditions, and these texts have none: give pairs, or leave labels out.")
    names = None if conditions is None else label_names(conditions, labels)
    if conditions is not None and names is None:
        training_texts = [*training_texts, *conditions]
    requested = None if vocabulary == "auto" or tokenizer else vocabulary
    tokenizer = tokenizer or Tokenizer.train(training_texts, requested or auto_vocabulary(training_texts))
    reader = None if conditions is None else tokenizer if names is None else Labels(names, tokenizer.vocabulary)
    encoded, too_long = _encode_splits(splits, tokenizer, reader, max_length, overlong)
    condition_metadata = None
    if reader is not None:
        lengths = _representative_lengths(
            [texts.conditions for texts in encoded.values() if texts.conditions is not None]
        )
        condition_metadata = ConditionMetadata(
            None if names is None else tuple(names), condition_lengths(lengths, max_length)
        )
    metadata = CorpusMetadata(
        name=name,
        max_length=max_length,
        overlong=overlong,
        seed=seed,
        requested_vocabulary=requested,
        vocabulary=tokenizer.vocabulary + len(names or ()),
        texts={split: len(texts) for split, texts in encoded.items()},
        padded_lengths=bucket_lengths(_representative_lengths(list(encoded.values())), max_length),
        counts={"texts": sum(len(texts) for texts, _ in splits.values()), "overlong": too_long, "blank": blank},
        conditions=condition_metadata,
    )
    write_corpus(folder, encoded, tokenizer, metadata)


def auto_vocabulary(texts: Sequence[str]) -> int:
    """The vocabulary size for training texts: 4,000 tokens for a megabyte, twice as many for four times the text."""
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return int(np.clip(round(4 * (size / 1e6) ** 0.5), 1, 32)) * 1000


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
    splits: Splits, tokenizer: Tokenizer, reader: Tokenizer | Labels | None, max_length: int, overlong: Overlong
) -> tuple[dict[str, Texts], int]:
    """The splits in memory, and the number of their texts or pairs that are longer than ``max_length``."""
    encoded, count = {}, 0
    for split, (texts, conditions) in splits.items():
        if reader is None:
            tokens, offsets, too_long = tokenize(texts, tokenizer, max_length, overlong)
            encoded[split] = Texts(tokens, offsets, tokenizer, (max_length,))
        else:
            encoded[split], too_long = encode_pairs(texts, conditions or [], tokenizer, reader, max_length, overlong)
        if not len(encoded[split]):
            kind, alternative = ("text", ", or split long texts") if reader is None else ("pair", "")
            raise ValueError(
                f"no {kind} of the {split} split fits into a max_length of {max_length} tokens: give a longer "
                f"max_length{alternative}."
            )
        count += too_long
    return encoded, count


def _representative_lengths(splits: Sequence[Texts]) -> Int[np.ndarray, " n"]:
    """The lengths by which padded lengths are chosen: those of the training texts and the longest of all."""
    return np.append(splits[0].lengths, max(int(texts.lengths.max()) for texts in splits))
