r"""The mathematics of heads that attend to vectors of P dimensions with queries of E, by the projections of the layer.

With the key and value projections :math:`W_k^h` and :math:`W_v^h` of a head, its query in the dimensions of the vectors
is :math:`u = W_k^{hT} q`. Squares of it enter the logits, and its product with a factor for each dimension the answers.
In a basis :math:`b_r` of few vectors, neither needs :math:`u` itself:

.. math::
    \sum_p b_{rp} u_p^2 = q F_r^h q, \quad F_r^h = W_k^h \, \text{diag}(b_r) \, W_k^{hT}, \qquad
    W_v^h (b_r \odot u) = q F_r^h, \quad F_r^h = W_k^h \, \text{diag}(b_r) \, W_v^{hT}
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ...utils.precision import without_autocast
from .packed import pack_keys, pack_values, packed_width

__all__ = [
    "by_head",
    "lifted",
    "lifted_forms",
    "lifted_response",
    "pack_heads",
    "query_forms",
    "query_response",
    "split_heads",
    "squared_queries",
]


def split_heads(x: Float[Tensor, "*batch n he"], heads: int) -> Float[Tensor, "*batch h n e"]:
    """The vectors of each head."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def by_head(weight: Float[Tensor, "he p"], heads: int) -> Float[Tensor, "h e p"]:
    """The projection of each head."""
    return weight.unflatten(0, (heads, -1))


def pack_heads(
    keys: Float[Tensor, "*batch h n e"],
    values: Float[Tensor, "*batch h n e"],
    bias: Float[Tensor, "*#batch n"],
    curvature: Float[Tensor, "*#batch n c"] | None,
    response: Float[Tensor, "*#batch n r"] | None,
) -> tuple[Float[Tensor, "*batch h n w"], Float[Tensor, "*batch h n w"]]:
    """Packed keys and values of all heads, with the bias and the coefficients that a component has in every head."""
    rank = 0 if curvature is None else curvature.shape[-1]
    answer = values.shape[-1] + (0 if response is None else response.shape[-1])
    width = packed_width(keys.shape[-1], rank, answer, keys.dtype)
    curvature, response = (None if x is None else x[..., None, :, :] for x in (curvature, response))
    return pack_keys(keys, bias[..., None, :], curvature, width), pack_values(values, response, width)


def lifted(queries: Float[Tensor, "*batch h m e"], key: Float[Tensor, "h e p"]) -> Float[Tensor, "*batch h m p"]:
    """The query of each head in the dimensions of the vectors, :math:`u`."""
    return torch.einsum("...hme,hep->...hmp", queries, key.to(queries.dtype))


def lifted_forms(
    key: Float[Tensor, "h e p"], basis: Float[Tensor, "r p"], other: Float[Tensor, "h e p"]
) -> Float[Tensor, "h e r e"]:
    """:math:`F`, for squares where ``other`` is the key projection again, for answers where it is that of values."""
    with without_autocast(key.device):
        return torch.einsum("hep,rp,hfp->herf", key, basis.to(key.dtype), other)


def query_forms(
    queries: Float[Tensor, "*batch h m e"], forms: Float[Tensor, "h e r e"]
) -> Float[Tensor, "*batch h m r e"]:
    """:math:`q F_r` for every r."""
    return (queries @ forms.flatten(-2).to(queries.dtype)).unflatten(-1, forms.shape[-2:])


def squared_queries(
    queries: Float[Tensor, "*batch h m e"], forms: Float[Tensor, "h e r e"]
) -> Float[Tensor, "*batch h m r"]:
    """:math:`q F_r q` for every r, which needs float32.

    Examples:
        >>> queries, key, basis = torch.randn(2, 5, 4), torch.randn(2, 4, 8), torch.randn(3, 8)
        >>> squares = squared_queries(queries, lifted_forms(key, basis, key))
        >>> torch.allclose(squares, lifted(queries, key).square() @ basis.mT, rtol=1e-4, atol=1e-4)
        True
    """
    return (query_forms(queries, forms) * queries[..., None, :]).sum(-1)


def query_response(
    queries: Float[Tensor, "*batch h m e"],
    coefficients: Float[Tensor, "*batch h m r"],
    forms: Float[Tensor, "h e r e"],
) -> Float[Tensor, "*batch h m e"]:
    """The part of the answers that is proportional to the query, where factors are combined from the basis of F."""
    return (coefficients[..., None] * query_forms(queries, forms)).sum(-2)


def lifted_response(
    queries: Float[Tensor, "*batch h m e"],
    factors: Float[Tensor, "*batch h m p"],
    key: Float[Tensor, "h e p"],
    value: Float[Tensor, "h e p"],
) -> Float[Tensor, "*batch h m e"]:
    r"""The same with any factor of each dimension, :math:`W_v (r \odot u)`."""
    scaled = factors.to(queries.dtype) * lifted(queries, key)
    return torch.einsum("...hmp,hep->...hme", scaled, value.to(queries.dtype))
