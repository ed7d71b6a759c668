"""Denoising attention: multi-head cross-attention over a mixture."""

import math
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...heads import head_width
from ...utils.choices import check_choice
from ...utils.numbers import check_dropout
from ...utils.precision import at_least_float32, without_autocast
from ..kernel.head_projection import (
    by_head,
    lifted,
    lifted_forms,
    lifted_response,
    pack_heads,
    query_response,
    split_heads,
    squared_queries,
)
from ..kernel.natural_parameters import Form, LowRank, natural
from ..kernel.packed import fused_attention, pack_queries
from ..mixture import Mixture

__all__ = ["DenoisingAttention", "ProjectedMixture"]


class ProjectedMixture(NamedTuple):
    r"""A mixture projected for the heads of one :class:`DenoisingAttention`: computed once a text, used at every token.

    Arguments:
        keys: Packed keys of every head, with shape :math:`(*, H, N, W)`.
        values: Packed values of every head, with shape :math:`(*, H, N, W)`.
        curvature: Basis of the squared query's coefficients in the logits, or None.
        response: Basis of the query's coefficients in the answers, or None.
    """

    keys: Float[Tensor, "*batch h n w"]
    values: Float[Tensor, "*batch h n w"]
    curvature: "LiftedBasis | None"
    response: "LiftedBasis | None"


class LiftedBasis(NamedTuple):
    r"""A basis of P dimensions in those of the heads, so that no query has to be lifted into P dimensions.

    Arguments:
        forms: :math:`F` of :mod:`~.head_projection`, with shape :math:`(H, E, R, E)`; None where the basis is all P
            dimensions: nothing to save.
    """

    forms: Float[Tensor, "h e r e"] | None


class DenoisingAttention(nn.Module):
    r"""Multi-head attention over a mixture: each head returns the posterior mean of the vector behind its query.

    .. math::
        q^h = W_q^h x + b_q^h, \qquad u^h = W_k^{hT} q^h, \qquad
        y = W_o \, \big\|_h \left( W_v^h E[v \mid u^h] + b_v^h \right) + b_o

    with the query noise :math:`s = \sqrt E`, E = P / H, in all P dimensions. There is one mixture for all heads, so a
    key's bias is the same in every head. A bias of the key projection would add the same to all logits of a query and
    cancel, so there is none. Point masses with :math:`\log \pi_n = |z_n|^2 / (2 s)` make this ordinary attention.

    A position that may attend to no component gets :math:`b_o`. Dropout acts on attention weights.

    Arguments:
        width: The width :math:`P` of the model and of the mixture's vectors.
        heads: The number of heads :math:`H`.
        bias: Whether queries, values and outputs have a bias.
        dropout: Probability that an attention weight is dropped in training.

    Raises:
        ValueError: If the width is not a multiple of the number of heads.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson and Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> layer = DenoisingAttention(width=16, heads=2)
        >>> mixture = pf.Mixture(torch.zeros(5).log_softmax(-1), torch.randn(5, 16), torch.rand(5, 1))
        >>> x = torch.randn(3, 16)
        >>> memory = layer.project(mixture)  # once for a text
        >>> torch.allclose(layer(x[:1], memory), layer(x, mixture)[:1], atol=1e-6)
        True
    """

    def __init__(self, width: int, heads: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        head_width(width, heads)  # raises unless heads divide the width
        check_dropout(dropout=dropout)
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.dropout}"

    def project(self, mixture: Mixture, form: Form = "exact", local: bool = False) -> ProjectedMixture:
        r"""Keys and values of all heads, for any number of queries.

        Arguments:
            mixture: The mixture. Its ``noise_variance``, unless None, replaces :math:`\sqrt E`.
            form: ``"exact"``, or ``"published"`` for evaluation as in the paper, see :func:`~.attend.attend`.
            local: Whether what is projected of a component depends on no other, as a cache needs; see
                :func:`~.natural_parameters.natural`.
        """
        check_choice("form", form, get_args(Form))
        width, dtype = mixture.width // self.heads, self.key.weight.dtype
        noise_variance = math.sqrt(width) if mixture.noise_variance is None else mixture.noise_variance
        terms = natural(mixture, noise_variance, form, local)
        keys = split_heads(self.key(terms.slope.to(dtype)), self.heads)
        values = self.value(terms.values.to(dtype))
        if self.value.bias is not None:
            values = torch.where(terms.present[..., None], values, 0)
        curvature, response = (None if x is None else x.coefficients for x in (terms.curvature, terms.response))
        return ProjectedMixture(
            *pack_heads(keys, split_heads(values, self.heads), terms.bias, curvature, response),
            self._lifted(terms.curvature, self.key),
            self._lifted(terms.response, self.value),
        )

    def forward(
        self, x: Float[Tensor, "*#batch m p"], memory: Mixture | ProjectedMixture, causal: bool = False
    ) -> Float[Tensor, "*#batch m p"]:
        r"""The outputs of all positions of x.

        Leading dimensions broadcast: a mixture may be shared by several x, or an x by several mixtures.

        Arguments:
            x: The hidden states that queries are projected from, with shape :math:`(*, M, P)`.
            memory: A mixture with means of shape :math:`(*, N, P)`, or the result of :meth:`project` for it.
            causal: Whether position m may attend to component n only if :math:`n \le m + N - M`.
        """
        memory = self.project(memory) if isinstance(memory, Mixture) else memory
        queries = split_heads(self.query(x), self.heads)
        packed = self._pack(queries, memory)
        dropout = self.dropout if self.training else 0.0
        answers = fused_attention(packed, memory.keys, memory.values, causal, dropout=dropout)
        y = answers[..., : queries.shape[-1]]
        if memory.response is not None:
            y = y + self._respond(queries, answers[..., queries.shape[-1] :], memory.response)
        return self.out(y.transpose(-2, -3).flatten(-2))

    @torch.no_grad()
    def attention_weights(
        self, x: Float[Tensor, "*#batch m p"], memory: Mixture | ProjectedMixture
    ) -> Float[Tensor, "*#batch h m n"]:
        """Attention weights of each head, position and component; for plots, as it holds them all in memory."""
        memory = self.project(memory) if isinstance(memory, Mixture) else memory
        packed = self._pack(split_heads(self.query(x), self.heads), memory)
        high = torch.promote_types(packed.dtype, torch.float32)
        logits = packed.to(high) @ memory.keys.to(high).mT
        return torch.where(logits > -1e4, logits.softmax(-1), 0)

    def _pack(self, queries: Tensor, memory: ProjectedMixture) -> Tensor:
        """Packed queries, with their squares in all P dimensions where the variances of components differ."""
        squares = None
        if memory.curvature is not None:
            forms = memory.curvature.forms
            with without_autocast(queries.device):  # sums of squares need float32
                high = at_least_float32(queries)
                own = self._weight(self.key)
                squares = lifted(high, own).square() if forms is None else squared_queries(high, forms)
        return pack_queries(queries, squares, memory.keys.shape[-1])

    def _respond(self, queries: Tensor, tail: Tensor, response: LiftedBasis) -> Tensor:
        """The part of the answers that is proportional to the query, with a factor for each dimension."""
        forms = response.forms
        if forms is not None:
            return query_response(queries, tail[..., : forms.shape[-2]], forms)
        key, value = self._weight(self.key), self._weight(self.value)
        return lifted_response(queries, tail[..., : key.shape[-1]], key, value)

    def _lifted(self, terms: LowRank | None, projection: nn.Linear) -> LiftedBasis | None:
        if terms is None or terms.basis.vectors is None:
            return None if terms is None else LiftedBasis(None)
        return LiftedBasis(lifted_forms(self._weight(self.key), terms.basis.vectors, self._weight(projection)))

    def _weight(self, projection: nn.Linear) -> Tensor:
        return by_head(projection.weight, self.heads)
