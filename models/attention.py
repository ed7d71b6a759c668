r"""Attention as inference: the posterior mean of what a query saw, for one mixture or for every head of a network."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .fused import Form, fused_attention, natural, pack_keys, pack_queries, pack_values, packed_width
from .mixture import Mixture, responsibilities
from .self_attention import KeyValueCache, SelfAttention

__all__ = ["DenoisingAttention", "Form", "KeyValueCache", "ProjectedMixture", "SelfAttention", "attend"]


def attend(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    returns: Literal["mean", "evidence", "variance"] = "mean",
    form: Form = "exact",
    causal: bool = False,
) -> Float[Tensor, "..."]:
    r"""What queries tell about the vectors that they saw: attention on a bare mixture."""
    if returns != "mean":
        raise NotImplementedError
    terms = natural(mixture, mixture.query_noise, form)
    squares = None
    if terms.curvature is not None:
        squares = queries.square()
        if terms.curvature_basis is not None:
            squares = squares @ terms.curvature_basis.mT
    columns = 0 if squares is None else squares.shape[-1]
    answer = terms.values.shape[-1]
    rank = 0 if terms.response is None else terms.response.shape[-1]
    width = packed_width(mixture.width, columns, answer + rank, queries.dtype)
    packed = fused_attention(
        pack_queries(queries, squares, width),
        pack_keys(terms.slope.to(queries.dtype), terms.bias, terms.curvature, width),
        pack_values(terms.values.to(queries.dtype), terms.response, width),
        causal,
    )
    mean = packed[..., :answer]
    if terms.response is None:
        return mean
    tail = packed[..., answer : answer + rank]
    return mean + queries * (tail if terms.response_basis is None else tail @ terms.response_basis)


class ProjectedMixture(NamedTuple):
    r"""A mixture as the heads of one :class:`DenoisingAttention` see it: computed once for a text, then kept."""

    keys: Float[Tensor, "*batch h n w"]
    values: Float[Tensor, "*batch h n w"]
    curvature: Float[Tensor, "h ..."] | None = None
    response: Float[Tensor, "h ..."] | None = None


class DenoisingAttention(nn.Module):
    r"""Multi-head attention over a mixture."""

    def __init__(self, width: int, heads: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads; choose a width that is")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.dropout}"

    def project(self, mixture: Mixture, form: Form = "exact") -> ProjectedMixture:
        """Keys and values of every head, ready for any number of queries."""
        width = mixture.width // self.heads
        terms = natural(mixture, self._noise(mixture), form)
        keys = self._split(self.key(terms.slope))
        values = self.value(terms.values)
        if mixture.mask is not None:
            values = torch.where(mixture.mask[..., None], values, 0)
        values = self._split(values)
        curvature = self._form(self.key.weight, terms.curvature, terms.curvature_basis)
        response = self._form(self.value.weight, terms.response, terms.response_basis)
        rank = 0 if terms.response is None else terms.response.shape[-1]
        columns = 0 if terms.curvature is None else terms.curvature.shape[-1]
        packed = packed_width(width, columns, width + rank, keys.dtype)
        return ProjectedMixture(
            pack_keys(keys, terms.bias[..., None, :], _per_head(terms.curvature), packed),
            pack_values(values, _per_head(terms.response), packed),
            curvature,
            response,
        )

    def forward(
        self, x: Float[Tensor, "*#batch m p"], memory: Mixture | ProjectedMixture
    ) -> Float[Tensor, "*#batch m p"]:
        """What each position of x gets from the memory."""
        if isinstance(memory, Mixture):
            memory = self.project(memory)
        queries = self._split(self.query(x))
        width = queries.shape[-1]
        squares = None
        lifted = None
        if memory.curvature is not None or memory.response is not None:
            lifted = torch.einsum("...hme,hep->...hmp", queries, self.key.weight.unflatten(0, (self.heads, -1)))
        if memory.curvature is not None:
            if memory.curvature.ndim == 3:
                squares = lifted.square()
            else:
                squares = torch.einsum("...hme,href,...hmf->...hmr", queries, memory.curvature, queries)
        packed = fused_attention(
            pack_queries(queries, squares, memory.keys.shape[-1]),
            memory.keys,
            memory.values,
            dropout=self.dropout if self.training else 0.0,
        )
        answer = packed[..., :width]
        if memory.response is not None:
            if memory.response.ndim == 3:
                p = lifted.shape[-1]
                answer = answer + torch.einsum("...hmp,hep->...hme", packed[..., width : width + p] * lifted, memory.response)
            else:
                r = memory.response.shape[1]
                answer = answer + torch.einsum(
                    "...hmr,href,...hmf->...hme", packed[..., width : width + r], memory.response, queries
                )
        return self.out(answer.transpose(-2, -3).flatten(-2))

    def _noise(self, mixture: Mixture) -> float | Tensor:
        return math.sqrt(mixture.width // self.heads) if mixture.noise is None else mixture.noise

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def _form(self, weight: Tensor, coefficients: Tensor | None, basis: Tensor | None) -> Tensor | None:
        if coefficients is None:
            return None
        weight = weight.unflatten(0, (self.heads, -1))
        if basis is None:
            return weight
        key = self.key.weight.unflatten(0, (self.heads, -1))
        return torch.einsum("hep,rp,hfp->href", weight, basis, key)


def _per_head(coefficients: Tensor | None) -> Tensor | None:
    return None if coefficients is None else coefficients[..., None, :, :]
