r"""Mixtures in an ordinary attention kernel: the terms that plain attention lacks ride in extra columns.

    queries  [u,         1,    squares     ]
    keys     [slope_n,   b_n,  curvature_n ]      logit_mn  = queries_m . keys_n
    values   [answer_n,  response_n        ]      answer_m  = softmax_n(logit_mn) . values_n

The bias gets its gradient with the keys', which a learned ``attn_mask`` would not without leaving the fast kernels; and
all three have one width, a multiple of 8, because that is what those kernels take.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["fused_attention", "pack_keys", "pack_queries", "pack_values", "packed_width", "side_by_side"]

_HALF = (torch.float16, torch.bfloat16)


def packed_width(width: int, rank: int, answer: int, dtype: torch.dtype) -> int:
    """The common width of packed queries, keys and values: what they hold, rounded up to a multiple of 8.

    Arguments:
        width: The width of a query.
        rank: The number of squares.
        answer: The width of the values, the response included.
        dtype: What the kernel computes in; half precision takes more columns.

    Examples:
        >>> packed_width(64, 0, 64, torch.float32), packed_width(64, 2, 66, torch.bfloat16)
        (72, 72)
    """
    extra = 2 + 3 * rank if dtype in _HALF else 1 + rank
    return -(-max(width + extra, answer) // 8) * 8


def pack_queries(
    queries: Float[Tensor, "*batch m e"], squares: Float[Tensor, "*batch m r"] | None, width: int
) -> Float[Tensor, "*batch m w"]:
    """Queries, ones that meet the bias, and the squares that meet the curvature of :func:`pack_keys`."""
    columns = [queries, queries.new_ones(*queries.shape[:-1], 2 if queries.dtype in _HALF else 1)]
    if squares is not None:
        high, *low = _parts(squares, queries.dtype)
        columns += [high, *low, high] if low else [high]
    return side_by_side(columns, width)


def pack_keys(
    keys: Float[Tensor, "*batch n e"],
    bias: Float[Tensor, "*#batch n"],
    curvature: Float[Tensor, "*#batch n r"] | None,
    width: int,
) -> Float[Tensor, "*batch n w"]:
    """Keys, their bias and their curvature."""
    # float16 ends at 65504; what lies so far below the largest logit has no weight in any precision
    bias = bias.clamp_min(-3e4) if keys.dtype == torch.float16 else bias
    columns = [keys, *_parts(bias[..., None], keys.dtype)]
    if curvature is not None:
        high, *low = _parts(curvature, keys.dtype)
        columns += [high, high, *low] if low else [high]
    return side_by_side(columns, width)


def pack_values(
    values: Float[Tensor, "*batch n v"], response: Float[Tensor, "*#batch n r"] | None, width: int
) -> Float[Tensor, "*batch n w"]:
    """Values, and the coefficients of the query in what a component returns."""
    return side_by_side([values] if response is None else [values, response.to(values.dtype)], width)


def fused_attention(
    queries: Float[Tensor, "*#batch m w"],
    keys: Float[Tensor, "*#batch n w"],
    values: Float[Tensor, "*#batch n w"],
    causal: bool = False,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "*#batch m w"]:
    r"""Attention on packed queries, keys and values.

    With ``causal`` the last M components belong to the M queries, and what comes before is attn_mask to all: query m sees
    component n if :math:`n \le m + N - M`. With ``attn_mask`` it sees those that are marked, and gets zero if none is.

    Raises:
        ValueError: If attention is causal and there are more queries than components.
    """
    m, n = queries.shape[-2], keys.shape[-2]
    if causal and m > n:
        raise ValueError(f"causal attention of {m} queries over {n} components: every query needs one of its own")
    if causal and 1 < m < n:  # the kernels' own causal mask starts at the first component
        attn_mask, causal = torch.ones(m, n, dtype=torch.bool, device=queries.device).tril(n - m), False
    batch = torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2], values.shape[:-2])
    answer = F.scaled_dot_product_attention(
        _four_dimensions(queries, batch),
        _four_dimensions(keys, batch),
        _four_dimensions(values, batch),
        attn_mask=None if attn_mask is None else _hidden(attn_mask, batch, queries.dtype),
        is_causal=causal and m == n,
        dropout_p=dropout,
        scale=1.0,
    )
    answer = answer.reshape(*batch, *answer.shape[-2:])
    return answer if attn_mask is None else torch.where(attn_mask.any(-1, keepdim=True), answer, 0)


def _hidden(attn_mask: Tensor, batch: torch.Size, dtype: torch.dtype) -> Tensor:
    """What is added to logits: -inf where a query must not look, unless it may look nowhere, which would be NaN."""
    bias = torch.zeros_like(attn_mask, dtype=dtype).masked_fill(
        ~attn_mask & attn_mask.any(-1, keepdim=True), -torch.inf
    )
    return bias if bias.ndim == 2 else _four_dimensions(bias, batch)


def _parts(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """x in ``dtype``, in half precision as its leading and its next bits: two columns that add up to x."""
    high = x.to(dtype)
    return [high, (x - high.to(x.dtype)).to(dtype)] if dtype in _HALF else [high]


def side_by_side(columns: list[Tensor], width: int) -> Tensor:
    """The columns and as many zeros as make up ``width``."""
    batch = torch.broadcast_shapes(*(column.shape[:-1] for column in columns))
    used = sum(column.shape[-1] for column in columns)
    return torch.cat([column.expand(*batch, -1) for column in (*columns, columns[0].new_zeros(width - used))], -1)


def _four_dimensions(x: Tensor, batch: torch.Size) -> Tensor:
    """Rows and columns under one batch and one head dimension, the shape that every kernel knows."""
    x = x.expand(*batch, *x.shape[-2:])
    return x.reshape(-1, *x.shape[-3:]) if len(batch) > 1 else x.reshape(-1, 1, *x.shape[-2:])
