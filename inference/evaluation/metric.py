"""The definition of a metric: the base class of every metric of an evaluation."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .context import BatchContext, EvaluationContext
from .estimates import ratio
from .report import MetricResult

__all__ = ["CountMetric", "Measured", "Metric", "Summary"]

Measured = Tensor | Mapping[str, Tensor] | None
Summary = MetricResult | Mapping[str, MetricResult] | None


class Metric(ABC):
    r"""A metric of an evaluation: the values of single texts, and their summary over all texts.

    A metric of single texts defines :meth:`measure`; its summary is the mean over texts with a standard error, unless
    it overrides :meth:`summarize`. A metric of a set of texts, such as BLEU, overrides :meth:`summarize` alone. Where a
    metric does not apply to a run, either method returns None, and the evaluation leaves it out.

    Attributes:
        name: The key of the result in an :class:`~pyroformer.inference.evaluation.report.Evaluation`.
        label: The label of its row in the table.
        unit: The unit of the mean over texts.

    Examples:
        >>> class Length(Metric):
        ...     name, label, unit = "length", "length of a text", "tokens"
        ...
        ...     def measure(self, context):
        ...         return context.mask.sum(-1)
    """

    name: str
    label: str
    unit: str = "mean"

    def measure(self, context: BatchContext) -> Measured:
        """The values of a batch: a tensor with a row for each text, or several by name.

        Rows of weight 0 only fill up the batch; what is measured on them is dropped. A metric of a set of texts returns
        ``{}``, which is the default.
        """
        return {}

    def summarize(self, column: Any, context: EvaluationContext) -> Summary:
        """The result over all texts, or several results by name.

        Arguments:
            column: What :meth:`measure` returned for each text, in the order of the texts, as an array in float64; a
                dictionary of arrays where it returned one.
            context: What all texts were evaluated on and with.
        """
        return MetricResult(self.label, {self.unit: ratio(column)})


class CountMetric(Metric):
    """Base class: a number of vectors of a text, ``kept`` in the column, and its share of ``all`` of them."""

    unit = "vectors"

    def summarize(self, column: Mapping[str, Float[np.ndarray, " texts"]], context: EvaluationContext) -> MetricResult:
        share = ratio(column["kept"] / column["all"])
        return MetricResult(self.label, {self.unit: ratio(column["kept"]), "of the text's": share})
