"""Operations on the components of mixtures: expand, concatenate, select, pad.

The edits of :mod:`~.editing`, such as mixing two mixtures or dropping components, are composed of these.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from .mixture import Mixture
from .variances import SharedVariances

__all__ = ["concatenated", "expanded", "padded", "selected"]

Variances = Tensor | SharedVariances | None


def expanded(mixture: Mixture) -> Mixture:
    """The mixture with a mask, and with all leading dimensions expanded; one variance for all components stays one row.

    Raises:
        ValueError: If the mixture has full covariances.

    Examples:
        >>> full = expanded(Mixture(torch.zeros(3), torch.zeros(5, 3, 2), torch.ones(3, 1)))
        >>> full.log_weights.shape, full.variances.shape
        (torch.Size([5, 3]), torch.Size([5, 3, 1]))
    """
    shared = mixture.variances if isinstance(mixture.variances, SharedVariances) else None
    dense = mixture.dense_variances() if shared is None else None  # raises for full covariances
    vectors = [mixture.log_weights, mixture.mask, None if shared is None else shared.group]
    matrices = [mixture.means, mixture.values, mixture.value_variances, dense]
    shapes = [x.shape[:-1] for x in vectors if x is not None] + [x.shape[:-2] for x in matrices if x is not None]
    batch = torch.broadcast_shapes(*shapes)
    variances: Variances = dense
    if shared is not None:
        variances = shared._replace(group=_vectors(shared.group, batch))
    elif dense is not None and dense.shape[-2] == mixture.components:
        variances = _matrices(dense, batch)
    mask = torch.ones_like(mixture.log_weights, dtype=torch.bool) if mixture.mask is None else mixture.mask
    return replace(
        mixture,
        log_weights=_vectors(mixture.log_weights, batch),
        means=_matrices(mixture.means, batch),
        variances=variances,
        mask=_vectors(mask, batch),
        values=None if mixture.values is None else _matrices(mixture.values, batch),
        value_variances=None if mixture.value_variances is None else _matrices(mixture.value_variances, batch),
    )


def concatenated(mixtures: Sequence[Mixture], along: Literal["components", "texts"] = "components") -> Mixture:
    r"""Several mixtures as one, with unchanged log weights.

    Arguments:
        mixtures: Mixtures of one width, with equally many leading dimensions, and values in all or in none. Point
            masses among other components get variance zero. Groups that share a variance stay groups.
        along: ``"components"`` concatenates the components of each text, ``"texts"`` the batches of texts.

    Raises:
        ValueError: If their widths, batch shapes or noise variances differ, or only some have values or value
            variances.

    Examples:
        >>> one, other = Mixture(torch.zeros(2), torch.zeros(2, 4)), Mixture(torch.zeros(3), torch.ones(3, 4))
        >>> concatenated([one, other]).components
        5
    """
    _check_compatible(mixtures)
    full = [expanded(mixture) for mixture in mixtures]
    batches = [tuple(one.means.shape[:-2]) for one in full]
    if along == "components" and len(set(batches)) > 1:
        raise ValueError(f"the mixtures are of batch shapes {batches[0]} and {batches[1]}: give as many of each.")
    row, table = (-1, -2) if along == "components" else (0, 0)
    values = [one.values for one in full if one.values is not None]
    spreads = [_rows(one.value_variances, one.components) for one in full if one.value_variances is not None]
    return replace(
        full[0],
        log_weights=torch.cat([one.log_weights for one in full], row),
        means=torch.cat([one.means for one in full], table),
        variances=_concatenated_variances(full, row, table),
        mask=torch.cat([one.mask for one in full if one.mask is not None], row),
        values=torch.cat(values, table) if values else None,
        value_variances=torch.cat(_same_width(spreads), table) if spreads else None,
    )


def selected(mixture: Mixture, index: Int[Tensor, "*#batch k"]) -> Mixture:
    """The components with these indices, in this order, with unchanged log weights.

    Arguments:
        mixture: The mixture.
        index: Indices of components, one row for each text or the same for all, with shape :math:`(*, K)`.

    Examples:
        >>> mixture = Mixture(torch.zeros(3), torch.tensor([[0.0], [1.0], [2.0]]))
        >>> selected(mixture, torch.tensor([2, 0])).means.tolist()
        [[2.0], [0.0]]
    """
    full = expanded(mixture)
    batch = torch.broadcast_shapes(full.means.shape[:-2], index.shape[:-1])
    index = _vectors(index, batch)

    def row(x: Tensor) -> Tensor:
        return _vectors(x, batch).gather(-1, index)

    def table(x: Tensor) -> Tensor:
        if x.shape[-2] == 1 < full.components:  # one row for all components
            return x
        return _matrices(x, batch).gather(-2, index[..., None].expand(*index.shape, x.shape[-1]))

    variances = full.variances
    if isinstance(variances, SharedVariances):
        variances = variances._replace(group=row(variances.group))
    assert full.mask is not None
    return replace(
        full,
        log_weights=row(full.log_weights),
        means=table(full.means),
        variances=table(variances) if isinstance(variances, Tensor) else variances,
        mask=row(full.mask),
        values=None if full.values is None else table(full.values),
        value_variances=None if full.value_variances is None else table(full.value_variances),
    )


def padded(mixture: Mixture, components: int) -> Mixture:
    """The mixture with masked components at the end, up to a number of them.

    Examples:
        >>> padded(Mixture(torch.zeros(2), torch.zeros(2, 4)), 3).mask.tolist()
        [True, True, False]
    """
    index = torch.arange(components, device=mixture.means.device)
    repeated = selected(mixture, index.clamp(max=mixture.components - 1))
    assert repeated.mask is not None
    return replace(repeated, mask=repeated.mask & (index < mixture.components))


def _vectors(x: Tensor, batch: Sequence[int]) -> Tensor:
    """[#batch N] as [batch N]."""
    return x.expand(*batch, x.shape[-1])


def _matrices(x: Tensor, batch: Sequence[int]) -> Tensor:
    """[#batch N D] as [batch N D]."""
    return x.expand(*batch, *x.shape[-2:])


def _rows(x: Tensor, components: int) -> Tensor:
    """Broadcast a row shared by all components to one row per component."""
    return x.expand(*x.shape[:-2], components, x.shape[-1])


def _same_width(tables: Sequence[Tensor]) -> list[Tensor]:
    widest = max(table.shape[-1] for table in tables)
    return [table.expand(*table.shape[:-1], widest) for table in tables]


def _concatenated_variances(full: Sequence[Mixture], row: int, table: int) -> Variances:
    shared = [one.variances for one in full if isinstance(one.variances, SharedVariances)]
    if len(shared) == len(full):
        return _concatenated_groups(shared, row)
    own = [one.dense_variances() for one in full]
    present = [one for one in own if one is not None]
    if not present:
        return None
    if len(present) == len(full) and _same_for_all(present, row):
        return present[0]
    whole = [one.means.shape[:-1] for one in full]
    rows = [
        mixture.means.new_zeros(*shape, 1) if one is None else one.expand(*shape, one.shape[-1])
        for one, shape, mixture in zip(own, whole, full, strict=True)
    ]
    return torch.cat(_same_width(rows), table)


def _same_for_all(variances: Sequence[Tensor], row: int) -> bool:
    """Whether one variance is shared by all components of all mixtures, which makes attention cheaper."""
    first = variances[0]
    single = first.shape[-2] == 1 and (row == -1 or first.ndim == 2)
    return single and all(_equal(one, first) for one in variances)


def _concatenated_groups(shared: Sequence[SharedVariances], row: int) -> SharedVariances:
    """Groups of all mixtures; those with equal variances become one, as attention costs more with more groups."""
    tables: list[Tensor] = []
    groups = []
    for one in shared:
        equal = [i for i, table in enumerate(tables) if _equal(table, one.table)]
        if not equal:
            tables.append(one.table)
        before = tables[: equal[0] if equal else -1]
        groups.append(one.group + sum(len(table) for table in before))
    return SharedVariances(torch.cat(tables), torch.cat(groups, row))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)


def _check_compatible(mixtures: Sequence[Mixture]) -> None:
    """Raises a ValueError unless the mixtures can be concatenated."""
    first = mixtures[0]
    for other in mixtures[1:]:
        if first.width != other.width:
            raise ValueError(
                f"the mixtures have vectors of {first.width} and {other.width} dimensions: give two of one width."
            )
        for name in ("values", "value_variances"):
            if (getattr(first, name) is None) != (getattr(other, name) is None):
                raise ValueError(f"only one of the mixtures has {name}: give them to both, or to none.")
        if first.noise_variance is not other.noise_variance and first.noise_variance != other.noise_variance:
            raise ValueError(
                f"noise_variance is {first.noise_variance} in one mixture and {other.noise_variance} in another: "
                "give both the same."
            )
