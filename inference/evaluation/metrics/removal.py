"""The vectors of a mixture that are left, and the accuracy of what is decoded from them alone."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ....models.attention.mixture import Mixture
from ...generation.generate import likelihood, thinned
from ..context import BatchContext, EvaluationContext
from ..estimates import ratio
from ..metric import CountMetric, Metric
from ..report import MetricResult
from .reconstruction import token_hits

__all__ = ["AccuracyKept", "Kept"]

Column = Float[np.ndarray, " texts"]


class Kept(CountMetric):
    r"""The vectors of a text's tokens that are left, from which ``bleu`` and ``accuracy_kept`` are measured.

    .. math:: \#\{ i \geq 1 : \alpha_i > 0, \ \mathrm E \pi_i \geq \epsilon \}

    with :math:`\epsilon` the option ``min_weight`` of the evaluation. At 0, the default, vectors leave only if they are
    switched off, which the heads of alpha other than ``relu`` never do, or, where the model has presence, if they are
    more probably absent than present. The prior's components, which always stay, count neither as left nor among the
    text's.
    """

    name, label = "kept", "vectors kept"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        posterior = context.posterior
        weights = None if posterior is None else posterior.token_weights()
        if posterior is None or weights is None:
            return None
        whole, memory = posterior.memory(), thinned(context.run, posterior, context.evaluation.options.min_weight)
        if not isinstance(whole, Mixture) or not isinstance(memory, Mixture):
            return None
        each = whole.components // (weights.shape[-1] + 1)  # of the prior, and of each token
        return {"kept": memory.present.sum(-1) - each, "all": each * context.mask.sum(-1)}

    def summarize(self, column: Mapping[str, Column], context: EvaluationContext) -> MetricResult:
        least = context.options.min_weight
        label = f"{self.label}, of weight {least:g} or more" if least else self.label
        return replace(super().summarize(column, context), label=label)


class AccuracyKept(Metric):
    """The token accuracy where vectors below ``min_weight`` are removed; without that option it is ``accuracy``."""

    name, label = "accuracy_kept", "token accuracy, teacher-forced, mean posterior"

    def measure(self, context: BatchContext) -> Tensor | None:
        min_weight = context.evaluation.options.min_weight
        if context.posterior is None or not min_weight:
            return None
        memory = thinned(context.run, context.posterior, min_weight)
        return token_hits(likelihood(context.run, memory, context.mask), context)

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        label = f"{self.label} without vectors below {context.options.min_weight:g}"
        return MetricResult(label, {"share": ratio(column, context.tokens)})
