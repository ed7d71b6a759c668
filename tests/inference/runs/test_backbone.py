"""Runs of language models as starts of other models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.inference.runs.backbone import backbone_of


def corpus() -> pf.Corpus:
    return pf.Corpus.from_texts([f"{n} and then {n + 1}" for n in range(60)], vocabulary=280, max_length=24)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a language model with adapters, away from where these start."""
    texts, folder = corpus(), tmp_path_factory.mktemp("lm")
    first = pf.fit(pf.LanguageModel.for_corpus(texts, width=16, layers=1), None, texts, steps=1, progress=False)
    model = pf.LanguageModel.for_corpus(texts, backbone=first.backbone, train="lora", adapter_rank=2)
    run = pf.fit(model, None, texts, out=folder / "run", steps=2, learning_rate=0.1, progress=False)
    moved = [p for name, p in run.model.named_parameters() if "adapter_up" in name]
    assert moved and all(p.abs().max() > 0 for p in moved)
    return run


@torch.no_grad()
def test_adapters_are_merged(adapted: Any) -> None:
    backbone = backbone_of(adapted)
    assert backbone.config.adapter_rank == 0 and not any("adapter" in name for name in backbone.weights)
    texts = list(adapted.corpus.test[:3])
    model = pf.LanguageModel.for_corpus(adapted.corpus, backbone=backbone).eval()
    batch = pf.Batch.pad([adapted.tokenizer.encode(text) for text in texts])
    expected = torch.as_tensor(adapted.bound(texts, progress=False))
    actual = model.likelihood(mask=batch.mask).log_prob(batch.tokens)
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=1e-4)


def test_texts_of_as_many_other_tokens_are_refused(adapted: Any) -> None:
    other = pf.Corpus.from_texts([f"{n} oder auch {n + 1}" for n in range(60)], vocabulary=280, max_length=24)
    assert other.vocabulary == adapted.corpus.vocabulary
    for options in ({}, {"base_measure": "language_model", "train": "latents"}):
        with pytest.raises(ValueError, match="the texts have other tokens than .*/run: read them with its tokenizer"):
            pf.VAE.for_corpus(other, backbone=adapted.backbone, **options)
    pairs = [(("odd", "even")[n % 2], str(n)) for n in range(60)]
    labeled = pf.Corpus.from_texts(pairs, max_length=16, tokenizer=adapted.tokenizer)
    model = pf.DELLA.for_corpus(labeled, backbone=adapted.backbone, latent_size=4)
    assert model.config.vocabulary == adapted.corpus.vocabulary + 2


def test_only_softmax_attention_is_a_start() -> None:
    texts = corpus()
    model = pf.LanguageModel.for_corpus(texts, width=16, layers=1, heads=2, attention="probabilistic")
    run = pf.fit(model, None, texts, steps=1, progress=False)
    with pytest.raises(ValueError, match="it has attention probabilistic, and only a language model with softmax"):
        backbone_of(run)


def test_adapters_need_a_rank_and_softmax_attention(adapted: Any) -> None:
    backbone = replace(adapted.backbone, config=replace(adapted.backbone.config, positions="sinusoidal"))
    for options, message in (
        ({"adapter_rank": 0}, "adapter_rank is 0, which is no adapters, and train is lora"),
        ({"attention": "probabilistic"}, "train is lora, whose adapters only softmax attention has"),
    ):
        with pytest.raises(ValueError, match=message):
            pf.LanguageModel.for_corpus(adapted.corpus, backbone=backbone, train="lora", **options)


def test_the_run_stays_as_it_was(adapted: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in adapted.model.named_parameters()}
    pf.VAE.for_corpus(adapted.corpus, backbone=adapted.backbone, base_measure="language_model", train="lora")
    assert all(torch.equal(value, before[name]) for name, value in adapted.model.named_parameters())
