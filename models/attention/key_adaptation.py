r"""Keys that adapt to the queries, inside a network: differentiable EM on the means of a mixture.

:func:`~pyroformer.inference.em.adapt` is the same for data, with more parameters to move and its objective returned.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.jit._trace import is_tracing

from ..utils.choices import check_choice
from ..utils.numbers import declared_number
from ..utils.precision import at_least_float32, without_autocast
from ..utils.tensor_checks import check_entries
from .centering import common_center, visible_center
from .chunked import map_chunks
from .implicit import implicit_step
from .log_space import normalized
from .mixture import Mixture
from .natural_parameters import Natural, natural
from .observations import check_queries
from .packed import fused_attention, side_by_side

__all__ = [
    "StepGradient",
    "adapt_keys",
    "causal_responsibilities",
    "check_pseudo_counts",
    "check_tolerance",
    "keeps_moving",
    "prior_log_counts",
]

StepGradient = Literal["unrolled", "implicit"]
Distances = Callable[[Tensor | None], Tensor]  # without responsibilities: from the initial keys


def adapt_keys(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    steps: int = 1,
    pseudo_counts: float | Float[Tensor, "*#batch n"] = 1.0,
    mask: Bool[Tensor, "*#batch m"] | None = None,
    tolerance: float | None = None,
    gradient: StepGradient = "unrolled",
) -> Mixture:
    r"""The mixture after EM on its means, in memory :math:`O(M + N)`.

    .. math:: \mu_n \leftarrow \frac{\kappa \mu_n^0 + \sum_m w_{mn} u_m}{\kappa + N_n}

    The update is attention the other way round: components attend to queries, with logits
    :math:`\ell_{mn} - \log p(u_m)`, and the prior is one more query, with logit :math:`\log \kappa`.

    Arguments:
        queries: The queries, with shape :math:`(*, M, D)`.
        mixture: The mixture; its weights and variances stay.
        steps: The number of steps.
        pseudo_counts: :math:`\kappa > 0`, the number of queries that the initial mean is worth: a number, or one for
            each component.
        mask: True for the queries that count.
        tolerance: The means of a batch element stay as they are after a step that moves none of them by more than so
            many standard deviations; None is after ``steps``.
        gradient: ``"unrolled"``: that of all steps, whose intermediate results are kept; ``"implicit"``: that of the
            fixed point to which they lead, see :func:`~.implicit.implicit_step`: memory does not grow with ``steps``.

    Raises:
        ValueError: If shapes do not fit, ``pseudo_counts`` or ``tolerance`` is not positive, or ``gradient`` has no
            such name.

    References:
        Probabilistic Attention for Interactive Segmentation (Gabbur et al., 2021). https://arxiv.org/abs/2106.15338

    Examples:
        >>> queries, mixture = torch.randn(6, 4), pf.Mixture.from_attention(torch.randn(3, 4), torch.randn(3, 2))
        >>> before, after = (
        ...     pf.attend(queries, each, returns="evidence").sum() for each in (mixture, adapt_keys(queries, mixture))
        ... )
        >>> bool(after > before)
        True
    """
    check_queries(queries, mixture, mask=mask)
    log_kappa = prior_log_counts(pseudo_counts, mixture.means)
    check_tolerance(tolerance)
    check_choice("gradient", gradient, get_args(StepGradient))
    if log_kappa.ndim and log_kappa.shape[-1] not in (1, mixture.components):
        raise ValueError(
            f"pseudo_counts has shape {tuple(log_kappa.shape)}; give a number, or one for each of the "
            f"{mixture.components} keys"
        )
    if steps == 0:
        return mixture
    dtype, center = mixture.means.dtype, common_center(mixture.means, mixture.present)
    queries, initial = queries - center, at_least_float32(mixture.means) - center
    queries = queries if mask is None else torch.where(mask[..., None], queries, 0)
    mixture = replace(mixture, means=initial)

    def step(means: Tensor) -> Tensor:
        adapted = replace(mixture, means=means)
        return _m_step(queries, natural(adapted, adapted.query_variance), initial, log_kappa, mask)

    with without_autocast(queries.device):
        if gradient == "unrolled":
            means = _iterated(step, mixture, steps, tolerance)
        else:
            with torch.no_grad():
                means = _iterated(step, mixture, steps - 1, tolerance)
            means = implicit_step(step, means, terms=steps)
    return replace(mixture, means=(means + center).to(dtype))


def _iterated(step: Callable[[Tensor], Tensor], mixture: Mixture, steps: int, tolerance: float | None) -> Tensor:
    """The means after some steps, or of each batch element after the first that moves none of them by much."""
    means, active, precision = mixture.means, None, None if tolerance is None else _precision(mixture)
    for _ in range(steps):
        moved, old = step(means), means
        means = moved if active is None else torch.where(active, moved, old)
        if tolerance is not None and precision is not None:
            active = keeps_moving(means, old, precision, mixture.present, tolerance)
            if not (torch.compiler.is_compiling() or is_tracing() or active.device.type != "cpu" or active.any()):
                break
    return means


def causal_responsibilities(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    steps: int = 1,
    pseudo_counts: float = 1.0,
    mask: Bool[Tensor, "*#batch m"] | None = None,
    attn_mask: Bool[Tensor, "*#batch m n"] | None = None,
) -> Float[Tensor, "*batch m n"]:
    r"""Attention weights of keys that adapt to earlier queries only, so that nothing leaks from later ones.

    .. math::
        \mu_n^{(m)} = \frac{\kappa \mu_n^0 + \sum_{i \le m} w_{in} u_i}{\kappa + \sum_{i \le m} w_{in}}, \qquad
        w_{mn} \propto \pi_n N(u_m; \mu_n^{(m)}, \sigma_n^2 + s) \quad \text{where attn_mask}

    In every step all :math:`\mu_n^{(m)}` are those of the step before. With point masses or isotropic variances only
    :math:`M \times N` matrices are held in memory: the weights need the products of a key with a query and with itself,
    which prefix sums give. With diagonal variances all :math:`M N D` entries of the keys are.

    Arguments:
        queries: The queries, with shape :math:`(*, M, D)`.
        mixture: The mixture.
        steps: The number of steps; 0 is causal attention.
        pseudo_counts: :math:`\kappa > 0`.
        mask: True for the queries that count.
        attn_mask: True where query m may attend to component n; None is where :math:`n \le m + N - M`.

    Raises:
        ValueError: If shapes do not fit, ``pseudo_counts`` is not positive, or the mixture has full covariances.

    Examples:
        >>> queries, mixture = torch.randn(5, 4), pf.Mixture.from_attention(torch.randn(5, 4), torch.randn(5, 2))
        >>> weights = causal_responsibilities(queries, mixture, steps=3)
        >>> queries[4] += 1.0
        >>> torch.equal(causal_responsibilities(queries, mixture, steps=3)[:4], weights[:4])
        True
    """
    check_queries(queries, mixture, mask=mask, attn_mask=attn_mask)
    own = mixture.dense_variances()
    own = own if own is None or own.shape[-2] == 1 else torch.where(mixture.present[..., None], own, 1)
    prior_counts = prior_log_counts(pseudo_counts, at_least_float32(queries)).exp()
    total = at_least_float32(queries.new_zeros(1, 1) if own is None else own) + mixture.query_variance
    log_det = total.log().sum(-1) * (mixture.width / total.shape[-1])
    log_weights = torch.where(mixture.present, mixture.log_weights - 0.5 * log_det, -torch.inf)
    vectors = torch.where(mixture.present[..., None], mixture.means, 0)
    queries = queries if mask is None else torch.where(mask[..., None], queries, 0)
    center = visible_center(queries, vectors, mixture.present, attn_mask)
    queries, vectors = at_least_float32(queries) - center, at_least_float32(vectors) - center
    m, n = queries.shape[-2], mixture.components
    if attn_mask is None:
        attn_mask = torch.ones(m, n, dtype=torch.bool, device=queries.device).tril(n - m)
    distances = _isotropic_distances if total.shape[-1] == 1 else _diagonal_distances
    with without_autocast(queries.device):
        distance = distances(queries, vectors, 1 / total, prior_counts)
        weights = None
        for _ in range(steps + 1):
            counted = weights if weights is None or mask is None else torch.where(mask[..., None], weights, 0)
            weights = normalized(log_weights[..., None, :] - 0.5 * distance(counted), attn_mask).exp()
    assert weights is not None
    return weights


def _isotropic_distances(queries: Tensor, vectors: Tensor, precision: Tensor, prior_counts: Tensor) -> Distances:
    """Squared distances between queries and adapted keys, given the responsibilities of the step before."""
    products, lengths = queries @ vectors.mT, vectors.square().sum(-1)[..., None, :]
    own_lengths = queries.square().sum(-1, keepdim=True)
    gram = (queries @ queries.mT).tril(-1)

    def distance(weights: Tensor | None) -> Tensor:
        dot, square = products, lengths
        if weights is not None:
            before = gram @ weights  # products of each query with the sum of those before it
            squared = (weights * (2 * before + weights * own_lengths)).cumsum(-2)
            along = (weights * products).cumsum(-2)
            strength = prior_counts + weights.cumsum(-2)
            dot = (prior_counts * products + before + weights * own_lengths) / strength
            square = (prior_counts.square() * lengths + 2 * prior_counts * along + squared) / strength.square()
        return precision[..., None, :, 0] * (square - 2 * dot + own_lengths)

    return distance


def _diagonal_distances(queries: Tensor, vectors: Tensor, precision: Tensor, prior_counts: Tensor) -> Distances:
    """The same where every dimension has a precision of its own, from the keys themselves."""
    queries, initial = queries[..., :, None, :], vectors[..., None, :, :]

    def distance(weights: Tensor | None) -> Tensor:
        keys = initial
        if weights is not None:
            shares = weights[..., None]
            total = prior_counts * initial + (shares * queries).cumsum(-3)
            keys = total / (prior_counts + shares.cumsum(-3))
        return (precision[..., None, :, :] * (queries - keys).square()).sum(-1)

    return distance


def _m_step(queries: Tensor, terms: Natural, initial: Tensor, log_kappa: Tensor, mask: Tensor | None) -> Tensor:
    """Components attend to queries and to the prior."""
    queries = queries.to(terms.bias.dtype)
    one = torch.ones_like(queries[..., :1])
    query_columns, component_columns = [queries, one], [terms.slope, terms.bias[..., None]]
    if terms.curvature is not None:
        query_columns.append(terms.curvature.basis.squares(queries))
        component_columns.append(terms.curvature.coefficients)
    log_normalizer = _log_normalizer(side_by_side(query_columns), side_by_side(component_columns))
    counted = log_normalizer.isfinite() if mask is None else log_normalizer.isfinite() & mask
    offset = torch.where(counted, -log_normalizer, -1e30)[..., None]
    log_kappa = log_kappa.to(offset.dtype).expand(terms.bias.shape)[..., None]

    used = sum(column.shape[-1] for column in component_columns)
    width = -(-(used + 2) // 8) * 8
    packed_components = side_by_side([*component_columns, torch.ones_like(log_kappa), log_kappa], width)
    keys = side_by_side([*query_columns, offset], width)
    prior = F.one_hot(torch.tensor(used + 1, device=keys.device), width).to(keys).expand(*keys.shape[:-2], 1, width)
    answers = side_by_side([torch.where(counted[..., None], queries, 0), one], width)
    total = fused_attention(packed_components, torch.cat([keys, prior], -2), F.pad(answers, (0, 0, 0, 1)))
    size = queries.shape[-1]
    return total[..., :size] + (1 - total[..., size : size + 1]) * initial


def _log_normalizer(queries: Tensor, keys: Tensor) -> Tensor:
    """logsumexp of the logits of each query; -inf where every component is masked."""
    batch = math.prod(torch.broadcast_shapes(queries.shape[:-2], keys.shape[:-2]))

    def part(rows: slice) -> Tensor:
        total = (queries[..., rows, :] @ keys.mT).logsumexp(-1)
        return torch.where(total < -1e29, -torch.inf, total)

    return map_chunks(part, queries.shape[-2], batch * keys.shape[-2], queries.device)


def keeps_moving(
    means: Float[Tensor, "*#batch n d"],
    old: Float[Tensor, "*#batch n d"],
    precision: Float[Tensor, "..."],
    present: Bool[Tensor, "*#batch n"],
    tolerance: float,
) -> Bool[Tensor, "*batch 1 1"]:
    """Whether a step has moved some mean of a batch element by more than ``tolerance`` standard deviations."""
    moved = (precision * (means - old).detach().square()).sum(-1)
    return torch.where(present, moved, 0).amax(-1)[..., None, None] > tolerance**2


def _precision(mixture: Mixture) -> Tensor:
    """The precision of a query around each mean, with ones in masked places."""
    own = mixture.dense_variances()
    if own is None:
        return 1 / at_least_float32(mixture.means.new_full((1, 1), 1.0) * mixture.query_variance)
    own = own if own.shape[-2] == 1 else torch.where(mixture.present[..., None], own, 1)
    return 1 / (at_least_float32(own) + mixture.query_variance)


def prior_log_counts(pseudo_counts: float | Tensor, like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Logarithms of the pseudo-counts, which must be positive."""
    check_pseudo_counts(pseudo_counts)
    return torch.as_tensor(pseudo_counts, dtype=like.dtype, device=like.device).log()


def check_tolerance(tolerance: float | None) -> None:
    """Raises unless a tolerance is a positive number, or None.

    Raises:
        ValueError: If it is not.
    """
    if tolerance is None:
        return
    number = declared_number("tolerance", tolerance, float)
    if not 0 < number < math.inf:
        raise ValueError(f"tolerance is {number}; it must be positive and finite, or None for all of the steps")


def check_pseudo_counts(pseudo_counts: float | Float[Tensor, "*batch n"]) -> None:
    """Raises unless pseudo-counts are positive and finite.

    Raises:
        ValueError: If one is not.
    """
    if not isinstance(pseudo_counts, Tensor | int | float) or isinstance(pseudo_counts, bool):
        raise ValueError(f"pseudo_counts is {pseudo_counts!r}; it must be a positive number, or one for each key")
    counts = torch.as_tensor(pseudo_counts)
    rule = "it must be positive and finite, so that a key without a query stays"
    check_entries("pseudo_counts", counts, (counts > 0) & counts.isfinite(), rule)
