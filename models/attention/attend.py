"""Attention to a mixture without projections: posterior mean, posterior variance and evidence of noisy queries."""

import math
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..utils.choices import check_choice
from ..utils.numbers import plain_number
from ..utils.precision import at_least_float32
from ..utils.tensor_checks import check_entries, is_readable
from .centering import common_center, visible_center
from .chunked import map_chunks
from .kernel.natural_parameters import Form, Natural, has_curvature, natural
from .kernel.packed import causal_mask, fused_attention, pack_keys, pack_queries, pack_values, packed_width
from .log_space import safe_logsumexp
from .mixture import Mixture, in_dtype
from .observations import check_queries, with_all_rows
from .query_variances import check_variances

__all__ = ["Returns", "attend", "check_restrictions"]

Returns = Literal["mean", "variance", "evidence"]
LOST_NATS = 1e-3  # of a logit, from which on rounding is avoided


def attend(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    returns: Returns = "mean",
    form: Form = "exact",
    causal: bool = False,
    attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "..."]:
    r"""Posterior of the vectors behind noisy queries: attention, without weights to learn.

    .. math::
        \text{mean } E[v \mid u], \qquad \text{variance } \text{Var}[v \mid u] \text{ of each dimension}, \qquad
        \text{evidence } \log p(u)

    Same results as :func:`~pyroformer.models.attention.bayes_rule.posterior_mean`, ``posterior_variance`` and
    ``evidence``, at the cost of softmax attention.

    Arguments:
        queries: The queries :math:`u`, with shape :math:`(*, M, D)`.
        mixture: The mixture, with :math:`N` components.
        returns: ``"mean"`` or ``"variance"`` with shape :math:`(*, M, V)`, or ``"evidence"`` with shape :math:`(*, M)`.
        form: ``"exact"``, or ``"published"`` for evaluation as in the NVIB paper: without the query's squared norm,
            which does not cancel where variances differ, so that the result is not the posterior mean then. The
            evidence has only the exact form.
        causal: Whether query m may attend to component n only if :math:`n \le m + N - M`.
        attn_mask: True where query m may attend to component n, with shape :math:`(*, M, N)`, or :math:`(*, 1, N)` for
            all queries, in place of ``causal``.
        dropout: Probability that a component is dropped from a mean; the others are scaled up.

    Raises:
        ValueError: If types or shapes do not fit, a component that is present is not finite (see :class:`Mixture`) or
            has neither variance nor noise, ``dropout`` is no probability, ``returns`` or ``form`` is not one of the
            choices, ``returns="evidence"`` comes with the published form, or ``causal`` with an ``attn_mask``.

    A query that is NaN or infinite has the answer NaN, one that may attend to no component the mean zero. Torch's fast
    kernels have no second derivatives and no forward mode: ``with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` has
    both.

    Where variances are so small beside distances that float32 rounds the weights, all is computed in float64, on a CPU:
    elsewhere, and with ``causal`` or an ``attn_mask``, give it float64. The variance is a difference of second moments
    around the mean of all components: its error is that of their squares, so use float64, or
    :func:`~pyroformer.models.attention.bayes_rule.posterior_variance`, where it is small.

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
    _check_finite(mixture)
    check_variances(mixture)
    check_choice("returns", returns, get_args(Returns))
    check_choice("form", form, get_args(Form))
    if (returns, form) == ("evidence", "published"):
        raise ValueError("form 'published' has no evidence: its weights belong to no density. Use form 'exact'.")
    check_restrictions(causal, attn_mask, dropout)
    attention = _Attention(causal, attn_mask, dropout if returns == "mean" else 0.0)
    if not attention.local and _loses_digits(queries, mixture):
        exact = attend(
            queries.double(), in_dtype(mixture, torch.double), returns=returns, form=form, dropout=attention.dropout
        )
        return exact.to(queries.dtype)
    center = _center(queries, mixture, form, attention)
    if center is not None:
        queries = (at_least_float32(queries) - center).to(queries.dtype)
        mixture = replace(mixture, means=at_least_float32(mixture.means) - center)
    if returns == "variance":
        return _variance(queries, mixture, form, attention)
    terms = natural(mixture, mixture.query_variance, form, attention.local)
    if returns == "evidence":
        return _evidence(queries, terms, attention)
    if center is not None and mixture.values is None:
        answers = torch.where(terms.present[..., None], terms.values + center, 0)
        terms = terms._replace(values=answers)
    return _mean(queries, terms, attention)


def check_restrictions(causal: bool, attn_mask: Bool[Tensor, "..."] | None, dropout: float) -> None:
    """Raises a ValueError if attention is restricted twice, or ``dropout`` is no probability."""
    if not isinstance(causal, bool):
        raise ValueError(f"causal is {causal!r}: give True or False.")
    number = plain_number(dropout)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
        raise ValueError(f"dropout is {dropout!r}: give a probability from 0 to 1.")
    if causal and attn_mask is not None:
        raise ValueError("causal and attn_mask both restrict attention: give one of them.")


def _loses_digits(queries: Tensor, mixture: Mixture) -> bool:
    """Whether float32 would round logits, as differences of large numbers; False where values cannot be read.

    Some variance is then far smaller than the squares of distances: those of keys from their center, or of queries.
    """
    own = mixture.dense_variances()
    if own is None or queries.dtype == torch.double:
        return False
    if not is_readable(queries, mixture.means, own, mixture.query_variance, mixture.log_weights, mixture.mask):
        return False
    present = mixture.present[..., None]
    center = common_center(mixture.means, mixture.present)
    keys = torch.where(present, mixture.means.detach() - center, 0).square().sum(-1)
    far = (queries.detach() - center).square().sum(-1).nan_to_num(0.0, 0.0)
    total = torch.where(present, own.detach() + mixture.query_variance, torch.inf)
    if not keys.numel() or not far.numel():
        return False
    return bool((keys.max() + far.max()) * torch.finfo(torch.float32).eps > LOST_NATS * total.min())


def _check_finite(mixture: Mixture) -> None:
    """Raises if a present component is not finite, where values can be read: kernels turn NaN into zeros.

    A component of weight zero may have the log weight -inf.
    """
    weights, means, present = mixture.log_weights, mixture.means, mixture.present
    rule = "give finite ones, or leave components out with mask"
    check_entries("log_weights", weights, (weights < math.inf) | ~present, rule)
    check_entries("means", means, means.isfinite() | ~present[..., None], rule)


class _Attention(NamedTuple):
    """The components that queries may attend to, and dropout."""

    causal: bool
    attn_mask: Tensor | None
    dropout: float

    @property
    def local(self) -> bool:
        """Whether masked components may not even affect rounding."""
        return self.causal or self.attn_mask is not None


def _center(queries: Tensor, mixture: Mixture, form: Form, attention: _Attention) -> Tensor | None:
    """The new origin of the coordinates, or None to keep it: the posterior of a query does not depend on it."""
    if form == "published" and has_curvature(mixture):
        return None  # it does here
    if attention.local:
        return visible_center(queries, mixture.means, mixture.present, attention.attn_mask)
    half = queries.dtype in (torch.float16, torch.bfloat16)  # rounds queries that are moved away from zero
    return None if half else common_center(mixture.means, mixture.present)


def _pack(queries: Tensor, terms: Natural, answer: int) -> tuple[Tensor, Tensor]:
    """Packed queries and keys, wide enough for ``answer`` columns of values."""
    curvature = terms.curvature
    squares = None if curvature is None else curvature.basis.squares(queries)
    width = packed_width(queries.shape[-1], 0 if curvature is None else curvature.rank, answer, queries.dtype)
    coefficients = None if curvature is None else curvature.coefficients
    keys = pack_keys(terms.slope.to(queries.dtype), terms.bias, coefficients, width)
    return pack_queries(queries, squares, width), keys


def _mean(queries: Tensor, terms: Natural, attention: _Attention) -> Tensor:
    answer = terms.values.shape[-1]
    if terms.response is None:
        return _average(queries, terms, terms.values, attention)
    columns = terms.values, terms.response.coefficients
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in columns))  # weights and variances may be of all texts
    averages = _average(queries, terms, torch.cat([part.expand(*batch, -1) for part in columns], -1), attention)
    return averages[..., :answer] + terms.response.basis.combine(averages[..., answer:]) * queries


def _average(queries: Tensor, terms: Natural, values: Tensor, attention: _Attention) -> Tensor:
    """Averages of values under the responsibilities."""
    packed_queries, packed_keys = _pack(queries, terms, values.shape[-1])
    packed_values = pack_values(values.to(queries.dtype), None, packed_keys.shape[-1])
    answers = fused_attention(packed_queries, packed_keys, packed_values, *attention)
    return answers[..., : values.shape[-1]]


def _variance(queries: Tensor, mixture: Mixture, form: Form, attention: _Attention) -> Tensor:
    """Second moment minus squared mean, around the center of the components, where they cancel least."""
    mixture, queries = (mixture, queries) if attention.local else _centered(mixture, queries)
    terms = natural(mixture, mixture.query_variance, form, attention.local)
    values = terms.values
    if terms.response is None:
        variances = mixture.value_variances
        own = 0 if variances is None else torch.where(terms.present[..., None], variances, 0)
        mean, second = _average(queries, terms, torch.cat([values, values.square() + own], -1), attention).chunk(2, -1)
    else:
        slopes = terms.response.basis.combine(terms.response.coefficients).expand_as(values)
        own = slopes * mixture.query_variance
        moments = [values, slopes, values.square() + own, 2 * values * slopes, slopes.square()]
        averages = _average(queries, terms, torch.cat(moments, -1), attention).chunk(5, -1)
        mean = averages[0] + averages[1] * queries
        second = averages[2] + averages[3] * queries + averages[4] * queries.square()
    return (second - mean.square()).clamp_min(0)


def _centered(mixture: Mixture, queries: Tensor) -> tuple[Mixture, Tensor]:
    """The mixture and its queries shifted so that the mean of the returned vectors is 0; the variance stays."""
    present = mixture.present[..., None]
    vectors = mixture.means if mixture.values is None else mixture.values
    center = torch.where(present, vectors, 0).sum(-2, keepdim=True) / present.sum(-2, keepdim=True).clamp_min(1)
    if mixture.values is not None:
        return replace(mixture, values=mixture.values - center), queries
    return replace(mixture, means=mixture.means - center), queries - center


def _evidence(queries: Tensor, terms: Natural, attention: _Attention) -> Tensor:
    """log p(u), with the constants that cancel in attention weights."""
    queries, (m, n) = queries.to(terms.bias.dtype), (queries.shape[-2], terms.bias.shape[-1])
    attn_mask = with_all_rows(attention.attn_mask, m)
    if attention.causal:
        attn_mask = causal_mask(m, n, queries.device)

    def part(rows: slice) -> Tensor:
        logits, own = terms.joint(queries[..., rows, :])
        if attn_mask is not None:
            logits = torch.where(attn_mask[..., rows, :], logits, -torch.inf)
        return safe_logsumexp(logits) + own

    batch = torch.broadcast_shapes(queries.shape[:-2], terms.bias.shape[:-1], terms.slope.shape[:-2]).numel()
    return map_chunks(part, m, batch * n, queries.device)
