"""The vectors that are left in each layer that attends to a mixture over its own tokens."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ....models.mixture_names import MixtureNames
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
    """

    name, label = "kept_layers", "vectors kept in layer {layer} of the {stack}"

    def measure(self, context: BatchContext) -> dict[str, Tensor] | None:
        model = context.run.model
        if context.mixture is None or not isinstance(model, NVAE):
            return None
        decoder = model.decoder_layers(context.mixture.memory(), context.batch)
        layers = {MixtureNames("encoder", layer): posterior for layer, posterior in context.mixture.lower.items()}
        layers |= {MixtureNames("decoder", layer): posterior for layer, posterior in decoder.items()}
        if not layers:
            return None
        columns = {"all": context.mask.sum(-1)}
        for names, posterior in layers.items():
            columns[names.vectors] = posterior.kept.sum(-1) - 1
            columns[names.weights] = effective_components(posterior.log_weights)
        return columns

    def summarize(
        self, column: Mapping[str, Float[np.ndarray, " texts"]], context: EvaluationContext
    ) -> dict[str, MetricResult]:
        results = {}
        for names in MixtureNames.all_in(column, "vectors"):
            kept = column[names.vectors]
            units = {"vectors": ratio(kept), "of the text's": ratio(kept / column["all"])}
            units["effective"] = ratio(column[names.weights])
            key = f"kept_layer_{names.layer}" if names.stack == "encoder" else f"kept_decoder_layer_{names.layer}"
            results[key] = MetricResult(self.label.format(layer=names.layer, stack=names.stack), units)
        return results
