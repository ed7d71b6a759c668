r"""Expectation-maximization: adaptation of a mixture to queries.

The E-step is attention, see :mod:`~pyroformer.models.attention.em.expected_statistics`; the M-steps are in
:mod:`~pyroformer.models.attention.em.m_step`. This module has the loop around them, and the objective that it
increases.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.attention.em.conjugate_priors import ConjugatePriors, checked_priors
from ..models.attention.em.expected_statistics import Covariance, expected_statistics
from ..models.attention.key_adaptation import check_steps
from ..models.attention.mixture import Mixture, in_dtype
from ..models.attention.observations import Observations
from ..models.attention.query_variances import cholesky, query_covariances, query_variances
from ..models.attention.value_map import value_map
from ..models.attention.variances import Covariances
from ..models.utils.choices import check_choice, chosen
from ..models.utils.numbers import check_not_negative
from ..models.utils.precision import at_least_float32
from ..models.utils.scalars import tensor_like
from ..models.utils.tensor_checks import check_leading
from .em_steps import Moves, log_prior, m_step
from .moving_variances import moving_variances, scale_of, with_noise_in_variances

__all__ = ["Adapted", "ConjugatePriors", "Moves", "adapt", "value_map"]

# fractions of the data's variance
FLOOR = 1e-14
FLOOR_OF_EIGENVALUES = 1e-9  # of full covariances, which have to be inverted
SMALL = 1e-6  # variances below it need differences, not squares


class Adapted(NamedTuple):
    r"""A mixture after EM.

    Arguments:
        mixture: The mixture. If variances were adapted, they are those of queries and its noise variance is 0.
        objective: :math:`J` before each step and after the last, in nats up to a constant, with shape
            :math:`(*, T + 1)`; in float32 at least, also for queries in half precision.
        counts: Expected number of queries of each component, with shape :math:`(*, N)`, in that precision.
        converged: Whether the last step raised the objective by less than the tolerance.
    """

    mixture: Mixture
    objective: Float[Tensor, "*batch t"]
    counts: Float[Tensor, "*batch n"]
    converged: bool


@torch.no_grad()
def adapt(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    values: Float[Tensor, "*#batch #m v"] | None = None,
    value_mask: Bool[Tensor, "*#batch #m"] | None = None,
    attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
    mask: Bool[Tensor, "*#batch #m"] | None = None,
    steps: int = 20,
    tolerance: float | None = None,
    moves: Moves | Sequence[Moves] | None = None,
    covariance: Covariance = "isotropic",
    priors: ConjugatePriors | None = None,
    center: Literal["initial", "previous"] = "initial",
    variational: bool = False,
) -> Adapted:
    r"""Maximizes the posterior of a mixture by EM, given queries and, for some of them, values.

    .. math::
        J = \sum_m \log \sum_n \exp \ell_{mn} + \log p(\mu) + \log p(\text{values}) + \log p(\sigma^2) + \log p(\pi)

    :math:`J` never decreases beyond rounding. Where variances move, all is computed in double precision, and no
    variance may be below a tiny fraction of that of the data: a bound that only a component on equal queries reaches,
    and only without a prior on variances (``rate=0``). The weights are fixed unless ``moves`` names them: the prior in
    favor of long keys that softmax attention assumes is a constant here, not a function of the adapted keys.

    Arguments:
        queries: The queries, with shape :math:`(*, M, D)`.
        mixture: The initial mixture, at which the priors are centered.
        values: Observed values, with shape :math:`(*, M, V)`.
        value_mask: True where a value is observed; all are by default. Observed values enter the E-step too.
        attn_mask: True where query m may have come from component n.
        mask: False for queries that are padding.
        steps: Largest number of steps.
        tolerance: Stop when a step raises :math:`J` by at most ``tolerance * (1 + |J|)``, in every batch element; 0 or
            more, or None for all steps.
        moves: The parameters to adapt, of ``means``, ``values``, ``variances``, ``weights``: a name, or several; by
            default the means, and the values if some are observed.
        covariance: Form of the adapted variances: ``isotropic``, ``diagonal`` or ``full``.
        priors: The priors; by default the initial means, values and variances count as one query each.
        center: ``"previous"`` centers the prior at the means of the step before, as the authors' published code does.
            It increases the likelihood and forgets the prior.
        variational: Whether means have a posterior, :math:`N(m_n, (\sigma_n^2 + s) / (\kappa + N_n))`: :math:`J` is
            then the ELBO, and the returned mixture is the predictive one, a little broader.

    Raises:
        ValueError: If shapes do not match, an option is out of range, or two options exclude each other.

    References:
        Probabilistic Transformers (Movellan and Gabbur, 2020). https://arxiv.org/abs/2010.15583

        Probabilistic Attention for Interactive Segmentation (Gabbur et al., 2021). https://arxiv.org/abs/2106.15338

    Examples:
        >>> queries = torch.randn(100, 2) + torch.tensor([3.0, 0.0])
        >>> keys = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> mixture = pf.Mixture(torch.zeros(2).log_softmax(-1), keys, noise_variance=1.0)
        >>> state = adapt(queries, mixture, steps=20)
        >>> bool((state.objective.diff() >= -1e-4).all())
        True
    """
    data = Observations(queries, attn_mask, values, value_mask, mask)
    data.check(mixture)
    _check_finite(data, mixture)
    steps = check_steps(steps)
    if tolerance is not None:
        check_not_negative(tolerance=tolerance)
    priors = checked_priors(priors, mixture)
    check_leading({"queries": queries.shape[:-2], "priors": priors.batch} | mixture.leading_shapes())
    moves = _checked_moves(mixture, values, moves, covariance, priors, center, variational)
    moving = "variances" in moves
    data, start, mean_query = _around_zero(data.with_all_rows(), mixture, priors, double=moving)
    scale = floor = data.queries.new_zeros(())
    if moving:
        scale = scale_of(_mean_square(data), start)
        floor = scale * (FLOOR_OF_EIGENVALUES if covariance == "full" else FLOOR)
        start = with_noise_in_variances(start, covariance, floor)
    state = start
    spread = torch.zeros_like(start.log_weights) if variational else None  # counts of the step before
    trace: list[Tensor] = []
    for step in range(steps + 1):
        near = moving and _needs_differences(state, scale)
        statistics = expected_statistics(
            data, _e_step_mixture(state, priors, spread), covariance if moving else None, about_means=near
        )
        trace.append(statistics.evidence + log_prior(state, start, priors, moves, spread))
        if step == steps or _converged(trace, tolerance):
            break
        anchor = start if center == "initial" else replace(start, means=state.means)
        origin = state.means if near else torch.zeros_like(state.means[..., :1, :])
        state = m_step(statistics, state, anchor, priors, moves, floor, origin)
        spread = None if spread is None else statistics.counts
    if spread is not None:
        state = _predictive(state, priors, spread)
    end, precise = _shifted(state, data.queries, mean_query), torch.promote_types(queries.dtype, torch.float32)
    objective, counts = torch.stack(trace, -1).to(precise), statistics.counts.to(precise)
    return Adapted(in_dtype(end, queries.dtype), objective, counts, _converged(trace, tolerance))


def _around_zero(
    data: Observations, mixture: Mixture, priors: ConjugatePriors, double: bool
) -> tuple[Observations, Mixture, Tensor]:
    """Queries, padding zeroed, and mixture centered at the mean query; the mean.

    They are in float32 at least, in double precision if ``double``; queries have the batch of the priors.
    """
    queries, values, mask = data.queries, data.values, data.mask
    dtype = torch.promote_types(queries.dtype, torch.float32)
    if double and queries.device.type != "mps":  # which has no double precision
        dtype = torch.double
    if dtype != queries.dtype:
        queries, mixture = queries.to(dtype), in_dtype(mixture, dtype)
        values = None if values is None else values.to(dtype)
    queries = queries.expand(*torch.broadcast_shapes(queries.shape[:-2], priors.batch), *queries.shape[-2:])
    mean_query = _mean_query(queries, mask)
    start, queries = _shifted(mixture, queries, -mean_query), queries - mean_query
    if mask is not None:
        queries = torch.where(mask[..., None], queries, 0)
        values = None if values is None else torch.where(mask[..., None], values, 0)
    return replace(data, queries=queries, values=values), start, mean_query


def _converged(trace: list[Tensor], tolerance: float | None) -> bool:
    """Whether the last step has raised the objective by less than the tolerance."""
    if tolerance is None or len(trace) < 2:
        return False
    return bool((trace[-1] - trace[-2] <= tolerance * (1 + trace[-1].abs())).all())


def _e_step_mixture(state: Mixture, priors: ConjugatePriors, spread: Tensor | None) -> Mixture:
    """The mixture of the E-step: in the variational form, the uncertainty of a mean lowers its component's weight."""
    if spread is None:
        return state
    prior_counts = tensor_like(priors.pseudo_counts, spread)
    return replace(state, log_weights=state.log_weights - 0.5 * state.width / (prior_counts + spread))


def _predictive(state: Mixture, priors: ConjugatePriors, spread: Tensor) -> Mixture:
    """The predictive mixture of a new query, with the means integrated out; of absent components under their prior."""
    prior_counts = tensor_like(priors.pseudo_counts, spread)
    own = state.dense_variances()
    own = at_least_float32(state.means.new_zeros(1, 1) if own is None else own)
    of_mean = (own + state.query_variance) / (prior_counts + spread)[..., None]
    return replace(state, variances=own + of_mean)


def _mean_square(data: Observations) -> Tensor:
    """The mean square of the entries of each problem's queries that count, with shape [*batch]."""
    squares = data.queries.square().mean(-1)
    if data.mask is None:
        return squares.mean(-1)
    return torch.where(data.mask, squares, 0).sum(-1) / data.mask.sum(-1).clamp_min(1)


def _needs_differences(state: Mixture, scale: Tensor) -> bool:
    """Whether a variance is so small that it would be lost to rounding in a difference of squares."""
    if isinstance(state.variances, Covariances):
        return True  # they are computed anyway
    small = moving_variances(state) < SMALL * scale[..., None, None]
    return bool((small & state.present[..., None]).any())


def _mean_query(queries: Tensor, mask: Tensor | None) -> Tensor:
    """The mean query: second moments around it lose the fewest digits."""
    if mask is None:
        return queries.mean(-2, keepdim=True)
    total = torch.where(mask[..., None], queries, 0).sum(-2, keepdim=True)
    return total / mask.sum(-1)[..., None, None].clamp_min(1)


def _shifted(mixture: Mixture, queries: Tensor, by: Tensor) -> Mixture:
    """The mixture with its means shifted, and with the batch dimensions of all its parts and of the queries."""
    own = query_covariances(mixture)[..., 0] if isinstance(mixture.variances, Covariances) else query_variances(mixture)
    parts = (queries, mixture.means, own, mixture.values, mixture.value_variances, mixture.present[..., None])
    batch = torch.broadcast_shapes(*(part.shape[:-2] for part in parts if part is not None))
    weights = mixture.log_weights.expand(*batch, mixture.components)
    values = mixture.values
    values = None if values is None else values.expand(*batch, *values.shape[-2:])
    return replace(mixture, log_weights=weights, means=mixture.means + by, values=values)


def _checked_moves(
    mixture: Mixture,
    values: Tensor | None,
    moves: Moves | Sequence[Moves] | None,
    covariance: str,
    priors: ConjugatePriors,
    center: str,
    variational: bool,
) -> Sequence[Moves]:
    """The parameters to adapt, after all options have been checked."""
    both: Sequence[Moves] = ("means",) if values is None else ("means", "values")
    names = both if moves is None else chosen("moves", moves, get_args(Moves))
    check_choice("covariance", covariance, get_args(Covariance))
    check_choice("center", center, ("initial", "previous"))
    if "values" in names and values is None:
        raise ValueError("values cannot be adapted if none is observed: give values, and value_mask if only some are.")
    if isinstance(mixture.variances, Covariances) and "variances" in names and covariance != "full":
        raise ValueError(f"covariance is {covariance!r} but the mixture has full ones: give covariance='full'.")
    if "variances" in names and covariance == "isotropic" and _is_diagonal(mixture):
        raise ValueError(
            "covariance is 'isotropic' but the mixture has diagonal variances: give covariance='diagonal'."
        )
    if not bool(mixture.present.any(-1).all()):
        raise ValueError("the mixture has no component left: leave at least one in each of its masks, with a weight.")
    if not isinstance(mixture.variances, Covariances):
        total = query_variances(mixture)
        if not bool((total > 0).all()):
            raise ValueError(f"a query's variance is {float(total.min()):g}: give a positive one, or noise_variance.")
    else:
        cholesky(query_covariances(mixture))  # raises unless all are positive definite
    if variational and (tuple(names) != ("means",) or not (torch.as_tensor(priors.pseudo_counts) > 0).all()):
        raise ValueError(
            "the variational form adapts means alone, under a prior of more than 0 queries: leave moves out."
        )
    if variational and isinstance(mixture.variances, Covariances):
        raise ValueError("the variational form needs isotropic or diagonal variances.")
    return names


def _is_diagonal(mixture: Mixture) -> bool:
    own = None if isinstance(mixture.variances, Covariances) else mixture.dense_variances()
    return own is not None and own.shape[-1] > 1


def _check_finite(data: Observations, mixture: Mixture) -> None:
    """Raises unless there are queries, and all numbers that count are finite."""
    if not len(data):
        raise ValueError(f"there are no queries: their shape is {tuple(data.queries.shape)}: give at least one.")
    counted = (
        ("queries that count", data.queries, (data.mask,), "leave them out with mask"),
        ("means", mixture.means, (mixture.present,), "leave those components out with their mask"),
        ("values that are known", data.values, (data.mask, data.value_mask), "leave them out with value_mask"),
    )
    for name, numbers, masks, way_out in counted:
        for where in masks:
            numbers = numbers if numbers is None or where is None else torch.where(where[..., None], numbers, 0)
        if numbers is not None and not bool(numbers.isfinite().all()):
            raise ValueError(f"{name} are NaN or infinite: give finite ones, or {way_out}.")
    if not bool((torch.where(mixture.present, mixture.log_weights, 0) < torch.inf).all()):
        raise ValueError("log_weights are NaN or infinite: give finite ones, or -inf for a weight of zero.")


def __dir__() -> list[str]:
    return __all__
