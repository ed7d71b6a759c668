"""Metrics of reconstruction: the accuracy of tokens, BLEU and exact match."""

from typing import get_args

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from ....models.transformer.text_distribution import AutoregressiveText
from ....models.utils.choices import check_choice
from ..bleu import bleu
from ..context import BatchContext, EvaluationContext
from ..estimates import Estimate, ratio
from ..metric import Measured, Metric
from ..ngrams import Tokenization
from ..report import MetricResult

__all__ = ["Accuracy", "CorpusBLEU", "ExactMatch", "SampledAccuracy", "token_hits"]

Column = Float[np.ndarray, " texts"]


class Accuracy(Metric):
    """The share of tokens that are the most probable ones given the true tokens before them.

    The latents are the mean of the posterior; without latents there is one accuracy.
    """

    name, label = "accuracy", "token accuracy, teacher-forced"

    def measure(self, context: BatchContext) -> Tensor | None:
        text = context.sampled_text if context.run.guide is None else context.mean_text
        return token_hits(text, context)

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        label = self.label if context.run.guide is None else f"{self.label}, mean posterior"
        return MetricResult(label, {"share": ratio(column, context.tokens)})


class SampledAccuracy(Metric):
    """The same share where the latents are drawn from the posterior."""

    name, label = "accuracy_sampled", "token accuracy, teacher-forced, sampled posterior"

    def measure(self, context: BatchContext) -> Tensor | None:
        return None if context.run.guide is None else token_hits(context.sampled_text, context)

    def summarize(self, column: Column, context: EvaluationContext) -> MetricResult:
        return MetricResult(self.label, {"share": ratio(column, context.tokens)})


class CorpusBLEU(Metric):
    """BLEU of greedy reconstructions, from 0 to 100.

    Arguments:
        tokenize: What the words are: "13a", or "zh" or "char" for languages without blanks between words (see
            :func:`~pyroformer.inference.evaluation.bleu.bleu`).
    """

    name, label = "bleu", "BLEU"

    def __init__(self, tokenize: str = "13a") -> None:
        check_choice("tokenize", tokenize, get_args(Tokenization))
        self.tokenize = tokenize
        if tokenize != "13a":
            self.label = f"BLEU ({tokenize})"

    def measure(self, context: BatchContext) -> Measured:
        return _if_reconstructed(context)

    def summarize(self, column: object, context: EvaluationContext) -> MetricResult:
        pairs = context.reconstructions or []
        score = bleu([pair.text for pair in pairs], [pair.original for pair in pairs], self.tokenize)
        return MetricResult(f"{self.label} of {_description(context)}", {"of 100": Estimate(score)})


class ExactMatch(Metric):
    """The share of greedy reconstructions that are the text itself."""

    name, label = "exact_match", "exact match"

    def measure(self, context: BatchContext) -> Measured:
        return _if_reconstructed(context)

    def summarize(self, column: object, context: EvaluationContext) -> MetricResult:
        exact = np.array([pair.exact for pair in context.reconstructions or []], dtype=float)
        return MetricResult(f"{self.label} of {_description(context)}", {"share": ratio(exact)})


def token_hits(text: Distribution | None, context: BatchContext) -> Int[Tensor, " B"] | None:
    """The number of tokens that are the most probable ones; None for texts that are not autoregressive."""
    if not isinstance(text, AutoregressiveText):
        return None
    return ((text.likelihood(context.tokens).predicted() == context.tokens) & context.mask).sum(-1)


def _if_reconstructed(context: BatchContext) -> Measured:
    """Nothing of single texts. Reading the reconstructions here refuses what cannot be reconstructed at once."""
    return None if context.evaluation.reconstructions is None else {}


def _description(context: EvaluationContext) -> str:
    least = context.options.min_weight
    kept = f" without vectors below {least:g}" if least else ""
    return f"{len(context.reconstructions or []):,} greedy reconstructions, mean posterior{kept}"
