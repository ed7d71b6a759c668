"""The vectors that are left in each layer that attends to a mixture over its own tokens."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ....models.nvae import NVAE
from ..context import BatchContext, EvaluationContext
from ..estimates import ratio
from ..metric import Metric
from ..report import MetricResult
from .components import effective_components

__all__ = ["KeptLayers"]


class KeptLayers(Metric):
    r"""The vectors that each layer of the encoder and the decoder leaves, where its self-attention is over a mixture.

    ``vectors`` are those that are not switched off, as in :class:`~.removal.Kept`, without the prior's; ``effective``
    is the exponential of the entropy of the mean weights, the prior's included. Layers are counted from 1; the results
    are ``kept_layer_1`` and so on, and ``kept_decoder_layer_1``, whose vectors are of the tokens before each one.

    Examples:
        >>> KeptLayers().name
        'kept_layers'
    """

    name, label = "kept_layers", "vectors kept in layer {layer} of the {stack}"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        model = context.run.model
        if context.mixture is None or not isinstance(model, NVAE):
            return None
        stacks = {
            "encoder": context.mixture.lower,
            "decoder": model.decoder_layers(context.mixture.memory(), context.batch),
        }
        if not any(stacks.values()):
            return None
        columns = {"all": context.mask.sum(-1)}
        for stack, layers in stacks.items():
            for layer, posterior in layers.items():
                columns[f"vectors {stack} {layer}"] = posterior.kept.sum(-1) - 1
                columns[f"effective {stack} {layer}"] = effective_components(posterior.log_weights)
        return columns

    def summarize(
        self, column: Mapping[str, Float[np.ndarray, " texts"]], context: EvaluationContext
    ) -> dict[str, MetricResult]:
        results = {}
        for name, kept in column.items():
            if not name.startswith("vectors "):
                continue
            _, stack, layer = name.split()
            units = {"vectors": ratio(kept), "of the text's": ratio(kept / column["all"])}
            units["effective"] = ratio(column[f"effective {stack} {layer}"])
            key = f"kept_layer_{layer}" if stack == "encoder" else f"kept_decoder_layer_{layer}"
            results[key] = MetricResult(self.label.format(layer=layer, stack=stack), units)
        return results
