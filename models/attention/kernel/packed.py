r"""Packing of a mixture for an ordinary attention kernel: additional terms of the logits become extra columns.

    queries  [u,         1,    squares     ]
    keys     [slope_n,   b_n,  curvature_n ]      logit_mn  = queries_m . keys_n
    values   [answer_n,  response_n        ]      answer_m  = softmax_n(logit_mn) . values_n

In a column the bias gets its gradient with the keys; as a learned ``attn_mask`` it would need a slower kernel. All
three have one width, a multiple of 8, as the fast kernels require.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["causal_mask", "fused_attention", "pack_keys", "pack_queries", "pack_values", "packed_width", "side_by_side"]

_HALF = (torch.float16, torch.bfloat16)


def packed_width(width: int, rank: int, answer: int, dtype: torch.dtype) -> int:
    """The common width of packed queries, keys and values: the number of columns, rounded up to a multiple of 8.

    Arguments:
        width: The width of a query.
        rank: The number of squares.
        answer: The width of the values, the response included.
        dtype: The dtype of the kernel; half precision takes more columns.

    Examples:
        >>> packed_width(64, 0, 64, torch.float32), packed_width(64, 2, 66, torch.bfloat16)
        (72, 72)
    """
    extra = 2 + 3 * rank if dtype in _HALF else 1 + rank
    return -(-max(width + extra, answer) // 8) * 8


def pack_queries(
    queries: Float[Tensor, "*batch m e"], squares: Float[Tensor, "*batch m r"] | None, width: int
) -> Float[Tensor, "*batch m w"]:
    """Queries, ones for the bias, and squares for the curvature of :func:`pack_keys`."""
    columns = [queries, queries.new_ones(*queries.shape[:-1], 2 if queries.dtype in _HALF else 1)]
    if squares is not None:
        high, *low = _split(squares, queries.dtype)
        columns += [high, *low, high] if low else [high]
    return side_by_side(columns, width)


def pack_keys(
    keys: Float[Tensor, "*batch n e"],
    bias: Float[Tensor, "*#batch n"],
    curvature: Float[Tensor, "*#batch n r"] | None,
    width: int,
) -> Float[Tensor, "*batch n w"]:
    """Keys, their bias and their curvature."""
    # float16 ends at 65504; a logit so far below the largest has no weight in any precision
    bias = bias.clamp_min(-3e4) if keys.dtype == torch.float16 else bias
    columns = [keys, *_split(bias[..., None], keys.dtype)]
    if curvature is not None:
        high, *low = _split(curvature, keys.dtype)
        columns += [high, high, *low] if low else [high]
    return side_by_side(columns, width)


def pack_values(
    values: Float[Tensor, "*batch n v"], response: Float[Tensor, "*#batch n r"] | None, width: int
) -> Float[Tensor, "*batch n w"]:
    """Values, and the coefficients of the query in the answers."""
    return side_by_side([values] if response is None else [values, response.to(values.dtype)], width)


def fused_attention(
    queries: Float[Tensor, "*#batch m w"],
    keys: Float[Tensor, "*#batch n w"],
    values: Float[Tensor, "*#batch n w"],
    causal: bool = False,
    attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "*#batch m w"]:
    r"""Attention on packed queries, keys and values.

    With ``causal`` the last M components belong to the M queries: query m may attend to component n if
    :math:`n \le m + N - M`. With ``attn_mask`` it may attend to those that are marked. It gets zero if there is none.
    """
    m, n = queries.shape[-2], keys.shape[-2]
    if causal and m != n:  # the kernels' own causal mask starts at the first component
        causal = False
        if m > 1:
            attn_mask = causal_mask(m, n, queries.device)
    batch = torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2], values.shape[:-2])
    answer = F.scaled_dot_product_attention(
        _four_dimensions(queries, batch),
        _four_dimensions(keys, batch),
        _four_dimensions(values, batch),
        attn_mask=None if attn_mask is None else _mask_bias(attn_mask, batch, queries.dtype),
        is_causal=causal,
        dropout_p=dropout,
        scale=1.0,
    )
    answer = torch.where(_not_a_number(queries), torch.nan, answer.reshape(*batch, *answer.shape[-2:]))
    return answer if attn_mask is None else torch.where(attn_mask.any(-1, keepdim=True), answer, 0)


def causal_mask(queries: int, components: int, device: torch.device) -> Bool[Tensor, "m n"]:
    r"""True where :math:`n \le m + N - M`: the last M components belong to the M queries."""
    return torch.ones(queries, components, dtype=torch.bool, device=device).tril(components - queries)


def _not_a_number(queries: Tensor) -> Tensor:
    """Queries with NaN or infinite entries, with shape [*batch M 1]; some kernels answer them with zeros."""
    return (0 * queries.detach()).sum(-1, keepdim=True).isnan()  # 0 * inf is NaN


def side_by_side(columns: list[Tensor], width: int | None = None) -> Tensor:
    """Columns with their batch dimensions broadcast, padded with zeros to ``width`` unless that is None."""
    batch = torch.broadcast_shapes(*(column.shape[:-1] for column in columns))
    used = sum(column.shape[-1] for column in columns)
    padding = [] if width is None else [columns[0].new_zeros(width - used)]
    return torch.cat([column.expand(*batch, -1) for column in (*columns, *padding)], -1)


def _mask_bias(attn_mask: Tensor, batch: torch.Size, dtype: torch.dtype) -> Tensor:
    """The bias of masked logits: -inf, or 0 in a row without any unmasked entry, where -inf would give NaN."""
    bias = torch.zeros_like(attn_mask, dtype=dtype).masked_fill(
        ~attn_mask & attn_mask.any(-1, keepdim=True), -torch.inf
    )
    return bias if bias.ndim == 2 else _four_dimensions(bias, batch)


def _split(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """x in ``dtype``; in half precision as two columns that add up to x, its leading and its next bits."""
    high = x.to(dtype)
    return [high, (x - high.to(x.dtype)).to(dtype)] if dtype in _HALF else [high]


def _four_dimensions(x: Tensor, batch: torch.Size) -> Tensor:
    """Rows and columns under one batch and one head dimension, the shape that every kernel takes."""
    x = x.expand(*batch, *x.shape[-2:])
    texts, heads = (batch[:-1], batch[-1]) if len(batch) > 1 else (batch, 1)
    return x.reshape(math.prod(texts), heads, *x.shape[-2:])
