"""One M-step of EM with conjugate priors, and the log density of these priors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..models.attention.em.conjugate_priors import ConjugatePriors, rate_of_variances
from ..models.attention.em.expected_statistics import Statistics
from ..models.attention.em.m_step import update_log_weights, update_means, update_variances
from ..models.attention.mixture import Mixture
from ..models.attention.query_variances import cholesky, query_covariances, query_variances
from ..models.attention.variances import Covariances
from ..models.utils.scalars import tensor_like
from .moving_variances import moving_variances

__all__ = ["Moves", "log_prior", "log_prior_of_variances", "m_step"]

Moves = Literal["means", "values", "variances", "weights"]


def m_step(
    statistics: Statistics,
    state: Mixture,
    start: Mixture,
    priors: ConjugatePriors,
    moves: Sequence[Moves],
    floor: Tensor,
    origin: Tensor,
) -> Mixture:
    """The mixture with each parameter in ``moves`` updated; moments in the statistics are those about ``origin``."""
    anchor, means = start.means - origin, state.means - origin
    new: dict[str, Any] = {}
    if "means" in moves:
        means = update_means(statistics.queries, statistics.counts, anchor, means, priors.pseudo_counts)
        new["means"] = means + origin
    if "variances" in moves:
        current, initial = moving_variances(state), moving_variances(start)
        variances = update_variances(statistics, means, anchor, priors, floor, current, initial)
        full = isinstance(state.variances, Covariances)
        new["variances"] = Covariances(variances) if full else variances
    if "values" in moves:
        assert statistics.values is not None and statistics.value_counts is not None
        assert start.values is not None and state.values is not None
        known = (statistics.values, statistics.value_counts)
        new["values"] = update_means(*known, start.values, state.values, priors.value_pseudo_counts)
    if "weights" in moves:
        new["log_weights"] = update_log_weights(
            statistics.counts, priors.concentration, state.log_weights, state.present
        )
    return replace(state, **new)  # which checks the mixture: once a step


def log_prior(
    state: Mixture, start: Mixture, priors: ConjugatePriors, moves: Sequence[Moves], spread: Tensor | None
) -> Tensor:
    """Log prior density of the adapted parameters up to a constant; in the variational form, with their entropy."""
    parts = [state.means.new_zeros(state.log_weights.shape)]
    if spread is not None:
        prior_counts = tensor_like(priors.pseudo_counts, spread)
        share = prior_counts / (prior_counts + spread)
        parts.append(-0.5 * state.width * (share - 1 - share.log()))
    if "means" in moves or "variances" in moves:
        parts.append(_log_prior_of_means(state, start, priors))
    if "variances" in moves:
        parts.append(log_prior_of_variances(state, start, priors))
    if "values" in moves:
        assert state.values is not None and start.values is not None and state.value_variances is not None
        distance = ((state.values - start.values).square() / state.value_variances).sum(-1)
        parts.append(-0.5 * tensor_like(priors.value_pseudo_counts, distance) * distance)
    if "weights" in moves and priors.concentration != 1:
        parts.append((priors.concentration - 1) * state.log_weights)
    total = torch.stack(torch.broadcast_tensors(*parts)).sum(0)
    present = torch.broadcast_to(start.present, total.shape)
    return torch.where(present, total, 0).sum(-1)


def _log_prior_of_means(state: Mixture, start: Mixture, priors: ConjugatePriors) -> Tensor:
    """log N(mu_n; mu_n^0, (sigma_n^2 + s) / kappa) without its constants; zero where kappa is zero."""
    moved = state.means - start.means
    prior_counts = tensor_like(priors.pseudo_counts, moved)
    initially = replace(state, log_weights=start.log_weights)  # a component that lost its weight has a prior still
    if isinstance(state.variances, Covariances):
        factor = cholesky(query_covariances(initially))
        whitened = torch.linalg.solve_triangular(factor, moved[..., None], upper=False)[..., 0]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * ((prior_counts > 0) * log_det + prior_counts * whitened.square().sum(-1))
    total = query_variances(initially)
    log_det = total.log().sum(-1) * (state.width / total.shape[-1])
    return -0.5 * ((prior_counts > 0) * log_det + prior_counts * (moved.square() / total).sum(-1))


def log_prior_of_variances(state: Mixture, start: Mixture, priors: ConjugatePriors) -> Tensor:
    """Log density of the variances of queries under the inverse-gamma or inverse-Wishart prior, without constants."""
    full, total = isinstance(state.variances, Covariances), moving_variances(state)
    rate = rate_of_variances(priors, state.means, moving_variances(start), full)
    if full:
        trace = torch.linalg.solve(total, rate.expand(total.shape)).diagonal(dim1=-2, dim2=-1).sum(-1)
        return -(priors.shape - 1) * torch.logdet(total) - trace
    return (-(priors.shape - 1) * total.log() - rate / total).sum(-1)
