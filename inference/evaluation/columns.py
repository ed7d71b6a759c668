"""Columns of metrics: the values of single texts, collected over batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..data.loaders import sequential_batches
from ..utils.progress import progress_bar
from ..utils.seeded_eval import seeded_eval
from .context import BatchContext, EvaluationContext
from .metric import Measured, Metric

__all__ = ["Column", "measure_columns"]

Array = Float[np.ndarray, "_ ..."]  # a row for each text
Column = Array | dict[str, Array] | None


def measure_columns(metrics: Sequence[Metric], context: EvaluationContext) -> dict[str, Column]:
    """The columns of each metric over all texts, in their order; None where a metric does not apply.

    Raises:
        ValueError: If a metric measures something other than one row for each text.
    """
    run, order = context.run, []
    batches: dict[str, list[Column]] = {metric.name: [] for metric in metrics}
    bar = progress_bar("evaluating", len(context.texts), progress=context.options.progress)
    with bar as advance, seeded_eval(run.model, run.guide, seed=context.options.seed):
        for indices, batch in sequential_batches(context.texts, context.options.batch_size):
            order.append(indices)
            one = BatchContext(context, batch.to(run.model.device))
            for metric in metrics:
                batches[metric.name].append(_rows(metric, metric.measure(one), one, len(indices)))
            advance(len(indices))
    back = np.argsort(np.concatenate(order))
    return {name: _joined(name, columns, back) for name, columns in batches.items()}


def _rows(metric: Metric, measured: Measured, context: BatchContext, count: int) -> Column:
    """The rows of a batch that are texts, without those that fill it up."""
    if measured is None:
        return None
    if isinstance(measured, Mapping):
        return {name: _text_rows(metric, values, context, count) for name, values in measured.items()}
    return _text_rows(metric, measured, context, count)


def _text_rows(metric: Metric, values: Tensor, context: BatchContext, count: int) -> Array:
    size = len(context.batch.weight)
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise ValueError(f"the metric {metric.name!r} measured values of type {kind}: return tensors.")
    if values.shape[:1] != (size,):
        raise ValueError(
            f"the metric {metric.name!r} measured values of shape {tuple(values.shape)} on {size} texts: return one "
            "row for each text of the batch."
        )
    return values[:count].double().cpu().numpy()


def _joined(name: str, batches: Sequence[Column], order: Any) -> Column:
    """The rows of all batches in the order of the texts; None where a metric does not apply."""
    first = batches[0]
    if first is None or any(batch is None for batch in batches):
        return None
    columns: list[Any] = list(batches)
    if isinstance(first, dict):
        return {key: _concatenated(name, [batch[key] for batch in columns])[order] for key in first}
    return _concatenated(name, columns)[order]


def _concatenated(name: str, batches: Sequence[Array]) -> Array:
    shapes = {batch.shape[1:] for batch in batches}
    if len(shapes) > 1:
        raise ValueError(
            f"the metric {name!r} measured rows of the shapes {' and '.join(map(str, sorted(shapes)))}: return rows "
            "whose shape does not depend on the padding."
        )
    return np.concatenate(batches)
