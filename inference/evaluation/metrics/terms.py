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

__all__ = ["KL", "Rate", "Reconstruction", "TrainedObjective"]

TEXT = "text"  # the site of the likelihood
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
        labels = {site: f"{self.label} of {site}" for site in column} | {LENGTH: "length, -log p(n)"}
        return {f"{self.name}_{site}": MetricResult(labels[site], nats(kl, context)) for site, kl in column.items()}


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
        terms = context.terms
        return {TEXT: -terms.log_likelihood, **terms.penalty} if terms.kl else None

    def summarize(self, column: dict[str, Column], context: EvaluationContext) -> MetricResult:
        cost, *penalties = (torch.from_numpy(values) for values in column.values())
        terms = Terms(-cost, {}, dict(zip(list(column)[1:], penalties, strict=True)))
        objective = context.objective
        losses = objective.text_losses(terms, objective.kl_weights, torch.ones_like(cost)).numpy()
        is_bound = objective.is_bound and keep_bound(objective.kl_weights)
        differences = ", ".join([objective.name, *remarks(context.run.config["objective"])])
        bound_on = context.evidence if is_bound else None
        return MetricResult(f"{self.label}: {differences}", nats(losses, context), bound_on)
