"""The information of each latent of a hierarchy, and of all together; their divergences are among the terms."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..context import EvaluationContext
from ..estimates import Estimate, ratio
from ..latent_information import LatentInformation
from ..metric import Metric
from ..report import MetricResult

__all__ = ["ActiveUnits", "ComparedKL", "MarginalKL", "MutualInformation", "Sensitivity"]

ACTIVE = (0.01, 0.2)  # a unit's variance over texts: the usual threshold, and DELLA's


class LatentMetric(Metric, ABC):
    """Base class: a result for each latent, and one for all of them.

    ``label`` has the fields ``latent``, ``count``, the number of texts that are compared, and ``most``, its logarithm.
    """

    def summarize(self, column: object, context: EvaluationContext) -> dict[str, MetricResult] | None:
        information = self.information(context)
        if information is None:
            return None
        latents = context.run.model.latents
        names = [*((f"{self.name}_{latent}", latent) for latent in latents), (self.name, "all latents")]
        fields = {"count": f"{context.compared:,}", "most": f"{math.log(context.compared):.2f}"}
        return {
            name: MetricResult(self.label.format(latent=latent, **fields), units)
            for (name, latent), units in zip(names, self.units(information), strict=True)
        }

    def information(self, context: EvaluationContext) -> LatentInformation | None:
        """What the metric reads."""
        return context.latent_information

    @abstractmethod
    def units(self, information: LatentInformation) -> Iterator[dict[str, Estimate]]:
        """The units of each latent, then of all together."""


class MutualInformation(LatentMetric):
    """The mutual information of a text and a latent, given the latents below."""

    name = "mutual_information"
    label = "mutual information of {latent} over {count} texts, at most ln {count} = {most}"

    def units(self, information: LatentInformation) -> Iterator[dict[str, Estimate]]:
        return _nats(information.mutual_information)


class ComparedKL(LatentMetric):
    """The divergence over the texts that are compared, at the draws of mutual information and marginal KL."""

    name, label = "compared_kl", "compared KL of {latent} over {count} texts, at the draws of its parts"

    def units(self, information: LatentInformation) -> Iterator[dict[str, Estimate]]:
        return _nats(information.kl)


class MarginalKL(LatentMetric):
    """The divergence of the aggregated posterior from the prior."""

    name, label = "marginal_kl", "marginal KL of {latent} over {count} texts, aggregated posterior against prior"

    def units(self, information: LatentInformation) -> Iterator[dict[str, Estimate]]:
        return _nats(information.marginal_kl)


class ActiveUnits(LatentMetric):
    """The number of dimensions whose posterior mean varies over texts."""

    name, label = "active", "active units of {latent} over {count} texts, lower latents averaged out"

    def units(self, information: LatentInformation) -> Iterator[dict[str, Estimate]]:
        variance = information.variance.cpu().numpy()
        return (_active(units) for units in (*variance, variance))


class Sensitivity(LatentMetric):
    """The drop of the log-likelihood where a latent is that of another text."""

    name, label = "sensitivity", "drop of log p(x | z) over {count} texts with another text's {latent}"

    def information(self, context: EvaluationContext) -> LatentInformation | None:
        return context.latent_sensitivity

    def units(self, information: LatentInformation) -> Iterator[dict[str, Estimate]]:
        assert information.sensitivity is not None and information.sensitivity_all is not None
        return _nats(information.sensitivity, information.sensitivity_all)


def _nats(
    each: Float[Tensor, "texts K"], together: Float[Tensor, " texts"] | None = None
) -> Iterator[dict[str, Estimate]]:
    """The estimate of each latent, and that of all together, by default their sum."""
    together = each.sum(-1) if together is None else together
    columns = torch.cat([each, together[:, None]], -1).cpu().numpy()
    return ({"nats/text": ratio(column)} for column in columns.T)


def _active(variance: Float[np.ndarray, "*units"]) -> dict[str, Estimate]:
    counts = {f"above {least}": Estimate(float((variance > least).sum())) for least in ACTIVE}
    return counts | {"of": Estimate(float(variance.size))}
