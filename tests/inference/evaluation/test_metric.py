"""Metrics as objects: of a user's own, by name, and nothing computed that no metric reads."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyroformer.guides.base import Guide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.evaluation import context as context_module
from pyroformer.inference.evaluation.context import BatchContext, EvaluationContext
from pyroformer.inference.evaluation.estimates import Estimate
from pyroformer.inference.evaluation.metric import Measured, Metric
from pyroformer.inference.evaluation.metrics import METRICS, resolve
from pyroformer.inference.evaluation.report import Evaluation, MetricResult
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.batch import Batch
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.vae import VAE

TEXTS = [f"{'Ones' if n % 3 else 'A few'} and {n * n * n} more." for n in range(40)]
SOME = TEXTS[:7]
ELBO = {"name": "elbo", "is_bound": True, "kl_weights": {}}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=24)


def untrained(corpus: Corpus, model_class: Any, guide_class: Any) -> Run:
    torch.manual_seed(0)
    model = model_class.for_corpus(corpus, width=16, layers=2, heads=2)
    guide = None if guide_class is None else guide_class(model)
    return Run(model, guide, corpus, RunFolder(corpus.folder), {"objective": ELBO}, 0)


@pytest.fixture(scope="module")
def nvae(corpus: Corpus) -> Run:
    return untrained(corpus, NVAE, NVAEGuide)


@pytest.fixture(scope="module")
def everything(nvae: Run) -> Evaluation:
    return nvae.evaluate(SOME, num_particles=2)


class Tokens(Metric):
    """A metric of single texts, with the default summary."""

    name, label, unit = "tokens", "tokens of a text", "tokens"

    def measure(self, context: BatchContext) -> Tensor:
        return context.mask.sum(-1)


class Parts(Metric):
    """Two columns, two results."""

    name, label = "parts", "parts"

    def measure(self, context: BatchContext) -> dict[str, Tensor]:
        return {"first": context.tokens[:, 0], "all": context.mask.sum(-1)}

    def summarize(self, column: Any, context: EvaluationContext) -> dict[str, MetricResult]:
        first = [context.run.tokenizer.encode(text)[0] for text in context.texts[:]]
        assert column["first"].tolist() == first  # in the order of the texts, whatever the batches
        sums = {name: Estimate(float(values.sum())) for name, values in column.items()}
        return {f"{self.name}_{name}": MetricResult(self.label, {"sum": value}) for name, value in sums.items()}


class Shortest(Metric):
    """A metric of all texts together."""

    name, label = "shortest", "shortest text"

    def summarize(self, column: Any, context: EvaluationContext) -> MetricResult:
        assert column == {}
        return MetricResult(self.label, {"tokens": Estimate(float(context.tokens.min()))})


class Nowhere(Metric):
    name, label = "nowhere", "applies to no run"

    def measure(self, context: BatchContext) -> Measured:
        return None


def test_a_metric_of_ones_own(nvae: Run) -> None:
    lengths = np.array([len(nvae.tokenizer.encode(text)) for text in SOME], dtype=float)
    evaluation = nvae.evaluate(SOME, metrics=[Tokens()], batch_size=3)
    assert list(evaluation) == ["tokens"] and evaluation["tokens"].value == pytest.approx(lengths.mean())
    error = lengths.std(ddof=1) / len(lengths) ** 0.5
    assert evaluation["tokens"].units["tokens"].error == pytest.approx(error)
    assert "tokens of a text" in evaluation.table() and "tokens" in evaluation.as_dict()["metrics"]


def test_names_and_objects_together_in_their_order(nvae: Run, everything: Evaluation) -> None:
    evaluation = nvae.evaluate(SOME, num_particles=2, metrics=[Shortest(), "rate", Nowhere(), "bound"])
    assert list(evaluation) == ["shortest", "rate", "bound"]
    assert evaluation["bound"] == everything["bound"] and evaluation["rate"] == everything["rate"]
    assert evaluation["shortest"].value == min(len(nvae.tokenizer.encode(text)) for text in SOME)


def test_one_metric_beside_all_others_changes_none(nvae: Run, everything: Evaluation) -> None:
    evaluation = nvae.evaluate(SOME, num_particles=2, metrics=[*METRICS, Parts()])
    assert {name: evaluation[name] for name in everything} == everything.metrics
    assert [name for name in evaluation if name not in everything] == ["parts_first", "parts_all"]


def test_columns_are_in_the_order_of_the_texts(nvae: Run) -> None:
    evaluations = [nvae.evaluate(SOME, metrics=[Parts()], batch_size=size) for size in (2, 7)]
    assert evaluations[0]["parts_first"] == evaluations[1]["parts_first"]


class Exact(Metric):
    name, label = "exact", "a number that float32 has not"

    def measure(self, context: BatchContext) -> Tensor:
        return torch.full_like(context.tokens[:, 0], 2**24 + 1)


class Sometimes(Metric):
    name, label = "sometimes", "of some batches"

    def __init__(self) -> None:
        self.batches = 0

    def measure(self, context: BatchContext) -> Measured:
        self.batches += 1
        return torch.ones(len(context.tokens)) if self.batches < 3 else None


class Drawn(Metric):
    name, label = "drawn", "drawn"

    def measure(self, context: BatchContext) -> Tensor:
        return torch.rand(len(context.tokens))


def test_columns_are_in_float64_of_all_batches_and_of_the_seed(nvae: Run) -> None:
    found = nvae.evaluate(SOME, metrics=[Exact(), Sometimes(), Drawn()], batch_size=3)
    assert list(found) == ["exact", "drawn"] and found["exact"].value == 2**24 + 1
    same, other = (nvae.evaluate(SOME, metrics=[Drawn()], batch_size=3, seed=seed)["drawn"] for seed in (0, 1))
    assert found["drawn"] == same != other


@pytest.mark.parametrize("name", ["importance_weighted", "accuracy_sampled", "kept_attention", "bleu", "objective"])
def test_a_metric_alone_is_as_among_all(nvae: Run, everything: Evaluation, name: str) -> None:
    alone = nvae.evaluate(SOME, num_particles=2, metrics=[name])
    assert alone[name] == everything[name]


def test_nothing_is_computed_that_no_metric_reads(nvae: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        pytest.fail("computed without need")

    for name in ("reconstruct", "sample", "latent_information", "stacked"):
        monkeypatch.setattr(context_module, name, refused)
    for name in ("log_weights", "distribution"):
        monkeypatch.setattr(context_module.TextDraws, name, refused)
    evaluation = nvae.evaluate(SOME, samples=5, metrics=["bound", "kl", Tokens()])
    assert "reconstructions" not in evaluation.about and evaluation["bound"].value is not None


def test_names_are_those_of_the_results(everything: Evaluation) -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(any(key == name or key.startswith(f"{name}_") for name in names) for key in everything)


def test_metrics_that_do_not_apply_are_left_out(corpus: Corpus) -> None:
    run = untrained(corpus, LanguageModel, None)
    assert list(run.evaluate(SOME, metrics=["kept_alpha", "bleu", "accuracy", "sensitivity"])) == ["accuracy"]


def test_a_guide_with_forward_alone_has_its_bounds(corpus: Corpus) -> None:
    class Standard(Guide):
        def forward(self, batch: Batch) -> None:
            assert batch.mask is not None
            normal = dist.Normal(torch.zeros(*batch.mask.shape, 16), 1.0).to_event(1)
            with self.texts(batch):
                pyro.sample("vectors", normal.mask(batch.mask).to_event(1))

    whole = untrained(corpus, VAE, VAEGuide).evaluate(SOME, num_particles=2)
    evaluation = untrained(corpus, VAE, Standard).evaluate(SOME, num_particles=2)
    assert set(whole) - set(evaluation) == {"accuracy", "bleu", "exact_match", "kept_attention"}
    assert evaluation["bound"].bound_on == "log p(x)" and "reconstructions" not in evaluation.about


class WrongShape(Metric):
    name, label = "wrong", "wrong"

    def measure(self, context: BatchContext) -> Tensor:
        return context.tokens.sum(0)


class InNumpy(Tokens):
    def measure(self, context: BatchContext) -> Any:
        return {"all": super().measure(context).numpy()}


class Nameless(Metric):
    label = "nameless"


class Unlabeled(Metric):
    name = "unlabeled"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["bound", "blue"], "metric is 'blue': choose one of bound, bound_given_length, .*did you mean bleu"),
        ([], "metrics is empty: give at least one metric"),
        ([InNumpy()], "the metric 'tokens' measured values of type ndarray: return tensors"),
        ([Nameless()], "the metric Nameless has no name: set it in the class"),
        ([Unlabeled()], "the metric Unlabeled has no label: set it in the class"),
        ([Tokens(), Tokens()], "two metrics have the name 'tokens': give each of them once"),
        (
            [WrongShape()],
            r"the metric 'wrong' measured values of shape \(.*\) on 7 texts: return one row for each text",
        ),
    ],
)
def test_bad_metrics(nvae: Run, metrics: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nvae.evaluate(SOME, batch_size=7, metrics=metrics)


def test_rows_may_not_depend_on_the_padding(nvae: Run) -> None:
    class Padded(Metric):
        name, label = "padded", "padded"

        def measure(self, context: BatchContext) -> Tensor:
            return context.tokens

    with pytest.raises(ValueError, match=r"the metric 'padded' measured rows of the shapes \(8,\) and \(16,\): return"):
        nvae.evaluate(SOME, batch_size=2, metrics=[Padded()])


def test_a_class_is_no_metric() -> None:
    with pytest.raises(
        ValueError, match="Tokens'> is no metric: give a name or an object of a class derived from Metri"
    ):
        resolve([Tokens])
