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

from ..utils.choices import check_choice
from ..utils.numbers import check_at_least, declared_number
from ..utils.precision import at_least_float32, without_autocast
from ..utils.scalars import tensor_like
from ..utils.tensor_checks import check_entries, is_known
from .centering import common_center
from .chunked import map_chunks
from .implicit import implicit_step
from .kernel.natural_parameters import Natural, natural
from .kernel.packed import fused_attention, side_by_side
from .mixture import Mixture
from .observations import check_queries
from .query_variances import query_variances

__all__ = [
    "StepGradient",
    "adapt_keys",
    "check_pseudo_counts",
    "check_steps",
    "check_tolerance",
    "keeps_moving",
    "prior_log_counts",
]

StepGradient = Literal["unrolled", "implicit"]


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
        ValueError: If shapes do not fit, ``steps`` is negative, ``pseudo_counts`` or ``tolerance`` is not positive, or
            ``gradient`` has no such name.

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
    steps = check_steps(steps)
    log_kappa = prior_log_counts(pseudo_counts, mixture.means)
    check_tolerance(tolerance)
    check_choice("gradient", gradient, get_args(StepGradient))
    if log_kappa.ndim and log_kappa.shape[-1] not in (1, mixture.components):
        raise ValueError(
            f"pseudo_counts has shape {tuple(log_kappa.shape)}: give a number, or one for each of the "
            f"{mixture.components} keys."
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
    """The means after ``steps``; each batch element stops once no mean moves by more than ``tolerance``."""
    means, active, precision = mixture.means, None, None if tolerance is None else 1 / query_variances(mixture)
    for _ in range(steps):
        moved, old = step(means), means
        means = moved if active is None else torch.where(active, moved, old)
        if tolerance is not None and precision is not None:
            active = keeps_moving(means, old, precision, mixture.present, tolerance)
            if is_known(active) and not active.any():
                break
    return means


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


def prior_log_counts(pseudo_counts: float | Tensor, like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Logarithms of the pseudo-counts, which must be positive."""
    check_pseudo_counts(pseudo_counts)
    return tensor_like(pseudo_counts, like).log()


def check_steps(steps: int) -> int:
    """The number of steps as a Python int, or a ValueError if it is not whole, or negative."""
    number: int = declared_number("steps", steps, int)
    check_at_least(0, steps=number)
    return number


def check_tolerance(tolerance: float | None) -> None:
    """Raises a ValueError unless a tolerance is a positive number, or None."""
    if tolerance is None:
        return
    number = declared_number("tolerance", tolerance, float)
    if not 0 < number < math.inf:
        raise ValueError(f"tolerance is {number}: give a positive, finite number, or None for all of the steps.")


def check_pseudo_counts(pseudo_counts: float | Float[Tensor, "*batch n"]) -> None:
    """Raises a ValueError unless pseudo-counts are positive and finite."""
    if not isinstance(pseudo_counts, Tensor | int | float) or isinstance(pseudo_counts, bool):
        raise ValueError(f"pseudo_counts is {pseudo_counts!r}: give a positive number, or one for each key.")
    counts = torch.as_tensor(pseudo_counts)
    rule = "give positive, finite numbers, so that a key without a query stays"
    check_entries("pseudo_counts", counts, (counts > 0) & counts.isfinite(), rule)
