"""Sampling from a table of weights by inversion of its cumulative sum."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["inverted"]

BLOCK = 64  # weights that are added up together first


def inverted(weights: Float[Tensor, "*batch V"], uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    r"""The first index at which the cumulative sum of the weights exceeds a share of their total.

    .. math:: \min \{ v : \textstyle\sum_{w \le v} p_w > u \sum_w p_w \}

    If :math:`u` is uniform, an index is drawn in proportion to its weight; one whose weight is zero never is. The sums
    are in float64, of blocks of weights and then inside one block: of a large vocabulary, a tenth of the time of one
    cumulative sum.

    Arguments:
        weights: Weights, at least one of them positive; their sum is arbitrary.
        uniform: Noise :math:`u` in [0, 1).

    Examples:
        >>> inverted(torch.tensor([0.0, 3.0, 1.0]), torch.tensor(0.7)), inverted(torch.ones(1000), torch.tensor(0.5))
        (tensor(1), tensor(500))
    """
    share, size = uniform.double()[..., None], weights.shape[-1]
    if size <= 4 * BLOCK:
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        return _exceeding(cumulative, share * cumulative[..., -1:]).squeeze(-1)
    whole = size // BLOCK * BLOCK
    sums = [weights[..., :whole].unflatten(-1, (-1, BLOCK)).sum(-1, dtype=torch.float64)]
    if whole < size:
        sums.append(weights[..., whole:].sum(-1, keepdim=True, dtype=torch.float64))
    blocks = torch.cat(sums, -1)
    cumulative = blocks.cumsum(-1)
    level = share * cumulative[..., -1:]
    block = _exceeding(cumulative, level)
    index = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, index.clamp(max=size - 1)).masked_fill(index >= size, 0).cumsum(-1, dtype=torch.float64)
    rest = (level - (cumulative.gather(-1, block) - blocks.gather(-1, block))).clamp(min=0)
    return (block * BLOCK + _exceeding(inside, rest)).squeeze(-1)


def _exceeding(cumulative: Float[Tensor, "*batch n"], level: Float[Tensor, "*batch 1"]) -> Int[Tensor, "*batch 1"]:
    """The first index with a larger cumulative sum, also where rounding has lifted the level to the last of them."""
    below = torch.nextafter(cumulative[..., -1:], cumulative.new_zeros(()))
    return torch.searchsorted(cumulative, torch.minimum(level, below), right=True)
