r"""Centers of queries and means, subtracted so that no logit is a difference of large numbers.

.. math:: N(u; \mu_n, V_n) = N(u - c; \mu_n - c, V_n)

The expanded logits of :mod:`~.natural_parameters` hold :math:`|\mu|^2 / 2 V`, which float32 rounds where data lie far
from zero.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..utils.precision import at_least_float32

__all__ = ["common_center", "visible_center"]


def common_center(
    means: Float[Tensor, "*#batch n d"], present: Bool[Tensor, "*#batch n"] | None = None
) -> Float[Tensor, "*batch 1 d"]:
    """The mean of the present means in dimensions where it is larger than their standard deviation; 0 in others.

    So a single mean far from all others does not move them, and what lies around zero stays as it is, to the bit.

    Examples:
        >>> common_center(torch.tensor([[100.0, 1.0], [102.0, -1.0]])).tolist()
        [[101.0, 0.0]]
    """
    means = at_least_float32(means.detach())
    present = means.new_ones(means.shape[-2:-1], dtype=torch.bool) if present is None else present
    present = present[..., None]
    count = present.sum(-2, keepdim=True).clamp_min(1)
    center = torch.where(present, means, 0).sum(-2, keepdim=True) / count
    spread = torch.where(present, means - center, 0).square().sum(-2, keepdim=True) / count
    return torch.where(center.square() > spread, center, 0)


def visible_center(
    queries: Float[Tensor, "*#batch m d"],
    means: Float[Tensor, "*#batch n d"],
    present: Bool[Tensor, "*#batch n"],
    attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
) -> Float[Tensor, "*batch 1 d"]:
    r"""A center for masked attention, which depends on nothing that is masked for some query.

    It is the first mean that all queries see or, where that is nearer to zero, the query that sees least; 0 where
    their signs differ. So neither of them alone, if it is far from all others, moves these.

    Arguments:
        queries: The queries, with shape :math:`(*, M, D)`.
        means: The means, with shape :math:`(*, N, D)`.
        present: True for the components that have any weight, with shape :math:`(*, N)`.
        attn_mask: True where query m may attend to component n; None is where :math:`n \le m + N - M`.
    """
    if not (queries.shape[-2] and means.shape[-2]):
        return at_least_float32(means).new_zeros(1, means.shape[-1])
    common, row = _causal(queries, present) if attn_mask is None else _masked(present, attn_mask)
    batch = torch.broadcast_shapes(queries.shape[:-2], means.shape[:-2], common.shape[:-1], row.shape[:-1])
    first = common.byte().argmax(-1, keepdim=True)
    key = _row(at_least_float32(means.detach()), first, batch)
    query = _row(at_least_float32(queries.detach()), row, batch)
    nearer = torch.where(key.abs() < query.abs(), key, query)
    usable = common.any(-1)[..., None, None] & (key * query > 0) & nearer.isfinite()
    return torch.where(usable, nearer, 0)


def _causal(queries: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The present components, and the index of the first query that sees one: later queries see that component too."""
    m = queries.shape[-2]
    first = present.byte().argmax(-1, keepdim=True)
    return present, (first - (present.shape[-1] - m)).clamp(0, m - 1)


def _masked(present: Tensor, attn_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Components visible to every query that sees any, and the index of the query that sees fewest."""
    visible = attn_mask & present[..., None, :]
    number = visible.sum(-1)
    sees = number > 0
    common = (visible | ~sees[..., None]).all(-2) & present
    row = torch.where(sees, number, present.shape[-1] + 1).argmin(-1, keepdim=True)
    return common, row


def _row(table: Tensor, index: Tensor, batch: torch.Size) -> Tensor:
    """One row of a table for each batch element, with shape [*batch 1 D]."""
    table = table.expand(*batch, *table.shape[-2:])
    return table.gather(-2, index.expand(*batch, 1)[..., None].expand(*batch, 1, table.shape[-1]))
