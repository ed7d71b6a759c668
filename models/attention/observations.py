r"""Observations of a mixture: queries, the values that are known of them, and masks."""

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ..utils.tensor_checks import check_leading, check_types
from .mixture import Mixture

__all__ = ["Observations", "check_queries", "with_all_rows"]


@dataclass(frozen=True)
class Observations:
    r"""Queries, and for some of them values, that a mixture explains.

    Arguments:
        queries: The queries :math:`u`, with shape :math:`(*, M, D)`.
        attn_mask: True where query m may attend to component n, with shape :math:`(*, M, N)`; None is everywhere. Of
            this and all that follows, one row may stand for all queries.
        values: Known values, with shape :math:`(*, M, V)`, or None where no value is known.
        value_mask: True where a query's value is known, with shape :math:`(*, M)`; None is everywhere.
        mask: True for the queries that count, with shape :math:`(*, M)`; None is all.
        counts: How many times each query counts, with shape :math:`(*, M)`; None is once.

    Examples:
        >>> observations = Observations(torch.zeros(5, 2), mask=torch.arange(5) < 3)
        >>> observations[1:4].mask.tolist()
        [True, True, False]
    """

    queries: Float[Tensor, "*#batch m d"]
    attn_mask: Bool[Tensor, "*#batch #m n"] | None = None
    values: Float[Tensor, "*#batch #m v"] | None = None
    value_mask: Bool[Tensor, "*#batch #m"] | None = None
    mask: Bool[Tensor, "*#batch #m"] | None = None
    counts: Float[Tensor, "*#batch #m"] | None = None

    def __len__(self) -> int:
        """The number of queries :math:`M`."""
        return self.queries.shape[-2]

    def __getitem__(self, rows: slice) -> "Observations":
        """The observations of some of the queries."""
        return replace(
            self,
            queries=self.queries[..., rows, :],
            attn_mask=None if self.attn_mask is None else self.attn_mask[..., rows, :],
            values=None if self.values is None else self.values[..., rows, :],
            value_mask=None if self.value_mask is None else self.value_mask[..., rows],
            mask=None if self.mask is None else self.mask[..., rows],
            counts=None if self.counts is None else self.counts[..., rows],
        )

    def with_all_rows(self) -> "Observations":
        """Broadcast arguments shared by all queries to one row per query."""
        m = len(self)
        return replace(
            self,
            attn_mask=with_all_rows(self.attn_mask, m),
            values=with_all_rows(self.values, m),
            value_mask=with_all_rows(self.value_mask, m, dim=-1),
            mask=with_all_rows(self.mask, m, dim=-1),
            counts=with_all_rows(self.counts, m, dim=-1),
        )

    def check(self, mixture: Mixture) -> None:
        """Raises a ValueError unless types and shapes fit a mixture, and values are given where some are marked."""
        if self.value_mask is not None and self.values is None:
            raise ValueError("value_mask marks known values, and there are none: give values too, or leave it out.")
        check_queries(
            self.queries,
            mixture,
            attn_mask=self.attn_mask,
            values=self.values,
            value_mask=self.value_mask,
            mask=self.mask,
        )


def check_queries(queries: Float[Tensor, "*batch m d"], mixture: Mixture, **others: Tensor | None) -> None:
    """Raises unless queries, and tensors that belong to them, fit a mixture.

    Arguments:
        queries: The queries.
        mixture: The mixture.
        others: Fields of :class:`Observations`, and ``start``, which has the shape of ``values``.

    Raises:
        ValueError: If a type or a shape does not fit.
    """
    if not isinstance(mixture, Mixture):
        raise ValueError(f"mixture has type {type(mixture).__name__}: give a pf.Mixture.")
    check_types(queries=queries)
    check_types(("attn_mask", "value_mask", "mask"), **others)
    if queries.ndim < 2:
        shape = tuple(queries.shape)
        raise ValueError(f"queries have shape {shape}: give a row for each of M queries, (*, M, {mixture.width}).")
    if queries.shape[-1] != mixture.width:
        raise ValueError(
            f"queries have {queries.shape[-1]} dimensions and the mixture's vectors {mixture.width}: give them as many."
        )
    leading = {"queries": queries.shape[:-2]}
    m, n = queries.shape[-2], mixture.components
    width = None if mixture.values is None else mixture.values.shape[-1]
    expected = {"attn_mask": (m, n), "values": (m, width), "start": (m, width), "value_mask": (m,), "mask": (m,)}
    for name, tensor in others.items():
        sizes = expected[name]
        if tensor is None or None in sizes:
            continue
        leading[name] = tensor.shape[: -len(sizes)]
        ends = tensor.shape[-len(sizes) :]
        if len(ends) < len(sizes) or any(size not in (1, full) for size, full in zip(ends, sizes, strict=True)):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: {m} queries and {n} components need it to end in {sizes}."
            )
    for name, shape in mixture.leading_shapes().items():
        leading[name if name not in leading else f"the mixture's {name}"] = shape
    check_leading(leading)


def with_all_rows(
    tensor: Shaped[Tensor, "..."] | None, queries: int, dim: Literal[-2, -1] = -2
) -> Shaped[Tensor, "..."] | None:
    """Broadcast a row shared by all queries to one row per query.

    Examples:
        >>> with_all_rows(torch.ones(1, 3), queries=5).shape, with_all_rows(torch.ones(1), queries=5, dim=-1).shape
        (torch.Size([5, 3]), torch.Size([5]))
    """
    if tensor is None or tensor.shape[dim] == queries:
        return tensor
    return tensor.expand(*tensor.shape[:dim], queries, *tensor.shape[dim:][1:])
