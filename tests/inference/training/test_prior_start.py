"""A prior that starts at posterior means: when it is started, where, and that a resumed run keeps its start."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.guides.base import Guide
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.fit_prior import fit_prior, prior_for_run
from pyroformer.inference.training.prior_start import start_prior
from pyroformer.models.priors.sequence.codebook import CodebookVectorPrior

TEXTS = [f"{'One' if n % 3 else 'No'} {n % 43}." for n in range(120)]
QUICK: dict[str, Any] = {"batch_size": 16, "validations": 1, "objective": "elbo"}


@pytest.fixture(scope="module")
def corpus() -> pf.Corpus:
    return pf.Corpus.from_texts(TEXTS, vocabulary=270, max_length=16)


def made(corpus: pf.Corpus, name: str = "vae") -> tuple[Any, Any]:
    torch.manual_seed(0)
    own = int(name == "nvae")
    sizes: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.2}
    prior = CodebookVectorPrior(16, entries=24, layers=1, heads=2, samples_per_component=own)
    if name == "nvae":
        nvae = pf.NVAE.for_corpus(corpus, base_measure=prior, **sizes)
        return nvae, pf.NVAEGuide(nvae)
    vae = pf.VAE.for_corpus(corpus, base_measure=prior, **sizes)
    return vae, pf.VAEGuide(vae)


@torch.no_grad()
def distance(model: Any, guide: Any, corpus: pf.Corpus) -> float:
    """Root mean square distance of held-out texts' posterior means from the nearest entry."""
    batch = next(corpus.batches("valid", batch_size=8))
    posterior = guide.eval().encode(batch)
    own = getattr(model, "samples_per_component", 0)
    mask = posterior.mask.clone()
    mask[:, :own] = False
    return float(torch.cdist(posterior.mean[mask], model.base_measure.mean).min(-1).values.square().mean().sqrt())


@pytest.mark.parametrize("name", ["vae", "nvae"])
def test_the_entries_lie_where_the_posteriors_are(corpus: pf.Corpus, name: str) -> None:
    model, guide = made(corpus, name)
    before, state = distance(model, guide, corpus), torch.get_rng_state()
    assert start_prior(model.train(), guide.train(), corpus)
    assert torch.equal(state, torch.get_rng_state()), "training draws the same numbers with and without it"
    assert model.training and guide.training and model.decoder.training
    assert distance(model, guide, corpus) < 0.5 * before


def test_the_start_is_a_function_of_the_seed(corpus: pf.Corpus) -> None:
    entries = []
    for seed in (0, 0, 1):
        model, guide = made(corpus)
        start_prior(model, guide, corpus, seed)
        entries.append(model.base_measure.mean.detach())
    assert torch.equal(entries[0], entries[1]) and not torch.equal(entries[0], entries[2])


def test_fit_starts_a_new_run_and_no_other(corpus: pf.Corpus, tmp_path: Path) -> None:
    model, guide = made(corpus)
    run = fit(model, guide, corpus, steps=1, learning_rate=1e-9, out=tmp_path, **QUICK)
    assert not run.model.base_measure.wants_start
    started = model.base_measure.mean.detach().clone()
    expected, same = made(corpus)
    start_prior(expected, same, corpus)
    torch.testing.assert_close(started, expected.base_measure.mean.detach(), atol=1e-6, rtol=0.0)
    again = fit(model, guide, corpus, steps=1, learning_rate=1e-9, **QUICK)
    base: Any = again.model.base_measure
    torch.testing.assert_close(base.mean.detach(), started, atol=1e-6, rtol=0.0)
    other, its = made(corpus)
    resumed = fit(other, its, corpus, steps=1, learning_rate=1e-9, out=tmp_path, resume=True, **QUICK)
    base = resumed.model.base_measure
    torch.testing.assert_close(base.mean.detach(), started, atol=1e-6, rtol=0.0)


def test_the_second_stage_starts_at_the_posterior_of_the_first(corpus: pf.Corpus) -> None:
    torch.manual_seed(0)
    model = pf.NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    first = fit(model, pf.NVAEGuide(model), corpus, steps=40, learning_rate=1e-2, beta=0.01, **QUICK)
    prior = prior_for_run(first, "codebook", entries=24, layers=1, heads=2)
    quick = {name: value for name, value in QUICK.items() if name != "objective"}
    second = fit_prior(first, prior, steps=40, learning_rate=1e-2, **quick)
    assert distance(second.model, second.guide, corpus) < 1
    texts = corpus.test[:]
    assert second.bound(texts, num_particles=1).mean() > first.bound(texts, num_particles=1).mean() + 10
    assert second.config["trained"] == ["model.base_measure"]


class Blind(Guide):
    """A guide that only draws, as one that a user begins with."""


def test_a_guide_that_does_not_encode_leaves_the_prior_as_it_was_made(corpus: pf.Corpus) -> None:
    model, _ = made(corpus)
    assert not start_prior(model, Blind(model), corpus)
    assert model.base_measure.wants_start
    assert not start_prior(pf.LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2), None, corpus)
