"""The components of mixtures as rows: written out, put end to end, taken out by number, with weights that sum to one.

Everything else that is done to a mixture, such as mixing two or thinning one, is made of these.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .mixture import Mixture, SharedVariances, log_sum

__all__ = ["expanded", "joined", "normalized", "padded", "selected"]

Variances = Tensor | SharedVariances | None


def expanded(mixture: Mixture) -> Mixture:
    """The mixture with all leading dimensions, a mask and, unless one row is for all components, variances written out.

    Raises:
        ValueError: If the mixture has full covariances.

    Examples:
        >>> full = expanded(Mixture(torch.zeros(3), torch.zeros(5, 3, 2), torch.ones(3, 1)))
        >>> full.log_weights.shape, full.variances.shape
        (torch.Size([5, 3]), torch.Size([5, 3, 1]))
    """
    mixture.dense_variances()  # refuses full covariances
    variances: Any = mixture.variances
    grouped = isinstance(variances, SharedVariances)
    lists = [mixture.log_weights, mixture.mask, variances.group if grouped else None]
    tables = [mixture.means, mixture.values, mixture.value_variances, None if grouped else variances]
    shapes = [x.shape[:-1] for x in lists if x is not None] + [x.shape[:-2] for x in tables if x is not None]
    batch = torch.broadcast_shapes(*shapes)
    if grouped:
        variances = variances._replace(group=_list(variances.group, batch))
    elif variances is not None and variances.shape[-2] == mixture.components:
        variances = _table(variances, batch)
    return replace(
        mixture,
        log_weights=_list(mixture.log_weights, batch),
        means=_table(mixture.means, batch),
        variances=variances,
        mask=_list(
            torch.ones_like(mixture.log_weights, dtype=torch.bool) if mixture.mask is None else mixture.mask, batch
        ),
        values=None if mixture.values is None else _table(mixture.values, batch),
        value_variances=None if mixture.value_variances is None else _table(mixture.value_variances, batch),
    )


def joined(mixtures: Sequence[Mixture], along: Literal["components", "texts"] = "components") -> Mixture:
    r"""Mixtures end to end, as one; their log weights stay what they are.

    Arguments:
        mixtures: Mixtures of one width, with as many leading dimensions, and values in all or in none. Point masses
            among others have variance zero. Groups that share a variance stay groups.
        along: Whether the first text's components are followed by the second's, or the first text by the second text.

    Raises:
        ValueError: If their widths, batch shapes or noises differ, or only some have values or variances of values.

    Examples:
        >>> joined([Mixture(torch.zeros(2), torch.zeros(2, 4)), Mixture(torch.zeros(3), torch.ones(3, 4))]).components
        5
    """
    _check_alike(mixtures)
    full = [expanded(mixture) for mixture in mixtures]
    batches = [tuple(one.means.shape[:-2]) for one in full]
    if along == "components" and len(set(batches)) > 1:
        raise ValueError(f"the mixtures are of batch shapes {batches[0]} and {batches[1]}: give as many of each")
    row, table = (-1, -2) if along == "components" else (0, 0)
    values = [one.values for one in full if one.values is not None]
    spreads = [_rows(one.value_variances, one.components) for one in full if one.value_variances is not None]
    return replace(
        full[0],
        log_weights=torch.cat([one.log_weights for one in full], row),
        means=torch.cat([one.means for one in full], table),
        variances=_joined_variances(full, row, table),
        mask=torch.cat([one.mask for one in full if one.mask is not None], row),
        values=torch.cat(values, table) if values else None,
        value_variances=torch.cat(_as_wide(spreads), table) if spreads else None,
    )


def selected(mixture: Mixture, index: Int[Tensor, "*#batch k"]) -> Mixture:
    """The components of these numbers, in this order; their log weights stay what they are.

    Arguments:
        mixture: The mixture.
        index: Which components, in each text others or in all the same, with shape :math:`(*, K)`.

    Examples:
        >>> mixture = Mixture(torch.zeros(3), torch.tensor([[0.0], [1.0], [2.0]]))
        >>> selected(mixture, torch.tensor([2, 0])).means.tolist()
        [[2.0], [0.0]]
    """
    full = expanded(mixture)
    batch = torch.broadcast_shapes(full.means.shape[:-2], index.shape[:-1])
    index = _list(index, batch)

    def row(x: Tensor) -> Tensor:
        return _list(x, batch).gather(-1, index)

    def table(x: Tensor) -> Tensor:
        if x.shape[-2] == 1 < full.components:  # one row for all components
            return x
        return _table(x, batch).gather(-2, index[..., None].expand(*index.shape, x.shape[-1]))

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
    """The mixture with absent components behind the others, up to a number of them.

    Examples:
        >>> padded(Mixture(torch.zeros(2), torch.zeros(2, 4)), 3).mask.tolist()
        [True, True, False]
    """
    index = torch.arange(components, device=mixture.means.device)
    found = selected(mixture, index.clamp(max=mixture.components - 1))
    assert found.mask is not None
    return replace(found, mask=found.mask & (index < mixture.components))


def normalized(
    log_weights: Float[Tensor, "*#batch n"], present: Bool[Tensor, "*#batch n"]
) -> Float[Tensor, "*#batch n"]:
    r"""Log weights that sum to one over the components that are present, and :math:`-\infty` elsewhere.

    Examples:
        >>> normalized(torch.zeros(3), torch.tensor([True, True, False])).exp().tolist()
        [0.5, 0.5, 0.0]
    """
    log_weights = torch.where(present, log_weights, -torch.inf)
    total = log_sum(log_weights)[..., None]
    return log_weights - torch.where(total.isfinite(), total, 0)


def _list(x: Tensor, batch: Sequence[int]) -> Tensor:
    """[#batch N] as [batch N]."""
    return x.expand(*batch, x.shape[-1])


def _table(x: Tensor, batch: Sequence[int]) -> Tensor:
    """[#batch N D] as [batch N D]."""
    return x.expand(*batch, *x.shape[-2:])


def _rows(x: Tensor, components: int) -> Tensor:
    """A row for each component where there is one for all."""
    return x.expand(*x.shape[:-2], components, x.shape[-1])


def _as_wide(tables: Sequence[Tensor]) -> list[Tensor]:
    widest = max(table.shape[-1] for table in tables)
    return [table.expand(*table.shape[:-1], widest) for table in tables]


def _joined_variances(full: Sequence[Mixture], row: int, table: int) -> Variances:
    shared = [one.variances for one in full if isinstance(one.variances, SharedVariances)]
    if len(shared) == len(full):
        return _joined_groups(shared, row)
    own = [one.dense_variances() for one in full]
    given = [one for one in own if one is not None]
    if not given:
        return None
    if len(given) == len(full) and _one_for_all(given, row):
        return given[0]
    whole = [one.means.shape[:-1] for one in full]
    rows = [
        mixture.means.new_zeros(*shape, 1) if one is None else one.expand(*shape, one.shape[-1])
        for one, shape, mixture in zip(own, whole, full, strict=True)
    ]
    return torch.cat(_as_wide(rows), table)


def _one_for_all(variances: Sequence[Tensor], row: int) -> bool:
    """Whether all components of all mixtures have the same variance, which attention takes at less cost."""
    first = variances[0]
    single = first.shape[-2] == 1 and (row == -1 or first.ndim == 2)
    return single and all(_equal(one, first) for one in variances)


def _joined_groups(shared: Sequence[SharedVariances], row: int) -> SharedVariances:
    """Groups whose variances are the same are one group, so that attention does not cost more than it has to."""
    tables: list[Tensor] = []
    groups = []
    for one in shared:
        known = [number for number, table in enumerate(tables) if _equal(table, one.table)]
        if not known:
            tables.append(one.table)
        before = tables[: known[0] if known else -1]
        groups.append(one.group + sum(len(table) for table in before))
    return SharedVariances(torch.cat(tables), torch.cat(groups, row))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)


def _check_alike(mixtures: Sequence[Mixture]) -> None:
    """Raises a ValueError unless the mixtures can be one."""
    first = mixtures[0]
    for other in mixtures[1:]:
        if first.width != other.width:
            raise ValueError(
                f"the mixtures have vectors of {first.width} and {other.width} dimensions: give two of one width"
            )
        for name in ("values", "value_variances"):
            if (getattr(first, name) is None) != (getattr(other, name) is None):
                raise ValueError(f"only one of the mixtures has {name}: give them to both, or to none")
        if first.noise_variance is not other.noise_variance and first.noise_variance != other.noise_variance:
            raise ValueError(
                f"queries have noise {first.noise_variance} in one mixture and {other.noise_variance} in another: give one"
            )
