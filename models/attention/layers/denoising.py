"""Denoising attention: multi-head cross-attention over a mixture."""

import math
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...heads import head_width
from ...utils.choices import check_choice
from ...utils.precision import at_least_float32
from ..mixture import Mixture
from ..natural_parameters import Basis, Form, LowRank, natural
from ..packed import fused_attention, pack_keys, pack_queries, pack_values, packed_width

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

    .. math:: F_r^h = W_k^h \, \text{diag}(b_r) \, W^{hT}

    where :math:`W` is the key projection again for squared queries, :math:`\sum_p b_{rp} (W_k^{hT} q)_p^2 = q F_r^h q`,
    and the value projection for answers, :math:`W_v^h (b_r \odot W_k^{hT} q) = q F_r^h`.

    Arguments:
        basis: The basis.
        forms: :math:`F`, with shape :math:`(H, E, R, E)`; None where the basis is all P dimensions: nothing to save.
    """

    basis: Basis
    forms: Float[Tensor, "h e r e"] | None

    @property
    def rank(self) -> int | None:
        """The number of vectors; None is all P dimensions."""
        return None if self.basis.vectors is None else len(self.basis.vectors)

    def apply(self, queries: Float[Tensor, "*batch h m e"]) -> Float[Tensor, "*batch h m r e"]:
        """:math:`q F_r` for every r."""
        assert self.forms is not None
        return (queries @ self.forms.flatten(-2).to(queries.dtype)).unflatten(-1, self.forms.shape[-2:])


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
        width, dtype = head_width(mixture.width, self.heads), self.key.weight.dtype
        noise_variance = math.sqrt(width) if mixture.noise_variance is None else mixture.noise_variance
        terms = natural(mixture, noise_variance, form, local)
        keys = self._heads(self.key(terms.slope.to(dtype)))
        values = self.value(terms.values.to(dtype))
        if self.value.bias is not None:
            values = torch.where(terms.present[..., None], values, 0)
        values = self._heads(values)
        rank = 0 if terms.curvature is None else terms.curvature.rank
        answer = width if terms.response is None else width + terms.response.rank
        packed = packed_width(width, rank, answer, keys.dtype)
        return ProjectedMixture(
            pack_keys(keys, terms.bias[..., None, :], _every_head(terms.curvature), packed),
            pack_values(values, _every_head(terms.response), packed),
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
        queries = self._heads(self.query(x))
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
        packed = self._pack(self._heads(self.query(x)), memory)
        high = torch.promote_types(packed.dtype, torch.float32)
        logits = packed.to(high) @ memory.keys.to(high).mT
        return torch.where(logits > -1e4, logits.softmax(-1), 0)

    def _pack(self, queries: Tensor, memory: ProjectedMixture) -> Tensor:
        """Packed queries, with their squares in all P dimensions where the variances of components differ."""
        squares = None
        if memory.curvature is not None:
            with torch.autocast(queries.device.type, enabled=False):  # sums of squares need float32
                high = at_least_float32(queries)
                if memory.curvature.forms is None:
                    squares = self._lift(high).square()
                else:
                    squares = (memory.curvature.apply(high) * high[..., None, :]).sum(-1)
        return pack_queries(queries, squares, memory.keys.shape[-1])

    def _respond(self, queries: Tensor, tail: Tensor, response: LiftedBasis) -> Tensor:
        """The part of the answers that is proportional to the query, with a factor for each dimension."""
        if response.rank is not None:
            return (tail[..., : response.rank, None] * response.apply(queries)).sum(-2)
        lifted = self._lift(queries)
        return torch.einsum("...hmp,hep->...hme", tail[..., : lifted.shape[-1]] * lifted, self._weight(self.value))

    def _lift(self, queries: Tensor) -> Tensor:
        """[*, H, M, E] as [*, H, M, P]: the query of each head in the dimensions of the vectors."""
        return torch.einsum("...hme,hep->...hmp", queries, self._weight(self.key).to(queries.dtype))

    def _lifted(self, terms: LowRank | None, projection: nn.Linear) -> LiftedBasis | None:
        if terms is None or terms.basis.vectors is None:
            return None if terms is None else LiftedBasis(terms.basis, None)
        with torch.autocast(projection.weight.device.type, enabled=False):
            vectors = terms.basis.vectors.to(self.key.weight.dtype)
            forms = torch.einsum("hep,rp,hfp->herf", self._weight(self.key), vectors, self._weight(projection))
        return LiftedBasis(terms.basis, forms)

    def _heads(self, x: Tensor) -> Tensor:
        """[*, rows, P] as [*, H, rows, E]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def _weight(self, projection: nn.Linear) -> Tensor:
        """[P, P] as [H, E, P]."""
        return projection.weight.unflatten(0, (self.heads, -1))


def _every_head(terms: LowRank | None) -> Tensor | None:
    return None if terms is None else terms.coefficients[..., None, :, :]
