"""The metrics of an evaluation, in the order of their results."""

from collections.abc import Sequence

from ....models.utils.choices import check_choice
from ..metric import Metric
from .bounds import BoundGivenLength, ImportanceWeighted, ImportanceWeightedGivenLength, NegativeELBO
from .components import KeptAlpha, KeptAttention, KeptEntropy
from .diversity import DIVERSITY
from .judged import Judged
from .latents import ActiveUnits, ComparedKL, MarginalKL, MutualInformation, Sensitivity
from .layers import KeptLayers
from .presence import Present
from .reconstruction import Accuracy, CorpusBLEU, ExactMatch, SampledAccuracy
from .removal import AccuracyKept, Kept
from .terms import KL, Rate, Reconstruction, TrainedObjective

__all__ = ["METRICS", "Judged", "resolve"]

METRICS: tuple[Metric, ...] = (
    NegativeELBO(),
    BoundGivenLength(),
    ImportanceWeighted(),
    ImportanceWeightedGivenLength(),
    Reconstruction(),
    KL(),
    Rate(),
    TrainedObjective(),
    Accuracy(),
    SampledAccuracy(),
    CorpusBLEU(),
    ExactMatch(),
    Kept(),
    Present(),
    KeptLayers(),
    AccuracyKept(),
    KeptAlpha(),
    KeptEntropy(),
    KeptAttention(),
    *DIVERSITY,
    ComparedKL(),
    MutualInformation(),
    MarginalKL(),
    ActiveUnits(),
    Sensitivity(),
)


def resolve(metrics: Sequence[object] | None) -> tuple[Metric, ...]:
    """The metrics that names and objects stand for; all of :data:`METRICS` if None.

    Raises:
        ValueError: If there is none, a name is unknown, an entry is no metric or has no name, or two have the same.

    Examples:
        >>> [metric.label for metric in resolve(["rate", "exact_match"])]
        ['rate, KL of all latents', 'exact match']
    """
    if metrics is None:
        return METRICS
    entries = [metrics] if isinstance(metrics, str) else list(metrics)
    if not entries:
        raise ValueError("metrics is empty: give at least one metric, or None for all.")
    known = {metric.name: metric for metric in METRICS}
    resolved: dict[str, Metric] = {}
    for entry in entries:
        if isinstance(entry, str):
            check_choice("metric", entry, known)
            metric = known[entry]
        elif isinstance(entry, Metric):
            metric = entry
        else:
            raise ValueError(f"{entry!r} is no metric: give a name or an object of a class derived from Metric.")
        _check_named(metric)
        if metric.name in resolved:
            raise ValueError(f"two metrics have the name {metric.name!r}: give each of them once, under its own name.")
        resolved[metric.name] = metric
    return tuple(resolved.values())


def _check_named(metric: Metric) -> None:
    """Raises a ValueError if a metric lacks its name, or the label that the default summary prints."""
    labeled = type(metric).summarize is Metric.summarize
    for attribute in ("name", "label") if labeled else ("name",):
        if not hasattr(metric, attribute):
            raise ValueError(f"the metric {type(metric).__name__} has no {attribute}: set it in the class.")
