"""The rows that a mixture is fitted to: in memory, or read a batch at a time in every pass."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .arrays import Form, as_counts, as_table, double_rows, form_of

__all__ = ["Rows", "Summary", "summarized"]

SAMPLE = 2**16  # rows that a start is found on


@dataclass(frozen=True)
class Rows:
    """Rows and how many times each counts, read anew in every pass.

    Arguments:
        batches: A function that returns an iterator over pairs of rows, with shape [m d], and counts, with shape [m],
            or None where each row counts once.
        form: The form of the input, which results have too.
    """

    batches: Callable[[], Iterator[tuple[Float[Tensor, "m d"], Float[Tensor, " m"] | None]]]
    form: Form

    @classmethod
    def of_table(cls, x: object, sample_weight: object = None, batch_size: int | None = None) -> "Rows":
        """The rows of a table: all at once, or ``batch_size`` of them at a time, so that a memory map stays on disk.

        Raises:
            ValueError: If it is no table of numbers, or weights do not fit it.
        """
        table = as_table(x)
        if len(table) == 0:
            raise ValueError(f"X has 0 rows (shape={tuple(table.shape)}): give at least one for each component.")
        form = form_of(table)
        counts = None if sample_weight is None else as_counts(sample_weight, len(table), form.device)
        if batch_size is None:
            whole = (double_rows(table, slice(None)), counts)
            return cls(lambda: iter([whole]), form)
        size = batch_size

        def read() -> Iterator[tuple[Tensor, Tensor | None]]:
            for start in range(0, len(table), size):
                rows = slice(start, start + size)
                yield double_rows(table, rows), None if counts is None else counts[rows]

        return cls(read, form)

    @classmethod
    def of_batches(cls, batches: Iterable[object] | Callable[[], Iterable[object]]) -> "Rows":
        """The rows of tables that are read one after the other.

        Arguments:
            batches: A list, a data loader or another iterable that can be read again and again, or a function that
                returns an iterator. Each item is a table.

        Raises:
            ValueError: If it can be read only once, or is empty.
        """
        if not callable(batches) and isinstance(batches, Iterator):
            raise ValueError(
                f"batches is a {type(batches).__name__}, which can be read once, and EM reads it in every step: give a "
                "list, a data loader, or a function that returns a new iterator."
            )
        table = isinstance(batches, np.ndarray | Tensor) or hasattr(batches, "to_numpy")
        if table or not (callable(batches) or isinstance(batches, Iterable)):
            raise ValueError(
                f"batches is a {type(batches).__name__}: give a list of tables, a data loader, or another iterable; "
                "fit takes one table, with batch_size."
            )

        def tables() -> Iterator[np.ndarray | Tensor]:
            each: object = batches() if callable(batches) else batches
            if not isinstance(each, Iterable):
                raise ValueError(f"batches returns a {type(each).__name__}: let it return an iterator over tables.")
            for batch in each:
                alone = isinstance(batch, list | tuple) and len(batch) == 1 and isinstance(batch[0], Tensor)
                yield as_table(batch[0] if alone else batch, "a batch")  # a TensorDataset gives lists of one

        first = next(tables(), None)
        if first is None:
            raise ValueError("batches is empty: give at least one table.")

        def read() -> Iterator[tuple[Tensor, Tensor | None]]:
            for table in tables():
                if table.shape[1] != first.shape[1]:
                    raise ValueError(
                        f"a batch has {table.shape[1]} columns and the first {first.shape[1]}: all need the same."
                    )
                yield double_rows(table, slice(None), "a batch"), None

        return cls(read, form_of(first))


@dataclass(frozen=True)
class Summary:
    r"""Statistics from one pass over the rows.

    Arguments:
        total: How many rows count, :math:`\sum_m c_m`.
        mean: The mean of each column over its known entries.
        variance: The variance of each column likewise.
        missing: Whether an entry is missing.
        sample: Some of the rows that count, evenly spread, for the start.
        counts: How many times each of them counts.
    """

    total: float
    mean: Float[Tensor, " d"]
    variance: Float[Tensor, " d"]
    missing: bool
    sample: Float[Tensor, "m d"]
    counts: Float[Tensor, " m"]


def summarized(rows: Rows) -> Summary:
    """The moments of all rows, added up about the mean of the first batch, and a sample of them.

    Raises:
        ValueError: If all weights are zero, or a column has no known entry.
    """
    origin: Tensor | None = None
    sums: list[Tensor] = []
    missing, total, stride, seen = False, 0.0, 1, 0
    sample: list[tuple[Tensor, Tensor]] = []
    for part, weights in rows.batches():
        counts = part.new_ones(len(part)) if weights is None else weights.to(part.dtype)
        if weights is not None:
            part, counts = part[counts > 0], counts[counts > 0]
        known = ~part.isnan()
        missing = missing or not bool(known.all())
        if origin is None and len(part):
            origin = _mean_of_known(part, known)
        if origin is None:
            continue
        moved = torch.where(known, part - origin, 0)
        new = [counts @ known.to(part.dtype), counts @ moved, counts @ moved.square()]
        sums = new if not sums else [old + more for old, more in zip(sums, new, strict=True)]
        total += float(counts.sum())
        sampled = torch.arange(-seen % stride, len(part), stride, device=part.device)
        seen += len(part)
        sample.append((part[sampled], counts[sampled]))
        while sum(len(rows) for rows, _ in sample) > SAMPLE:
            joined, joined_counts = (torch.cat(items) for items in zip(*sample, strict=True))
            sample, stride = [(joined[::2], joined_counts[::2])], 2 * stride
    if origin is None:
        raise ValueError("all sample weights are zero: at least one row has to count.")
    if not bool((sums[0] > 0).all()):
        column = int((sums[0] == 0).nonzero()[0, 0])
        raise ValueError(f"column {column} of X has no known entry: leave it out.")
    shift = sums[1] / sums[0]
    variance = (sums[2] / sums[0] - shift.square()).clamp_min(0)
    if not bool(variance.isfinite().all()):
        raise ValueError("X has entries so large that their squares are infinite: divide it by its largest entry.")
    joined, joined_counts = (torch.cat(items) for items in zip(*sample, strict=True))
    return Summary(total, origin + shift, variance, missing, joined, joined_counts)


def _mean_of_known(rows: Float[Tensor, "m d"], known: Bool[Tensor, "m d"]) -> Float[Tensor, " d"]:
    return torch.where(known, rows, 0).sum(0) / known.sum(0).clamp_min(1)
