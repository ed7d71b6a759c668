"""The terms of the bound, and the objective that was trained."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...objectives.description import keep_bound
from ...objectives.elbo import Terms
from ...objectives.registry import remarks
from ..context import BatchContext, EvaluationContext
from ..metric import Metric
from ..report import MetricResult
from .bounds import LENGTH, nats

__all__ = ["INFINITE", "KL", "Rate", "Reconstruction", "TrainedObjective"]

INFINITE = "infinite: vectors are switched off"  # of a divergence, and of the bound
NAMED = ("kl", "penalty", "counts")  # the fields of terms that have a number for each of several names
Column = Float[np.ndarray, "texts ..."]


class Reconstruction(Metric):
    r"""The reconstruction term, :math:`-\mathbb E_q \log p(x \mid z)`; with the divergences it makes up the bound."""

    name, label = "reconstruction", "reconstruction, -E log p(x | z)"

    def measure(self, context: BatchContext) -> Tensor | None:
        return -context.terms.log_likelihood if context.terms.kl else None

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        return MetricResult(self.label, nats(column, context))


class KL(Metric):
    """The divergence of each latent, and minus log p of what is observed beside the text."""

    name, label = "kl", "KL"

    def measure(self, context: BatchContext) -> dict[str, Tensor]:
        return context.terms.kl

    def summarize(self, column: dict[str, Column], context: EvaluationContext) -> dict[str, MetricResult]:
        labels = {site: f"{self.label} of {site}{_why_infinite(kl)}" for site, kl in column.items()}
        labels |= {LENGTH: "length, -log p(n)"}
        return {f"{self.name}_{site}": MetricResult(labels[site], nats(kl, context)) for site, kl in column.items()}


def _why_infinite(kl: Float[np.ndarray, " texts"]) -> str:
    """What the label of a divergence adds where that is infinite, as it is of weights alone."""
    return f", {INFINITE}" if np.isinf(kl).any() else ""


class Rate(Metric):
    """The divergence of all latents together."""

    name, label = "rate", "rate, KL of all latents"

    def measure(self, context: BatchContext) -> Tensor | None:
        kl = [kl.double() for site, kl in context.terms.kl.items() if site != LENGTH]
        return sum(kl[1:], kl[0]) if kl else None

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        return MetricResult(self.label, nats(column, context))


class TrainedObjective(Metric):
    """The objective that was trained, with KL weights at their full value.

    Free bits are those of the mean over all texts, so that the result does not depend on which texts share a batch.
    """

    name, label = "objective", "objective that was trained"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        return _as_columns(context.terms) if context.terms.kl else None

    def summarize(self, column: dict[str, Column], context: EvaluationContext) -> MetricResult:
        terms, objective = _as_terms(column), context.objective
        shares = torch.full_like(terms.log_likelihood, 1 / len(terms.log_likelihood))  # all texts are one batch
        losses = objective.text_losses(terms, objective.kl_weights, shares).numpy()
        is_bound = objective.is_bound and keep_bound(objective.kl_weights)
        differences = ", ".join([objective.name, *remarks(context.run.config["objective"])])
        bound_on = context.evidence if is_bound else None
        return MetricResult(f"{self.label}: {differences}", nats(losses, context), bound_on)


def _as_columns(terms: Terms) -> dict[str, Tensor]:
    """All that terms hold, under names such as ``kl vectors``: an objective of a user's own may read any of it."""
    named = {f"{part} {name}": values for part in NAMED for name, values in getattr(terms, part).items()}
    return {"log_likelihood": terms.log_likelihood, **named}


def _as_terms(column: dict[str, Column]) -> Terms:
    """The terms of all texts, from the columns of :func:`_as_columns`."""
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in NAMED}
    for key, values in column.items():
        part, _, name = key.partition(" ")
        if part in parts:
            parts[part][name] = torch.from_numpy(values)
    return Terms(torch.from_numpy(column["log_likelihood"]), **parts)
