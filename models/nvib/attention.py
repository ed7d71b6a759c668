r"""Multi-head attention to the posterior of its own vectors, as one ordinary attention.

For the query u of a head, :math:`u = W_k^{hT} q`, in the dimensions of the vectors, with :math:`V_n = \sigma_n^2 + s`,

.. math::
    \text{logit}_n = \log \alpha_n - \frac12 \sum \frac{(u - \mu_n)^2}{V_n} - \frac12 \sum \log V_n, \qquad
    \text{head} = W_v^h \sum_n a_n \frac{\sigma_n^2 u + s \mu_n}{V_n} + b_v^h

The prior's component is the first; no mask applies to it. Variances enter the logits through columns of the squared
query, and the answers through columns of the values.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..attention.kernel.head_projection import (
    by_head,
    lifted,
    lifted_forms,
    lifted_response,
    pack_heads,
    query_response,
    split_heads,
    squared_queries,
)
from ..attention.kernel.packed import causal_mask, fused_attention, pack_queries
from ..utils.precision import at_least_float32, without_autocast
from .bottleneck import Bottleneck, Components, VectorPosterior

__all__ = ["Packed", "Projections", "attend", "pack"]


class Projections(NamedTuple):
    """The projections of keys and values of all heads.

    A bias of the keys would add the same to all logits of a query, so that there is no place for one.

    Arguments:
        key: With shape :math:`(H E, P)`, as in a linear layer.
        value: With shape :math:`(H E, P)`.
        value_bias: With shape :math:`(H E)`, or None.
        heads: The number of heads :math:`H`.
    """

    key: Float[Tensor, "he p"]
    value: Float[Tensor, "he p"]
    value_bias: Float[Tensor, " he"] | None
    heads: int

    def by_head(self, weight: Float[Tensor, "he p"]) -> Float[Tensor, "h e p"]:
        return by_head(weight, self.heads)


class Packed(NamedTuple):
    """Keys and values of all heads, as a cache keeps them, packed as for an ordinary attention kernel."""

    keys: Float[Tensor, "*batch h n w"]
    values: Float[Tensor, "*batch h n w"]


def pack(bottleneck: Bottleneck, posterior: VectorPosterior, projections: Projections, sampled: bool) -> Packed:
    """Keys and values of the vectors, without the prior's component.

    Arguments:
        bottleneck: The layer's prior and settings.
        posterior: The posterior of the vectors.
        projections: The layer's projections.
        sampled: Whether vectors and weights are drawn; otherwise the components are Gaussians.
    """
    components = bottleneck.draw(posterior) if sampled else bottleneck.components(posterior)
    return _pack(components, projections, bottleneck)


def attend(
    bottleneck: Bottleneck,
    queries: Float[Tensor, "*batch h m e"],
    packed: Packed,
    projections: Projections,
    *,
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    sampled: bool = False,
    weights: bool = False,
) -> tuple[Float[Tensor, "*batch h m e"], Float[Tensor, "*batch h m n"] | None]:
    r"""The answers of all heads, and on request their attention weights.

    Arguments:
        bottleneck: The layer's prior and settings.
        queries: Projected queries :math:`q`, with shape :math:`(*, H, M, E)`.
        packed: Of :func:`pack`, of N vectors.
        projections: The layer's projections.
        mask: True where query m may attend to vector n, or what is added to their logit; it broadcasts to
            :math:`(*, H, M, N)`.
        causal: Whether query m may attend to vector n only if :math:`n \le m + N - M`.
        dropout: Probability that an attention weight is dropped.
        sampled: As in :func:`pack`.
        weights: Whether attention weights are returned; the first of the N + 1 is that of the prior's component.
    """
    own = _prior(bottleneck, packed, projections, sampled)
    keys, values = (torch.cat(pair, -2) for pair in zip(own, packed, strict=True))
    rank = 0 if sampled else (bottleneck.width if bottleneck.diagonal else 1)
    squares = None
    if rank:
        squares = _squares(bottleneck, queries, projections)
        if bottleneck.form == "published":
            squares = torch.zeros_like(squares)
    packed_queries = pack_queries(queries, squares, keys.shape[-1])
    if mask is None and causal and (weights or queries.shape[-2] > packed.keys.shape[-2]):
        mask = causal_mask(queries.shape[-2], packed.keys.shape[-2], queries.device)
    if mask is not None:
        mask = _with_prior(mask.expand(*mask.shape[:-2], queries.shape[-2], -1), queries.dtype)
    shares = None
    if weights:
        shares = _weights(packed_queries, keys, mask)
        answers = F.dropout(shares, dropout).to(values.dtype) @ values
    elif mask is not None and mask.dtype != torch.bool:
        answers = F.scaled_dot_product_attention(packed_queries, keys, values, mask, dropout, scale=1.0)
    else:
        answers = fused_attention(packed_queries, keys, values, causal and mask is None, mask, dropout)
    head = queries.shape[-1]
    result = answers[..., :head]
    if rank:
        result = result + _respond(bottleneck, queries, answers[..., head : head + rank], projections)
    return result, shares


def _pack(components: Components, projections: Projections, bottleneck: Bottleneck) -> Packed:
    vectors = components.vectors.to(projections.key.dtype)
    keys = split_heads(F.linear(vectors, projections.key), projections.heads)
    values = split_heads(F.linear(vectors, projections.value, projections.value_bias), projections.heads)
    response = components.response
    return Packed(*pack_heads(keys / bottleneck.noise_variance, values, components.bias, response, response))


def _prior(bottleneck: Bottleneck, packed: Packed, projections: Projections, sampled: bool) -> Packed:
    """Key and value of the prior's component, for every sequence of the batch."""
    batch = packed.keys.shape[:-3]
    if sampled:
        like = bottleneck.prior_mean.new_zeros(*batch, 1, bottleneck.width)
        own = _pack(bottleneck.draw_prior_component(like), projections, bottleneck)
    else:
        own = _pack(bottleneck.prior_component(), projections, bottleneck)
    keys, values = (each.to(packed.keys.dtype).expand(*batch, *each.shape[-3:]) for each in own)
    return Packed(keys, values)


def _squares(bottleneck: Bottleneck, queries: Tensor, projections: Projections) -> Tensor:
    r""":math:`B u^2 / (2 s)` for every query, in float32 at least."""
    _, basis = bottleneck.basis()
    key = projections.by_head(at_least_float32(projections.key))
    with without_autocast(queries.device):
        high = at_least_float32(queries)
        if basis is not None and _many(queries, basis):
            squares = squared_queries(high, lifted_forms(key, basis, key))
        else:
            squares = lifted(high, key).square()
            squares = squares if basis is None else squares @ basis.to(squares.dtype).mT
        return squares * (0.5 / bottleneck.noise_variance)


def _respond(bottleneck: Bottleneck, queries: Tensor, coefficients: Tensor, projections: Projections) -> Tensor:
    """The part of the answers that is proportional to the query, with a factor for each dimension."""
    shared, basis = bottleneck.basis()
    key, value = projections.by_head(projections.key), projections.by_head(projections.value)
    if shared is None or basis is None:
        return lifted_response(queries, coefficients, key, value)
    if not _many(queries, basis):
        return lifted_response(queries, shared + coefficients @ basis.to(coefficients.dtype), key, value)
    forms = lifted_forms(key, torch.cat([shared[None], basis]), value)
    return query_response(queries, F.pad(coefficients, (1, 0), value=1.0), forms)


def _many(queries: Tensor, basis: Tensor) -> bool:
    """Whether a matrix for each head is cheaper than lifting every query, as it is with many queries."""
    return math.prod(queries.shape[:-3]) * queries.shape[-2] > (len(basis) + 1) * queries.shape[-1]


def _weights(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    with without_autocast(queries.device):
        logits = at_least_float32(queries) @ at_least_float32(keys).mT
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1)


def _with_prior(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask with a column for the prior's component, which every query may attend to."""
    if mask.dtype == torch.bool:
        return F.pad(mask, (1, 0), value=True)
    return F.pad(mask, (1, 0)).to(dtype)
