"""Attention to a bare mixture: the posterior mean, variance and evidence of noisy queries."""

from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .chunked import map_chunks
from .mixture import Mixture, check_queries, log_sum
from .natural_parameters import Form, Natural, natural
from .packed import fused_attention, pack_keys, pack_queries, pack_values, packed_width

__all__ = ["Returns", "attend"]

Returns = Literal["mean", "variance", "evidence"]


def attend(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    returns: Returns = "mean",
    form: Form = "exact",
    causal: bool = False,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "..."]:
    r"""What noisy queries tell about the vectors that they saw: attention, without weights to learn.

    .. math::
        \text{mean } E[v \mid u], \qquad \text{variance } \text{Var}[v \mid u] \text{ of each dimension}, \qquad
        \text{evidence } \log p(u)

    Same results as :func:`~pyroformer.models.attention.mixture.posterior_mean`, ``posterior_variance`` and ``evidence``, at the
    cost of softmax attention.

    Arguments:
        queries: The queries :math:`u`, with shape :math:`(*, M, D)`.
        mixture: The mixture, with :math:`N` components.
        returns: ``"mean"`` or ``"variance"`` with shape :math:`(*, M, V)`, or ``"evidence"`` with shape :math:`(*, M)`.
        form: ``"exact"``, or ``"published"`` for evaluation as the NVIB paper has it: without the query's squared norm,
            which does not cancel when variances differ, so that it is not the posterior mean then. The evidence has
            only the exact form.
        causal: Whether query m sees component n only if :math:`n \le m + N - M`.
        attn_mask: True where query m may see component n, with shape :math:`(*, M, N)`, in place of ``causal``.
        dropout: Probability that a component is dropped from a mean, the rest being scaled up.

    Raises:
        ValueError: If shapes do not fit, ``returns`` or ``form`` is none of these, the evidence is asked for in the
            published form, or both ``causal`` and ``attn_mask`` are given.

    Examples:
        >>> queries, keys, values = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5, 4)
        >>> mixture = pf.Mixture.from_attention(keys, values)
        >>> softmax = (queries @ keys.T / 8**0.5).softmax(-1) @ values
        >>> torch.allclose(pf.attend(queries, mixture), softmax, atol=1e-5)
        True
        >>> pf.attend(queries, mixture, returns="evidence").shape
        torch.Size([3])
    """
    check_queries(queries, mixture, attn_mask=attn_mask)
    _check_choice("returns", returns, get_args(Returns))
    _check_choice("form", form, ("exact", "published"))
    if (returns, form) == ("evidence", "published"):
        raise ValueError("form 'published' has no evidence: its weights belong to no density; use form 'exact'")
    if causal and attn_mask is not None:
        raise ValueError("causal and visible both say what a query sees; give one of them")
    view = _View(causal, attn_mask, dropout if returns == "mean" else 0.0)
    if returns == "variance":
        return _variance(queries, mixture, form, view)
    terms = natural(mixture, mixture.query_variance, form, view.local)
    if returns == "evidence":
        return _evidence(queries, terms, view)
    return _mean(queries, terms, view)


class _View(NamedTuple):
    """What queries see of the components."""

    causal: bool
    attn_mask: Tensor | None
    dropout: float

    @property
    def local(self) -> bool:
        """Whether not even rounding may tell a query of components that it does not see."""
        return self.causal or self.attn_mask is not None


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
    """Second moment less squared mean, about the center of the components, where the two cancel least."""
    mixture, queries = (mixture, queries) if view.local else _centered(mixture, queries)
    terms = natural(mixture, mixture.query_variance, form, view.local)
    still = terms.values
    if terms.response is None:
        own = (
            0 if mixture.value_variances is None else torch.where(terms.present[..., None], mixture.value_variances, 0)
        )
        mean, second = _average(queries, terms, torch.cat([still, still.square() + own], -1), view).chunk(2, -1)
    else:
        moving = terms.response.basis.combine(terms.response.coefficients).expand_as(still)
        own = moving * mixture.query_variance
        moments = [still, moving, still.square() + own, 2 * still * moving, moving.square()]
        averages = _average(queries, terms, torch.cat(moments, -1), view).chunk(5, -1)
        mean = averages[0] + averages[1] * queries
        second = averages[2] + averages[3] * queries + averages[4] * queries.square()
    return (second - mean.square()).clamp_min(0)


def _centered(mixture: Mixture, queries: Tensor) -> tuple[Mixture, Tensor]:
    """The mixture and its queries moved so that the mean of what is returned is 0; the variance stays."""
    present = mixture.present[..., None]
    returned = mixture.means if mixture.values is None else mixture.values
    center = torch.where(present, returned, 0).sum(-2, keepdim=True) / present.sum(-2, keepdim=True).clamp_min(1)
    if mixture.values is not None:
        return replace(mixture, values=mixture.values - center), queries
    return replace(mixture, means=mixture.means - center), queries - center


def _evidence(queries: Tensor, terms: Natural, view: _View) -> Tensor:
    """log p(u) with all the constants that cancel in attention weights."""
    queries, (m, n) = queries.to(terms.bias.dtype), (queries.shape[-2], terms.bias.shape[-1])
    attn_mask = view.attn_mask
    if view.causal:
        attn_mask = torch.ones(m, n, dtype=torch.bool, device=queries.device).tril(n - m)

    def part(rows: slice) -> Tensor:
        logits, own = terms.joint(queries[..., rows, :])
        if attn_mask is not None:
            logits = torch.where(attn_mask[..., rows, :], logits, -torch.inf)
        return log_sum(logits) + own

    batch = torch.broadcast_shapes(queries.shape[:-2], terms.bias.shape[:-1], terms.slope.shape[:-2]).numel()
    return map_chunks(part, m, batch * n, queries.device)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
