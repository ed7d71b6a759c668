"""Bounds of log p(x), and beside them those given the length where the model has a prior of it."""

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...objectives.elbo import Terms
from ..context import BatchContext, EvaluationContext
from ..estimates import Estimate, perplexity, ratio
from ..metric import Metric
from ..report import MetricResult

__all__ = [
    "LENGTH",
    "BoundGivenLength",
    "ImportanceWeighted",
    "ImportanceWeightedGivenLength",
    "NegativeELBO",
    "bits",
    "nats",
]

LENGTH = "length"  # the site of a text's length; its term, -log p(n), is the same for every draw if it has a prior
Column = Float[np.ndarray, " texts"]


class NegativeELBO(Metric):
    r"""Minus the ELBO at :math:`\beta = 1`; minus log p(x) itself where nothing is latent."""

    name, label = "bound", "-ELBO, beta = 1"

    def measure(self, context: BatchContext) -> Tensor:
        return _cost(context.terms)

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        if context.run.guide is None:
            return _bound("-log-likelihood", column, context, exact=True)
        return _bound(self.label, column, context)


class BoundGivenLength(Metric):
    """Minus the ELBO of log p(x | n), given the length."""

    name, label = "bound_given_length", "  given the length"

    def measure(self, context: BatchContext) -> Tensor | None:
        if context.run.guide is None or not _has_length_prior(context):
            return None
        return _cost(context.terms) - context.terms.kl[LENGTH].double()

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        return _given_length(self.label, column, context)


class ImportanceWeighted(Metric):
    """Minus the importance-weighted ELBO, for several numbers of draws."""

    name, label = "importance_weighted", "-ELBO, importance-weighted"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        bounds = context.importance_weighted
        return None if bounds is None else {str(draws): -bound for draws, bound in bounds.items()}

    def summarize(self, column: dict[str, Column], context: EvaluationContext) -> dict[str, MetricResult]:
        largest = str(context.options.num_particles)
        return {
            self.name if draws == largest else f"{self.name}_{draws}": _bound(
                f"{self.label}, K = {draws}", cost, context
            )
            for draws, cost in column.items()
        }


class ImportanceWeightedGivenLength(Metric):
    """Minus the importance-weighted ELBO of log p(x | n), for the largest number of draws."""

    name, label = "importance_weighted_given_length", "  given the length"

    def measure(self, context: BatchContext) -> Tensor | None:
        bounds = context.importance_weighted
        if bounds is None or not _has_length_prior(context):
            return None
        return -bounds[context.evaluation.options.num_particles] - context.terms.kl[LENGTH].double()

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        return _given_length(self.label, column, context)


def nats(cost: Column, context: EvaluationContext) -> dict[str, Estimate]:
    """A cost in nats, a token and a text."""
    return {"nats/token": ratio(cost, context.tokens), "nats/text": ratio(cost)}


def bits(cost: Column, context: EvaluationContext) -> dict[str, Estimate]:
    """A cost in nats as bits a byte, which do not depend on the tokenizer."""
    return {"bits/byte": ratio(cost / math.log(2), context.bytes)}


def _has_length_prior(context: BatchContext) -> bool:
    return LENGTH in context.terms.kl and getattr(context.run.model, "length_prior", None) is not None


def _cost(terms: Terms) -> Float[Tensor, " B"]:
    cost: Tensor = -terms.log_likelihood.double()
    for kl in terms.kl.values():
        cost = cost + kl.double()
    return cost


def _bound(label: str, cost: Column, context: EvaluationContext, exact: bool = False) -> MetricResult:
    units = nats(cost, context)
    rates = units | bits(cost, context) | {"perplexity": perplexity(units["nats/token"])}
    return MetricResult(label, rates, context.evidence if np.isfinite(cost).all() else None, exact)


def _given_length(label: str, cost: Column, context: EvaluationContext) -> MetricResult:
    bound_on = "log p(x | n)" if np.isfinite(cost).all() else None
    return MetricResult(label, nats(cost, context) | bits(cost, context), bound_on)
