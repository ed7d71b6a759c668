"""The vectors that are present in a draw, where the model has presence."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..context import BatchContext, EvaluationContext
from ..estimates import ratio
from ..metric import Metric
from ..report import MetricResult

__all__ = ["Present"]


class Present(Metric):
    r"""The mean number of a text's vectors that are present, :math:`\sum_i g_i`, and its share of all.

    Texts are reconstructed from those with :math:`g_i > 1/2`, which :class:`~.removal.Kept` counts. The two agree where
    the guide has decided. The prior's components count neither as present nor among the text's.

    Examples:
        >>> Present().name, Present().label
        ('present', 'vectors present in a draw')
    """

    name, label = "present", "vectors present in a draw"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        mixture = context.mixture
        presence = None if mixture is None else mixture.presence()
        if presence is None:
            return None
        return {"present": presence.mean.sum(-1) - presence.always, "all": presence.always * context.mask.sum(-1)}

    def summarize(self, column: Mapping[str, Float[np.ndarray, " texts"]], context: EvaluationContext) -> MetricResult:
        share = ratio(column["present"] / column["all"])
        return MetricResult(self.label, {"vectors": ratio(column["present"]), "of the text's": share})
