"""Data sets of Hugging Face's ``datasets``, in memory, on the disk or streamed, read some rows at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ....models.utils.errors import one_line
from ...utils.progress import progress_bar
from ..stored_texts import TEXTS, StoredTexts, store_texts
from .columns import ROWS, chosen_columns, column_rows
from .folders import named_splits
from .kept import forget_texts
from .readers import combined_splits
from .rows import Field

__all__ = ["dataset_name", "read_dataset"]


def read_dataset(
    dataset: Any,
    folder: Path,
    field: Field | None = None,
    seed: int = 0,
    *,
    condition: Field | None = None,
    labels: bool | None = None,
    progress: bool | None = None,
) -> tuple[dict[str, StoredTexts], int]:
    """The texts of a data set by split, kept in files in ``folder``, and the number of blank rows.

    Only the columns of the fields are decoded.

    Raises:
        ValueError: If it is no data set, lacks a column or a train split, or a value is no text.
        OSError: If the folder cannot be written.
    """
    splits = named_splits(dataset) if isinstance(dataset, Mapping) else {"": dataset}
    fields = (field,) if condition is None else (condition, field)
    for split, part in splits.items():
        _check_dataset(part, split)
    forget_texts(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for split, part in splits.items():
        source = f"the {split} split" if split else "the data set"
        texts, blank = store_texts(_rows(part, fields, source, progress), folder / f"{split or 'all'}{TEXTS}")
        if not len(texts):
            raise ValueError(f"{source} has no texts ({blank} blank rows): name the column of the texts as the field.")
        contents[split] = texts, blank
    return combined_splits(contents, seed, labels, "the data set")


def dataset_name(dataset: Any) -> str:
    """The name that a data set, or its train split, has of itself; "" if none."""
    part = next(iter(dataset.values()), None) if isinstance(dataset, Mapping) else dataset
    return str(getattr(getattr(part, "info", None), "dataset_name", None) or "")


def _rows(
    dataset: Any, fields: tuple[Field | None, ...], source: str, progress: bool | None
) -> Iterator[tuple[str, ...]]:
    """The rows of one split: a text, or a condition and a text; empty ones if blank."""
    size = len(dataset) if hasattr(dataset, "__len__") else 0  # that of a stream is not known
    try:
        with progress_bar(f"reading {source}", size, "text", progress) as advance:
            present = dataset.column_names or list(next(iter(dataset), {}))  # a stream may not say
            columns = chosen_columns(present, fields, source)
            features = getattr(dataset, "features", None) or {}
            names = {column: getattr(features.get(column), "names", None) for column in columns[:-1]}
            batches = _advancing(dataset.with_format(None).select_columns(columns).iter(ROWS), columns, advance)
            yield from column_rows(batches, columns, names, source)
    except OSError as error:  # of the network, say: not of what is written meanwhile
        raise ValueError(f"cannot read {source}: {one_line(error)}. Load it again.") from error


def _advancing(batches: Any, columns: list[str], advance: Any) -> Iterator[Any]:
    for batch in batches:
        yield batch
        advance(len(batch[columns[0]]))


def _check_dataset(part: Any, split: str) -> None:
    if not all(hasattr(part, name) for name in ("column_names", "select_columns", "with_format", "iter")):
        what = f"{split!r} is" if split else "this is"
        raise ValueError(
            f"{what} a {type(part).__name__}, not a data set of Hugging Face: give its texts to Corpus.from_texts, or "
            "a file to Corpus.from_file."
        )
