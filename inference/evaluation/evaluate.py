r"""The evaluation of a fitted model: bounds of log p(x) and their terms, information of latents, reconstructions.

Whatever objective was trained, the bound is that of the model that is sampled: beta = 1, true divergences, the length
included.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.batch import Batch
from ...models.utils.numbers import check_at_least
from ..data.entries import Conditions, TextSource, as_conditions, as_entries, as_texts
from ..data.texts import Texts, evenly_spaced
from ..objectives.bounds import importance_weighted
from ..runs.fitted import FittedModel, check_same_length
from ..utils.counts import counted
from ..utils.progress import progress_bar
from ..utils.seeded_eval import seeded_eval
from .columns import Column, measure_columns
from .context import EvaluationContext, EvaluationOptions
from .metric import Metric
from .metrics import resolve
from .report import Evaluation, MetricResult
from .text_draws import TextDraws, importance_bounds

__all__ = ["evaluate", "text_bounds"]

Split = Literal["train", "valid", "test"]


def evaluate(
    run: FittedModel,
    texts: TextSource | None = None,
    *,
    metrics: Sequence[str | Metric] | None = None,
    split: Split = "test",
    num_particles: int = 64,
    seed: int = 0,
    limit: int | None = None,
    reconstructions: int = 256,
    compared: int = 512,
    samples: int = 0,
    min_weight: float = 0.0,
    batch_size: int = 64,
    progress: bool | None = None,
) -> Evaluation:
    r"""Evaluate a run on held-out texts.

    Arguments:
        run: Any run.
        texts: Texts to evaluate on, or pairs (condition, text) for a run that was trained on pairs; a split of the
            run's corpus by default. Texts longer than ``max_length`` are treated as those of the corpus were.
        metrics: The metrics to compute, by name or as objects, such as ``["bound", MyMetric()]``; by default all of
            :data:`~pyroformer.inference.evaluation.metrics.METRICS` that apply to the run. Metrics that do not apply
            are left out, and nothing is computed that no metric reads.
        split: The split.
        num_particles: Draws :math:`K` of the importance-weighted bound; those of the ELBO are at most 8.
        seed: Random seed. The draws of a text depend on the seed and on the text alone, not on other texts, the size of
            batches or the metrics that are computed.
        limit: Largest number of texts; they are evenly spaced.
        reconstructions: Number of texts that are reconstructed, for BLEU and exact match.
        compared: Number of texts that are compared with one another, for the information of each latent of a
            hierarchy; there is none for a single text.
        samples: Number of texts that are generated and compared with each other and with held-out texts.
        min_weight: Vectors of a mixture with a smaller mean weight are dropped before texts are reconstructed; every
            other metric is of the whole mixture.
        batch_size: Texts in a batch.
        progress: Whether to show progress bars on standard error; by default in a terminal and in notebooks.

    Raises:
        ValueError: If there are no texts, a number is out of range, there is no mixture to drop vectors of, or there is
            no metric of a name.
    """
    options = EvaluationOptions(
        num_particles, seed, limit, reconstructions, compared, samples, min_weight, batch_size, progress
    )
    if samples and run.corpus.conditional:
        raise ValueError(
            f"samples is {samples}, but what this run writes answers to a condition: leave samples out, and compare "
            "run.sample(n, condition=...) with evaluation.metrics.diversity.diversity."
        )
    encoded, given = _texts(run, texts, split)
    selected = evenly_spaced(encoded, limit)
    if not len(selected):
        raise ValueError("there are no texts to evaluate on: give some, or another split.")
    resolved, context = resolve(metrics), EvaluationContext(run, selected, options)
    columns = measure_columns(resolved, context)
    results: dict[str, MetricResult] = {}
    for metric in resolved:
        results |= _summarize(metric, columns[metric.name], context)
    about = context.about | {"split": split if texts is None else None} | given
    return Evaluation(results, about, run.model.latents if "compared" in about else ())


def text_bounds(
    run: FittedModel,
    texts: TextSource,
    num_particles: int = 64,
    *,
    conditions: Conditions | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool | None = None,
) -> Float[Tensor, " texts"]:
    """The importance-weighted lower bound of each text's log p(x), in nats and float64; log p(x) if nothing is latent.

    The draws of a text are a function of the seed and of the text, so that its bound does not depend on the others; it
    is the one of :func:`evaluate`.

    Raises:
        ValueError: If a text does not fit the model's max_length, or a number is not positive.
    """
    check_at_least(1, batch_size=batch_size)
    texts = as_texts(texts)
    conditions = None if conditions is None else as_conditions(conditions)
    check_same_length(texts, conditions)
    bounds: list[Tensor] = []
    if run.guide is not None:
        check_at_least(1, num_particles=num_particles)
    with (
        progress_bar("bounding", len(texts), progress=progress) as advance,
        seeded_eval(run.model, run.guide, seed=seed),
    ):
        for start in range(0, len(texts), batch_size):
            chunk = slice(start, start + batch_size)
            batch = run.batch(texts[chunk], None if conditions is None else conditions[chunk])
            bounds += _bounds(run, batch, num_particles, seed, advance)
    return torch.cat(bounds) if bounds else torch.empty(0, dtype=torch.float64)


def _bounds(
    run: FittedModel, batch: Batch, num_particles: int, seed: int, advance: Callable[[int], object]
) -> Iterator[Float[Tensor, " _"]]:
    """The bounds of a batch: of all texts at once if nothing is latent, otherwise text by text."""
    if run.guide is None:
        yield importance_weighted(run.model, None, batch, 1, len(run.corpus.train)).cpu()
        advance(len(batch.weight))
        return
    for row in range(len(batch.weight)):
        weights = TextDraws(run, batch, row, seed).log_weights(num_particles)
        yield importance_bounds(weights[None], [num_particles])[num_particles].cpu()
        advance(1)


def _texts(run: FittedModel, texts: TextSource | None, split: Split) -> tuple[Texts, dict[str, str]]:
    """The texts of a split or those that were given, and what to say of these if some were split or dropped."""
    if texts is None:
        if split not in get_args(Split):
            raise ValueError(f"there is no split {split!r}: give {', '.join(get_args(Split))}.")
        held_out: Texts = getattr(run.corpus, split)
        return held_out, {}
    if isinstance(texts, Texts):
        return run.corpus.encode(texts), {}
    entries = [texts] if isinstance(texts, str) else as_entries(texts)
    encoded = run.corpus.encode(entries)
    given = f"{counted(len(entries), 'text')} ({run.corpus.overlong_note(encoded.overlong)})"
    return encoded, {"given": given} if encoded.overlong else {}


def _summarize(metric: Metric, column: Column, context: EvaluationContext) -> dict[str, MetricResult]:
    """The results of a metric by name; none where it does not apply."""
    summary = None if column is None else metric.summarize(column, context)
    if summary is None:
        return {}
    return {metric.name: summary} if isinstance(summary, MetricResult) else dict(summary)
