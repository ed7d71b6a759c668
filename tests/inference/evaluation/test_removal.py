"""Vectors that are kept: counted as they are decoded from, and accuracy without the others."""

import math
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.run import Run
from pyroformer.inference.training.fit import fit
from pyroformer.models.attention.editing import compacted

TEXTS = [f"The number {n} follows {n - 1}." for n in range(1, 61)]
NAMES = ["kept", "accuracy", "accuracy_kept"]


def trained(alpha: Any, samples_per_component: int = 1) -> Run:
    torch.manual_seed(0)
    corpus = Corpus.from_texts(TEXTS, vocabulary=270, max_length=32)
    model = pf.NVAE.for_corpus(
        corpus, base_measure="gaussian", width=16, layers=1, heads=2, samples_per_component=samples_per_component
    )
    return fit(model, NVAEGuide(model, alpha=alpha), corpus, steps=4, batch_size=8)


@pytest.fixture(scope="module", params=[("relu", 1), ("relu", 2), ("linear", 1)], ids=str)
def run(request: pytest.FixtureRequest) -> Run:
    return trained(*request.param)


def test_counts_the_vectors_that_are_not_switched_off(run: Run) -> None:
    assert isinstance(run.guide, NVAEGuide)
    evaluation = run.evaluate(TEXTS[:5], metrics=NAMES)
    posterior = run.encode(TEXTS[:5])
    each = posterior.samples_per_component
    kept = posterior.kept.sum(-1) / each - 1
    lengths = torch.tensor([len(run.tokenizer.encode(text)) for text in TEXTS[:5]])
    assert evaluation["kept"]["vectors"] == pytest.approx(each * float(kept.mean()))
    assert evaluation["kept"]["of the text's"] == pytest.approx(float((kept / lengths).mean()))
    assert (evaluation["kept"]["of the text's"] == 1) == (run.guide.alpha.form == "linear")
    assert "accuracy_kept" not in evaluation  # it is the accuracy: nothing else is removed
    assert evaluation["kept"].label == "vectors kept"


def test_what_is_counted_is_what_is_decoded_from(run: Run) -> None:
    """The accuracy of the compacted mixture, text by text."""
    whole = run.encode(TEXTS[:3])
    each = whole.samples_per_component
    weights = whole.token_weights()
    ordered = weights[weights > 0].sort().values
    middle = len(ordered) // 2
    least = float(ordered[middle - 1 : middle + 1].mean()) / each  # half of those that are not off weigh less
    evaluation = run.evaluate(TEXTS[:3], metrics=NAMES, min_weight=least)
    hits = tokens = kept = 0
    for text in TEXTS[:3]:
        batch = run.batch([text])
        assert batch.tokens is not None and batch.mask is not None
        memory = compacted(run.encode([text]).memory(), least, keep=each)
        kept += int(memory.present.sum()) - each
        with torch.no_grad():
            predicted: Any = run.model.likelihood(memory, batch.mask)
            hits += int(((predicted.likelihood(batch.tokens).predicted() == batch.tokens) & batch.mask).sum())
        tokens += int(batch.mask.sum())
    assert evaluation["accuracy_kept"].value == pytest.approx(hits / tokens)
    assert evaluation["kept"]["vectors"] == pytest.approx(kept / 3)
    assert f"vectors kept, of weight {least:g} or more" in evaluation.table()
    assert f"mean posterior without vectors below {least:g}" in evaluation.table()


def test_nothing_may_be_kept() -> None:
    run = trained("relu")
    assert isinstance(run.guide, NVAEGuide)
    with torch.no_grad():
        run.guide.alpha.linear.weight.zero_()
        run.guide.alpha.linear.bias.fill_(-1.0)
    evaluation = run.evaluate(TEXTS[:5], metrics=NAMES)
    assert evaluation["kept"]["vectors"] == 0 and evaluation["kept"]["of the text's"] == 0
    assert evaluation["accuracy"].value is not None and math.isfinite(evaluation["accuracy"].value)


def test_a_run_without_a_mixture_has_no_such_metric() -> None:
    corpus = Corpus.from_texts(TEXTS, vocabulary=270, max_length=32)
    model = pf.VAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    run = fit(model, pf.VAEGuide(model), corpus, steps=2, batch_size=8)
    assert list(run.evaluate(TEXTS[:5], metrics=NAMES)) == ["accuracy"]
