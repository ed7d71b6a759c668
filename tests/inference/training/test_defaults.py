"""Training options that the model and the objective decide: the same in Python and on the command line."""

import inspect
from pathlib import Path
from typing import Any

import pytest

import pyroformer as pf
from pyroformer.inference.objectives.importance_weighted import ImportanceWeighted
from pyroformer.inference.training.defaults import with_defaults

CORPUS = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], vocabulary=270, max_length=32)
SIZES: dict[str, Any] = {"width": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def backbone() -> pf.Pretrained:
    lm = pf.LanguageModel.for_corpus(CORPUS, **SIZES)
    return pf.fit(lm, None, CORPUS, steps=1, progress=False).backbone


@pytest.mark.parametrize(("train", "rate"), [("all", 1e-4), ("latents", 1e-3), ("lora", 1e-3)])
def test_a_model_that_starts_from_a_backbone_is_fine_tuned(backbone: pf.Pretrained, train: Any, rate: float) -> None:
    model = pf.DELLA.for_corpus(CORPUS, backbone=backbone, train=train)
    run = pf.fit(model, pf.DELLAGuide(model), CORPUS, steps=1, progress=False)
    assert run.config["training"]["learning_rate"] == rate
    assert with_defaults(model, {"learning_rate": 0.01})["learning_rate"] == 0.01


def test_a_model_from_scratch_is_not() -> None:
    run = pf.fit(pf.LanguageModel.for_corpus(CORPUS, **SIZES), None, CORPUS, steps=1, progress=False)
    assert run.config["training"]["learning_rate"] == 2e-3


def test_a_second_stage_trains_its_prior_from_scratch(backbone: pf.Pretrained, tmp_path: Path) -> None:
    model = pf.VAE.for_corpus(CORPUS, backbone=backbone, base_measure="gaussian")
    run = pf.fit(model, pf.VAEGuide(model), CORPUS, steps=1, progress=False)
    assert run.config["training"]["learning_rate"] == 1e-4
    second = pf.fit_prior(run, "mixture", steps=1, progress=False)
    assert second.config["training"]["learning_rate"] == 2e-3
    pf.fit_prior(run, "mixture", out=tmp_path, steps=1, learning_rate=0.01, progress=False)
    resumed = pf.fit_prior(run, "mixture", out=tmp_path, resume=True, steps=2, progress=False)
    assert resumed.config["training"]["learning_rate"] == 0.01, "as it began"


@pytest.mark.parametrize("objective", ["iw", ImportanceWeighted])
def test_the_importance_weighted_objective_has_several_draws(objective: Any) -> None:
    model = pf.DELLA.for_corpus(CORPUS, **SIZES)
    run = pf.fit(model, pf.DELLAGuide(model), CORPUS, objective=objective, steps=1, progress=False, num_particles=None)
    assert run.config["training"]["num_particles"] == run.config["objective"]["num_particles"] == 8
    assert with_defaults(model, {"objective": "elbo"}) == {"objective": "elbo"}


def test_the_signature_of_fit_does_not_name_them() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(pf.fit).parameters.items()}
    assert defaults["learning_rate"] is None and defaults["num_particles"] is None and defaults["batch_size"] == 32
