"""Generated texts in the eyes of a language model, beside real ones."""

from collections.abc import Sequence

from ...data.texts import evenly_spaced
from ..context import EvaluationContext
from ..estimates import Estimate, perplexity, ratio
from ..judge import Judge
from ..metric import Metric
from ..report import MetricResult

__all__ = ["Judged"]


class Judged(Metric):
    r"""The loss of a language model on generated texts, and on as many held-out ones.

    A low loss means likely texts, even if all are the same: read it beside the metrics of variety. That on held-out
    texts says what is as good as real.

    Arguments:
        judge: The language model.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"text {n}" for n in range(40)], vocabulary=270, max_length=12)
        >>> run = pf.fit(pf.LanguageModel.for_corpus(corpus, width=16, layers=1), None, corpus, steps=2, progress=False)
        >>> evaluation = run.evaluate(metrics=[Judged(Judge(run.backbone))], samples=4)
        >>> list(evaluation.metrics)
        ['judged', 'judged_held_out']
    """

    name, label = "judged", "loss of the judge on"

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def summarize(self, column: object, context: EvaluationContext) -> dict[str, MetricResult] | None:
        written = [text for text in context.samples or () if text.strip()]
        if not written:
            return None
        held_out = evenly_spaced(context.run.corpus.test, len(written))[:]
        return {
            self.name: self._result("generated", written),
            f"{self.name}_held_out": self._result("held-out", held_out),
        }

    def _result(self, kind: str, texts: Sequence[str]) -> MetricResult:
        loss = self.judge.loss(texts)
        each: Estimate = ratio(loss.nats, loss.tokens)
        units = {"nats/token": each, "nats/text": ratio(loss.nats), "perplexity": perplexity(each)}
        return MetricResult(f"{self.label} {len(texts):,} {kind} texts", units)
