"""Metadata of a corpus: the content of its corpus.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, get_args

from .texts import Overlong

__all__ = ["ConditionMetadata", "CorpusMetadata"]

# Keys in files of earlier versions, and their names today.
_OLD_KEYS = {
    "window": "max_length",
    "long": "overlong",
    "asked": "requested_vocabulary",
    "widths": "padded_lengths",
}


@dataclass(frozen=True)
class ConditionMetadata:
    """Metadata of the conditions of a corpus.

    Arguments:
        labels: Names of the labels, or None if conditions are texts.
        padded_lengths: Lengths to which conditions are padded, their end included.
    """

    labels: tuple[str, ...] | None
    padded_lengths: tuple[int, ...]


@dataclass(frozen=True)
class CorpusMetadata:
    """Options with which a corpus was made, and its sizes.

    Arguments:
        name: Name of the source in messages.
        max_length: The largest number of tokens of a text, its end included.
        overlong: Whether longer texts were split or dropped.
        seed: Random seed of the split into train, valid and test.
        requested_vocabulary: The vocabulary size that was requested, or None for one chosen by the size of the text.
        vocabulary: Number of tokens, special ones and labels included.
        texts: Number of texts in each split.
        padded_lengths: Lengths to which texts are padded.
        counts: Number of ``texts`` read, of ``overlong`` ones among them, and of ``blank`` lines.
        conditions: Metadata of the conditions, or None if there are none.
    """

    name: str
    max_length: int
    overlong: Overlong
    seed: int
    requested_vocabulary: int | None
    vocabulary: int
    texts: Mapping[str, int]
    padded_lengths: tuple[int, ...]
    counts: Mapping[str, int]
    conditions: ConditionMetadata | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; without conditions the key is left out."""
        return {key: value for key, value in asdict(self).items() if key != "conditions" or value is not None}

    @classmethod
    def from_json(cls, content: object) -> "CorpusMetadata":
        """Metadata from plain data, also with the keys of earlier versions.

        Raises:
            ValueError: If something is missing.

        Examples:
            >>> sizes = {"name": "", "seed": 0, "vocabulary": 259, "texts": {}, "counts": {"texts": 9, "long": 1}}
            >>> old = sizes | {"window": 64, "long": "split", "asked": None, "widths": [16, 64]}
            >>> metadata = CorpusMetadata.from_json(old)
            >>> metadata.max_length, metadata.overlong, metadata.padded_lengths, metadata.counts["overlong"]
            (64, 'split', (16, 64), 1)
        """
        current = _current_keys(content)
        _check_types(current)
        required = {field.name for field in fields(cls)} - {"conditions"}
        if not (required <= current.keys() and all(isinstance(current[key], Mapping) for key in ("texts", "counts"))):
            raise ValueError("describes no corpus")
        values = {key: current[key] for key in required}
        values |= {"padded_lengths": tuple(current["padded_lengths"]), "counts": _current_keys(current["counts"])}
        if "conditions" in current:
            conditions = _current_keys(current["conditions"])
            if not {"labels", "padded_lengths"} <= conditions.keys():
                raise ValueError("describes no conditions")
            labels = conditions["labels"]
            if not _is_ascending(conditions["padded_lengths"]):
                raise ValueError("has no lengths of conditions")
            values["conditions"] = ConditionMetadata(
                None if labels is None else tuple(labels), tuple(conditions["padded_lengths"])
            )
        return cls(**values)


def _current_keys(content: object) -> dict[str, Any]:
    """A mapping under today's keys; anything else has none."""
    items = content.items() if isinstance(content, Mapping) else ()
    return {_OLD_KEYS.get(str(key), str(key)): value for key, value in items}


def _check_types(content: Mapping[str, Any]) -> None:
    """Raises a ValueError for numbers, names or lengths that are none; a missing key is another matter."""
    numbers = {key: content[key] for key in ("max_length", "seed", "vocabulary") if key in content}
    for key in ("texts", "counts"):
        if isinstance(counts := content.get(key), Mapping):
            numbers |= {f"{key}.{name}": value for name, value in counts.items()}
    if content.get("requested_vocabulary") is not None:
        numbers["requested_vocabulary"] = content["requested_vocabulary"]
    for key, value in numbers.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"has {str(value)[:40]!r} as {key}, which is no whole number")
    for key, options in {"name": None, "overlong": get_args(Overlong)}.items():
        value = content.get(key, "")
        if not isinstance(value, str) or (options is not None and key in content and value not in options):
            raise ValueError(f"has {str(value)[:40]!r} as {key}")
    lengths = content.get("padded_lengths", [1])
    if not _is_ascending(lengths):
        raise ValueError(f"has {str(lengths)[:40]!r} as padded_lengths, which are no ascending numbers")


def _is_ascending(lengths: object) -> bool:
    """Whether these are lengths of batches: positive whole numbers, each greater than the one before."""
    if not isinstance(lengths, list | tuple) or not all(type(length) is int for length in lengths):
        return False
    return bool(lengths) and lengths[0] > 0 and all(first < second for first, second in pairwise(lengths))
