"""Diversity of generated texts, and their resemblance to held-out texts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from ..bleu import SMOOTHING, reference_bleu, self_bleu
from ..context import EvaluationContext
from ..metric import Metric
from ..ngram_metrics import distinct, jaccard, ngram_divergence, repetition
from ..ngrams import segmented, several_texts, split
from ..report import MetricResult

__all__ = [
    "DIVERSITY",
    "DistinctNGrams",
    "DiversityMetric",
    "JaccardSimilarity",
    "NGramDivergence",
    "ReferenceBLEU",
    "RepeatedNGrams",
    "SelfBLEU",
    "diversity",
]

ORDERS = (1, 2, 3)
SAMPLE = 500
NGRAMS = 5_000


class DiversityMetric(Metric, ABC):
    """Base class: a metric of a set of texts, beside a set of references where it needs one."""

    def summarize(self, column: object, context: EvaluationContext) -> dict[str, MetricResult] | None:
        if not context.samples:
            return None
        return self.compare(context.samples, context.references, context.options.seed)

    @abstractmethod
    def compare(self, texts: Sequence[str], references: Sequence[str] | None, seed: int) -> dict[str, MetricResult]:
        """The results by name; none if it needs references and there are none."""


class SelfBLEU(DiversityMetric):
    """:func:`~pyroformer.inference.evaluation.bleu.self_bleu`."""

    name, label = "self_bleu", "Self-BLEU"

    def __init__(self, order: int = 4, sample: int = SAMPLE) -> None:
        self.order, self.sample = order, sample

    def compare(self, texts: Sequence[str], references: Sequence[str] | None, seed: int) -> dict[str, MetricResult]:
        count = min(self.sample, _count(texts, 1))
        label = f"{self.label}-{self.order} of {count:,} texts, {SMOOTHING} smoothing, seed {seed}"
        return {self.name: MetricResult(label, {"of 100": self_bleu(texts, self.order, self.sample, seed)})}


class ReferenceBLEU(DiversityMetric):
    """:func:`~pyroformer.inference.evaluation.bleu.reference_bleu`."""

    name, label = "reference_bleu", "BLEU"

    def __init__(self, order: int = 4, sample: int = SAMPLE) -> None:
        self.order, self.sample = order, sample

    def compare(self, texts: Sequence[str], references: Sequence[str] | None, seed: int) -> dict[str, MetricResult]:
        if references is None:
            return {}
        count = f"{min(self.sample, len(texts)):,} texts against {len(references):,} references"
        label = f"{self.label}-{self.order} of {count}, {SMOOTHING} smoothing, seed {seed}"
        score = reference_bleu(texts, references, self.order, self.sample, seed)
        return {self.name: MetricResult(label, {"of 100": score})}


class DistinctNGrams(DiversityMetric):
    """:func:`~pyroformer.inference.evaluation.ngram_metrics.distinct`, for n-grams of each order."""

    name, label = "distinct", "distinct"

    def __init__(self, orders: Sequence[int] = ORDERS, ngrams: int = NGRAMS) -> None:
        self.orders, self.ngrams = orders, ngrams

    def compare(self, texts: Sequence[str], references: Sequence[str] | None, seed: int) -> dict[str, MetricResult]:
        results = {}
        for n in self.orders:
            share, count = distinct(texts, n, self.ngrams, seed)
            results[f"{self.name}_{n}"] = MetricResult(
                f"{self.label} {n}-grams of {count:,}, seed {seed}", {"share": share}
            )
        return results


class RepeatedNGrams(DiversityMetric):
    """:func:`~pyroformer.inference.evaluation.ngram_metrics.repetition`, for n-grams of each order."""

    name, label = "repetition", "repeated"

    def __init__(self, orders: Sequence[int] = ORDERS) -> None:
        self.orders = orders

    def compare(self, texts: Sequence[str], references: Sequence[str] | None, seed: int) -> dict[str, MetricResult]:
        return {
            f"{self.name}_{n}": MetricResult(
                f"{self.label} {n}-grams inside {_count(texts, n):,} texts", {"share": repetition(texts, n)}
            )
            for n in self.orders
        }


class JaccardSimilarity(DiversityMetric):
    """:func:`~pyroformer.inference.evaluation.ngram_metrics.jaccard`, for n-grams of each order."""

    name, label = "jaccard", "Jaccard similarity"

    def __init__(self, orders: Sequence[int] = ORDERS, sample: int = SAMPLE) -> None:
        self.orders, self.sample = orders, sample

    def compare(self, texts: Sequence[str], references: Sequence[str] | None, seed: int) -> dict[str, MetricResult]:
        results = {}
        for n in self.orders:
            mean, nearest = jaccard(texts, n, self.sample, seed)
            count = min(self.sample, _count(texts, n))
            label = f"{self.label} of {n}-grams, {count:,} texts, seed {seed}"
            results[f"{self.name}_{n}"] = MetricResult(label, {"over pairs": mean, "to the nearest": nearest})
        return results


class NGramDivergence(DiversityMetric):
    """:func:`~pyroformer.inference.evaluation.ngram_metrics.ngram_divergence`, for n-grams of each order."""

    name, label = "divergence", "Jensen-Shannon divergence"

    def __init__(self, orders: Sequence[int] = ORDERS, ngrams: int = NGRAMS) -> None:
        self.orders, self.ngrams = orders, ngrams

    def compare(self, texts: Sequence[str], references: Sequence[str] | None, seed: int) -> dict[str, MetricResult]:
        results = {}
        for n in self.orders if references is not None else ():
            nats, count, of_references = ngram_divergence(texts, references or [], n, self.ngrams, seed)
            label = f"{self.label} of {n}-grams, {count:,} against {of_references:,}, seed {seed}"
            results[f"{self.name}_{n}"] = MetricResult(label, {"nats": nats})
        return results


DIVERSITY = (
    SelfBLEU(),
    ReferenceBLEU(),
    DistinctNGrams(),
    RepeatedNGrams(),
    JaccardSimilarity(),
    NGramDivergence(),
)


def diversity(
    texts: Iterable[Any],
    references: Iterable[Any] | None = None,
    *,
    bleu_order: int = 4,
    orders: Sequence[int] = ORDERS,
    sample: int = SAMPLE,
    ngrams: int = NGRAMS,
    seed: int = 0,
    tokenize: str | None = None,
) -> dict[str, MetricResult]:
    """All metrics of this module by name; their labels say on how much text they were measured, and how.

    Arguments:
        texts: Generated texts.
        references: Real texts to compare with; without them the two comparisons are left out.
        bleu_order: The largest order of n-grams in BLEU.
        orders: The orders of n-grams of the other metrics, with a result for each.
        sample: The number of texts that are drawn for metrics that compare texts with each other.
        ngrams: The number of n-grams that are read for metrics that fall with it.
        seed: Random seed of both draws.
        tokenize: What the words are, where it is not what white space separates: "zh" or "char" for texts without
            blanks (see :func:`~pyroformer.inference.evaluation.ngrams.segmented`).

    Raises:
        ValueError: If an order or ``ngrams`` is below 1, or ``sample`` below 2.

    Examples:
        >>> for result in diversity(["a red rose", "a red sky"], orders=[1]).values():
        ...     print(result.label)
        Self-BLEU-4 of 2 texts, exp smoothing, seed 0
        distinct 1-grams of 6, seed 0
        repeated 1-grams inside 2 texts
        Jaccard similarity of 1-grams, 2 texts, seed 0
    """
    metrics: tuple[DiversityMetric, ...] = (
        SelfBLEU(bleu_order, sample),
        ReferenceBLEU(bleu_order, sample),
        DistinctNGrams(orders, ngrams),
        RepeatedNGrams(orders),
        JaccardSimilarity(orders, sample),
        NGramDivergence(orders, ngrams),
    )
    texts = several_texts(texts) if tokenize is None else segmented(texts, tokenize)
    if references is not None:
        references = several_texts(references) if tokenize is None else segmented(references, tokenize)
    return {name: result for metric in metrics for name, result in metric.compare(texts, references, seed).items()}


def _count(texts: Sequence[str], words: int) -> int:
    """The number of texts with at least so many words."""
    return len(split(texts, shortest=words))
