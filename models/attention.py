r"""Attention as inference: the posterior mean of what a query saw, on a bare mixture or in the heads of a network."""

import math
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .fused import fused_attention, pack_keys, pack_queries, pack_values, packed_width
from .mixture import Mixture, check_queries, log_sum
from .natural import Basis, Form, LowRank, Natural, natural
from .parts import in_parts
from .self_attention import KeyValueCache, SelfAttention

__all__ = ["DenoisingAttention", "Form", "KeyValueCache", "ProjectedMixture", "Returns", "SelfAttention", "attend"]

Returns = Literal["mean", "variance", "evidence"]


def attend(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    returns: Returns = "mean",
    form: Form = "exact",
    causal: bool = False,
    visible: Bool[Tensor, "*#batch m n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "..."]:
    r"""What noisy queries tell about the vectors that they saw: attention, without weights to learn.

    .. math::
        \text{mean } E[v \mid u], \qquad \text{variance } \text{Var}[v \mid u] \text{ of each dimension}, \qquad
        \text{evidence } \log p(u)

    Same results as :func:`~pyroformer.models.mixture.posterior_mean`, ``posterior_variance`` and ``evidence``, at the
    cost of softmax attention.

    Arguments:
        queries: The queries :math:`u`, with shape :math:`(*, M, D)`.
        mixture: The mixture, with :math:`N` components.
        returns: ``"mean"`` or ``"variance"`` with shape :math:`(*, M, V)`, or ``"evidence"`` with shape :math:`(*, M)`.
        form: ``"exact"``, or ``"published"`` for evaluation as the NVIB paper has it: without the query's squared norm,
            which does not cancel when variances differ, so that it is not the posterior mean then. The evidence has
            only the exact form.
        causal: Whether query m sees component n only if :math:`n \le m + N - M`.
        visible: True where query m may see component n, with shape :math:`(*, M, N)`, in place of ``causal``.
        dropout: Probability that a component is dropped from a mean, the rest being scaled up.

    Raises:
        ValueError: If shapes do not fit, ``returns`` or ``form`` is none of these, the evidence is asked for in the
            published form, or both ``causal`` and ``visible`` are given.

    Examples:
        >>> queries, keys, values = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5, 4)
        >>> mixture = pf.Mixture.from_attention(keys, values)
        >>> softmax = (queries @ keys.T / 8**0.5).softmax(-1) @ values
        >>> torch.allclose(pf.attend(queries, mixture), softmax, atol=1e-5)
        True
        >>> pf.attend(queries, mixture, returns="evidence").shape
        torch.Size([3])
    """
    check_queries(queries, mixture, visible=visible)
    _check_choice("returns", returns, get_args(Returns))
    _check_choice("form", form, ("exact", "published"))
    if (returns, form) == ("evidence", "published"):
        raise ValueError("form 'published' has no evidence: its weights belong to no density; use form 'exact'")
    if causal and visible is not None:
        raise ValueError("causal and visible both say what a query sees; give one of them")
    view = _View(causal, visible, dropout if returns == "mean" else 0.0)
    if returns == "variance":
        return _variance(queries, mixture, form, view)
    terms = natural(mixture, mixture.query_noise, form, view.local)
    if returns == "evidence":
        return _evidence(queries, terms, view)
    return _mean(queries, terms, view)


class _View(NamedTuple):
    """What queries see of the components."""

    causal: bool
    visible: Tensor | None
    dropout: float

    @property
    def local(self) -> bool:
        """Whether not even rounding may tell a query of components that it does not see."""
        return self.causal or self.visible is not None


class ProjectedMixture(NamedTuple):
    r"""A mixture as the heads of one :class:`DenoisingAttention` see it; computed once for a text, used at every token.

    Arguments:
        keys: Packed keys of every head, with shape :math:`(*, H, N, W)`.
        values: Packed values of every head, with shape :math:`(*, H, N, W)`.
        curvature: What the squared query in the logits is made of, or None.
        response: What the query in the answers is made of, or None.
    """

    keys: Float[Tensor, "*batch h n w"]
    values: Float[Tensor, "*batch h n w"]
    curvature: "LiftedBasis | None"
    response: "LiftedBasis | None"


class LiftedBasis(NamedTuple):
    r"""A basis in all P dimensions as the heads see it, so that no query is ever lifted into them.

    .. math:: F_r^h = W_k^h \, \text{diag}(b_r) \, W^{hT}

    where :math:`W` is the key projection again for squared queries, :math:`\sum_p b_{rp} (W_k^{hT} q)_p^2 = q F_r^h q`,
    and the value projection for answers, :math:`W_v^h (b_r \odot W_k^{hT} q) = q F_r^h`.

    Arguments:
        basis: The basis.
        forms: :math:`F`, with shape :math:`(H, E, R, E)`; None where the basis is all P dimensions, which is no saving.
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
    r"""Multi-head attention over a mixture: every head's posterior mean of the vector that its query saw.

    .. math::
        q^h = W_q^h x + b_q^h, \qquad u^h = W_k^{hT} q^h, \qquad
        y = W_o \, \big\|_h \left( W_v^h E[v \mid u^h] + b_v^h \right) + b_o

    with the query noise :math:`s = \sqrt E`, E = P / H, in all P dimensions. There is one mixture for all heads, so a
    key's bias is the same in every head. A bias of the key projection would add the same to all logits of a query and
    cancel, so there is none. Point masses with :math:`\log \pi_n = |z_n|^2 / (2 s)` make this ordinary attention.

    A position that sees no component gets :math:`b_o`. Dropout acts on attention weights.

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
        r"""Keys and values of all heads, for any number of queries.

        Arguments:
            mixture: The mixture. Its noise, if it has one, takes the place of :math:`\sqrt E`.
            form: ``"exact"``, or ``"published"`` for evaluation as the paper has it, see :func:`attend`.
        """
        _check_choice("form", form, ("exact", "published"))
        width, dtype = mixture.width // self.heads, self.key.weight.dtype
        terms = natural(mixture, math.sqrt(width) if mixture.noise is None else mixture.noise, form)
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
        r"""What every position of x gets from the mixture.

        Leading dimensions broadcast: a mixture may be shared by several x, or an x by several mixtures.

        Arguments:
            x: What the queries are made of, with shape :math:`(*, M, P)`.
            memory: A mixture with vectors of shape :math:`(*, N, P)`, or what :meth:`project` made of it.
            causal: Whether position m sees component n only if :math:`n \le m + N - M`.
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
        """How much each head at each position attends to each component; for plots: it holds them all in memory."""
        memory = self.project(memory) if isinstance(memory, Mixture) else memory
        packed = self._pack(self._heads(self.query(x)), memory)
        high = torch.promote_types(packed.dtype, torch.float32)
        logits = packed.to(high) @ memory.keys.to(high).mT
        return torch.where(logits > -1e4, logits.softmax(-1), 0)

    def _pack(self, queries: Tensor, memory: ProjectedMixture) -> Tensor:
        """Packed queries, with their squares in all P dimensions where components have variances of their own."""
        squares = None
        if memory.curvature is not None:
            with torch.autocast(queries.device.type, enabled=False):  # squares add up so much
                high = queries.to(torch.promote_types(queries.dtype, torch.float32))
                if memory.curvature.forms is None:
                    squares = self._lift(high).square()
                else:
                    squares = (memory.curvature.apply(high) * high[..., None, :]).sum(-1)
        return pack_queries(queries, squares, memory.keys.shape[-1])

    def _respond(self, queries: Tensor, tail: Tensor, response: LiftedBasis) -> Tensor:
        """The part of the answers that is a multiple of the query, in each dimension another."""
        if response.rank is not None:
            return (tail[..., : response.rank, None] * response.apply(queries)).sum(-2)
        lifted = self._lift(queries)
        return torch.einsum("...hmp,hep->...hme", tail[..., : lifted.shape[-1]] * lifted, self._weight(self.value))

    def _lift(self, queries: Tensor) -> Tensor:
        """[*, H, M, E] as [*, H, M, P]: what each head's query says of a vector."""
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


def _pack_bare(queries: Tensor, terms: Natural, answer: int) -> tuple[Tensor, Tensor]:
    """Packed queries and keys of a bare mixture, wide enough for ``answer`` columns of values."""
    curvature = terms.curvature
    squares = None if curvature is None else curvature.basis.squares(queries)
    width = packed_width(queries.shape[-1], 0 if curvature is None else curvature.rank, answer, queries.dtype)
    coefficients = None if curvature is None else curvature.coefficients
    keys = pack_keys(terms.slope.to(queries.dtype), terms.bias, coefficients, width)
    return pack_queries(queries, squares, width), keys


def _mean(queries: Tensor, terms: Natural, view: _View) -> Tensor:
    answer = terms.values.shape[-1]
    if terms.response is None:
        return _average(queries, terms, terms.values, view)
    averages = _average(queries, terms, torch.cat([terms.values, terms.response.coefficients], -1), view)
    return averages[..., :answer] + terms.response.basis.combine(averages[..., answer:]) * queries


def _average(queries: Tensor, terms: Natural, values: Tensor, view: _View) -> Tensor:
    """Averages of any values under the responsibilities."""
    packed_queries, packed_keys = _pack_bare(queries, terms, values.shape[-1])
    packed_values = pack_values(values.to(queries.dtype), None, packed_keys.shape[-1])
    answers = fused_attention(packed_queries, packed_keys, packed_values, *view)
    return answers[..., : values.shape[-1]]


def _variance(queries: Tensor, mixture: Mixture, form: Form, view: _View) -> Tensor:
    """Second moment less squared mean, about the centre of the components, where the two cancel least."""
    mixture, queries = (mixture, queries) if view.local else _centred(mixture, queries)
    terms = natural(mixture, mixture.query_noise, form, view.local)
    still = terms.values
    if terms.response is None:
        own = (
            0 if mixture.value_variances is None else torch.where(terms.present[..., None], mixture.value_variances, 0)
        )
        mean, second = _average(queries, terms, torch.cat([still, still.square() + own], -1), view).chunk(2, -1)
    else:
        moving = terms.response.basis.combine(terms.response.coefficients).expand_as(still)
        own = moving * mixture.query_noise
        moments = [still, moving, still.square() + own, 2 * still * moving, moving.square()]
        averages = _average(queries, terms, torch.cat(moments, -1), view).chunk(5, -1)
        mean = averages[0] + averages[1] * queries
        second = averages[2] + averages[3] * queries + averages[4] * queries.square()
    return (second - mean.square()).clamp_min(0)


def _centred(mixture: Mixture, queries: Tensor) -> tuple[Mixture, Tensor]:
    """The mixture and its queries moved so that the mean of what is returned is 0; the variance stays."""
    present = mixture.present[..., None]
    returned = mixture.vectors if mixture.values is None else mixture.values
    centre = torch.where(present, returned, 0).sum(-2, keepdim=True) / present.sum(-2, keepdim=True).clamp_min(1)
    if mixture.values is not None:
        return replace(mixture, values=mixture.values - centre), queries
    return replace(mixture, vectors=mixture.vectors - centre), queries - centre


def _evidence(queries: Tensor, terms: Natural, view: _View) -> Tensor:
    """log p(u) with all the constants that cancel in attention weights."""
    queries, (m, n) = queries.to(terms.bias.dtype), (queries.shape[-2], terms.bias.shape[-1])
    visible = view.visible
    if view.causal:
        visible = torch.ones(m, n, dtype=torch.bool, device=queries.device).tril(n - m)

    def part(rows: slice) -> Tensor:
        logits, own = terms.joint(queries[..., rows, :])
        if visible is not None:
            logits = torch.where(visible[..., rows, :], logits, -torch.inf)
        return log_sum(logits) + own

    batch = torch.broadcast_shapes(queries.shape[:-2], terms.bias.shape[:-1], terms.slope.shape[:-2]).numel()
    return in_parts(part, m, batch * n, queries.device)


def _every_head(terms: LowRank | None) -> Tensor | None:
    return None if terms is None else terms.coefficients[..., None, :, :]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
