"""Perplexities of generated texts under a language model, and of a language model trained on them."""

import random
from typing import Any

import pytest

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.diagnostics.lm_perplexity import forward_perplexity, reverse_perplexity
from pyroformer.inference.objectives.registry import describe_objective
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE

SMALL = {"width": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts([f"the number {n} is a number." for n in range(200)], max_length=24, vocabulary=270)


@pytest.fixture(scope="module")
def lm(corpus: Corpus) -> Run:
    return untrained(LanguageModel.for_corpus(corpus, **SMALL), None, corpus)


@pytest.fixture(scope="module")
def nvae(corpus: Corpus) -> Run:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SMALL)
    return untrained(model, NVAEGuide(model), corpus)


def untrained(model: Any, guide: Any, corpus: Corpus) -> Run:
    config = {"objective": describe_objective(model, TrainingOptions())}
    return Run(model.eval(), guide, corpus, RunFolder("nowhere"), config, step=0)


def test_forward_is_the_likelihood_under_the_language_model(lm: Run) -> None:
    texts = lm.corpus.test[:8]
    metric = forward_perplexity(lm, [*texts, "", "  "])
    expected = lm.bound(texts)
    assert metric["nats/text"] == pytest.approx(-float(expected.mean()), rel=1e-5)
    assert "(2 blank ones left out)" in metric.label
    assert metric.bounds == "not a bound"


def test_a_model_with_latents_is_refused(nvae: Run) -> None:
    with pytest.raises(ValueError, match="a NVAE has latents, so that it only bounds log p"):
        forward_perplexity(nvae, ["a text"])


def test_blank_texts_alone_are_refused(lm: Run) -> None:
    with pytest.raises(ValueError, match="0 of 2 texts are not blank: give at least 1"):
        forward_perplexity(lm, ["", " "])


def test_too_few_texts_teach_nothing(lm: Run) -> None:
    with pytest.raises(ValueError, match="5 of 5 texts are not blank: give at least 20"):
        reverse_perplexity(["a"] * 5, lm.corpus)


def test_texts_like_the_real_ones_teach_more_than_their_words_in_disorder() -> None:
    chance = random.Random(0)
    subjects, verbs, objects = ("the cat", "a dog", "my aunt"), ("sees", "hears", "likes"), ("a bird", "the sea", "tea")
    real = [f"{chance.choice(subjects)} {chance.choice(verbs)} {chance.choice(objects)}." for _ in range(400)]
    disorder = [" ".join(chance.sample(text.split(), len(text.split()))) for text in real[:200]]
    corpus = Corpus.from_texts(
        {"train": real[:200], "valid": real[200:300], "test": real[300:]}, max_length=16, vocabulary=270
    )
    options = {
        "steps": 30,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "validations": 1,
        "network": {"width": 32, "layers": 1, "heads": 2},
        "compile": "off",
    }
    taught = [reverse_perplexity(texts, corpus, **options)["nats/token"] or 0.0 for texts in (real[:200], disorder)]
    assert taught[0] < taught[1] - 0.1
