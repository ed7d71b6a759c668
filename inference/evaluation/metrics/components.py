"""The number of components of a mixture in use, counted in three ways, the prior's component included."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....models.attention.mixture import Mixture
from ....models.transformer.mixtures.posterior import NO_VECTORS
from ....models.transformer.stacks import Decoder
from ..context import BatchContext, EvaluationContext
from ..cross_attention import attention_shares
from ..metric import CountMetric
from ..report import MetricResult

__all__ = ["KeptAlpha", "KeptAttention", "KeptEntropy", "count_for_mass", "effective_components"]

LEAST_ALPHA = 0.1  # the published code removes components below it


class ComponentCount(CountMetric, ABC):
    """Base class: a number of components, and its share of all components of a text."""

    unit = "components"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        memory = context.memory
        if not isinstance(memory, Mixture):
            return None
        kept = self.count(context, memory)
        # the mask of the memory lacks components that are switched off
        mask = memory.mask if context.mixture is None else context.mixture.mask
        every = mask.sum(-1) if mask is not None else torch.full_like(memory.log_weights[..., 0], memory.components)
        return None if kept is None else {"kept": kept, "all": every}

    @abstractmethod
    def count(self, context: BatchContext, memory: Mixture) -> Tensor | None:
        """The number of components of each text that are in use; None if the posterior does not have it."""


class KeptAlpha(ComponentCount):
    """Components with a concentration above that at which the published code removes them."""

    name, label = "kept_alpha", f"components with alpha > {LEAST_ALPHA}"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        column, mixture = super().measure(context), context.mixture
        if column is None or mixture is None:
            return column
        return column | {"vectors": mixture.kept.sum(-1) - mixture.samples_per_component}

    def count(self, context: BatchContext, memory: Mixture) -> Tensor | None:
        if context.mixture is None:
            return None
        large = context.mixture.log_alpha > math.log(LEAST_ALPHA)
        return (large if memory.mask is None else large & memory.mask).sum(-1)

    def summarize(self, column: Mapping[str, Float[np.ndarray, " texts"]], context: EvaluationContext) -> MetricResult:
        if "vectors" in column and len(column["vectors"]) and not column["vectors"].any():
            warnings.warn(NO_VECTORS, stacklevel=2)
        return super().summarize(column, context)


class KeptEntropy(ComponentCount):
    """The number of equal weights that are spread out as much as the mean weights of the posterior."""

    name, label = "kept_entropy", "components, exp of the entropy of E[pi]"

    def count(self, context: BatchContext, memory: Mixture) -> Tensor | None:
        if context.posterior is None or context.posterior.token_weights() is None:
            return None
        return effective_components(memory.log_weights)


class KeptAttention(ComponentCount):
    """The fewest components that receive nearly all of the decoder's attention."""

    name, label = "kept_attention", "components that hold 99 % of the decoder's attention"

    def count(self, context: BatchContext, memory: Mixture) -> Tensor | None:
        decoder = getattr(context.run.model, "decoder", None)
        if not isinstance(decoder, Decoder):
            return None
        return count_for_mass(attention_shares(decoder, context.tokens, context.mask, memory))


def effective_components(log_weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""The exponential of the entropy of weights: the number of equal weights that are as spread out.

    Examples:
        >>> effective_components(torch.tensor([0.5, 0.5, 0.0]).log())
        tensor(2.)
    """
    weights = log_weights.exp()
    return torch.where(weights > 0, -weights * log_weights, 0).sum(-1).exp()


def count_for_mass(shares: Float[Tensor, "*batch n"], mass: float = 0.99) -> Int[Tensor, "*batch"]:
    """The fewest components that together have a share ``mass`` of the whole.

    Examples:
        >>> count_for_mass(torch.tensor([0.5, 0.0, 0.495, 0.005]))
        tensor(2)
    """
    descending = shares.double().sort(-1, descending=True).values
    before = descending.cumsum(-1) - descending
    return (before < (mass - 1e-6) * descending.sum(-1, keepdim=True)).sum(-1)
