"""The vectors that are left in each layer of an encoder that attends to mixtures."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..context import BatchContext, EvaluationContext
from ..estimates import ratio
from ..metric import Metric
from ..report import MetricResult
from .components import effective_components

__all__ = ["KeptLayers"]


class KeptLayers(Metric):
    r"""The vectors that each layer of the encoder leaves, where its self-attention is over a mixture.

    ``vectors`` are those that are not switched off, as in :class:`~.removal.Kept`, without the prior's; ``effective``
    is the exponential of the entropy of the mean weights, the prior's included. Layers are counted from 1; the results
    are ``kept_layer_1`` and so on.

    Examples:
        >>> KeptLayers().name
        'kept_layers'
    """

    name, label = "kept_layers", "vectors kept in layer {layer} of the encoder"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        if context.mixture is None or not context.mixture.lower:
            return None
        tokens = context.mask.sum(-1)
        columns = {"all": tokens}
        for layer, posterior in context.mixture.lower.items():
            columns[f"vectors {layer}"] = posterior.kept.sum(-1) - 1
            columns[f"effective {layer}"] = effective_components(posterior.log_weights)
        return columns

    def summarize(
        self, column: Mapping[str, Float[np.ndarray, " texts"]], context: EvaluationContext
    ) -> dict[str, MetricResult]:
        results = {}
        for name, kept in column.items():
            if not name.startswith("vectors "):
                continue
            layer = name.removeprefix("vectors ")
            units = {"vectors": ratio(kept), "of the text's": ratio(kept / column["all"])}
            units["effective"] = ratio(column[f"effective {layer}"])
            results[f"kept_layer_{layer}"] = MetricResult(self.label.format(layer=layer), units)
        return results
