"""A run on another device does everything that it does on the CPU, with the same results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_device import NAME, other_device
from training_there import train_there

import pyroformer as pf
from pyroformer.models.batch import Batch
from pyroformer.models.priors.named import named_prior
from pyroformer.models.transformer.config import TransformerConfig

NETWORK = {"width": 16, "layers": 1, "heads": 2}
PUBLISHED = {"base_measure": "gaussian", "presence": 0.5}
SYSTEMS: dict[str, Callable[[pf.Corpus], tuple[Any, Any]]] = {
    "lm": lambda corpus: (pf.LanguageModel.for_corpus(corpus, **NETWORK), None),
    "vae": lambda corpus: with_guide(pf.VAE.for_corpus(corpus, **NETWORK), pf.VAEGuide),
    "nvae": lambda corpus: with_guide(pf.NVAE.for_corpus(corpus, **PUBLISHED, **NETWORK), pf.NVAEGuide),
    "della": lambda corpus: with_guide(pf.DELLA.for_corpus(corpus, latent_size=4, **NETWORK), pf.DELLAGuide),
}


def with_guide(model: Any, guide: Callable[[Any], Any]) -> tuple[Any, Any]:
    return model, guide(model)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_on_another_device_has_the_results_of_the_cpu(tmp_path: Path, name: str) -> None:
    corpus = pf.Corpus.from_texts([f"{n} is even." for n in range(0, 100, 2)], max_length=16)
    run = pf.fit(*SYSTEMS[name](corpus), corpus, steps=2, batch_size=8, progress=False, out=tmp_path / "run")
    expected = everything(run)
    with other_device() as device:
        moved = pf.load(tmp_path / "run", device=NAME)
        assert {parameter.device.type for parameter in moved.model.parameters()} == {NAME}
        found = everything(moved)
        assert device.waits  # results are Python's numbers and NumPy's arrays
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("prior", ["autoregressive", "mixture"])
def test_a_second_stage_follows_a_first_that_was_trained_there(monkeypatch: pytest.MonkeyPatch, prior: str) -> None:
    corpus = pf.Corpus.from_texts([f"{n} is even." for n in range(0, 100, 2)], max_length=16)
    train_there(monkeypatch)
    with other_device():
        model = pf.NVAE.for_corpus(corpus, base_measure="gaussian", **NETWORK)
        run = pf.fit(model, pf.NVAEGuide(model), corpus, steps=2, batch_size=8, progress=False)
        again = pf.fit_prior(run, prior, steps=2, batch_size=8, progress=False)
        devices = {parameter.device.type for part in (run, again) for parameter in part.model.parameters()}
        assert devices == {NAME}


@pytest.mark.parametrize("prior", ["gaussian", "mixture", "autoregressive", "codebook", "tokens"])
def test_a_model_is_built_with_a_prior_that_is_there(prior: str) -> None:
    config = TransformerConfig(vocabulary=30, max_length=12, **NETWORK)
    with other_device():
        for kind, own in ((pf.NVAE, 1), (pf.VAE, 0)):
            model = kind(config, base_measure=named_prior(prior, config, own).to(NAME)).to(NAME)
            assert model(Batch.unobserved(2, like=model.decoder.embedding.tokens.weight)).device.type == NAME


def everything(run: pf.Run) -> dict[str, Any]:
    """Results of what a run can do, as text and arrays."""
    texts = [run.corpus.test[0], run.corpus.test[1]]
    evaluation = run.evaluate(texts, num_particles=2, progress=False)
    values = {name: evaluation[name].value for name in evaluation}
    results: dict[str, Any] = {name: np.array(value) for name, value in values.items() if value is not None}
    results |= {"samples": run.sample(2, seed=0), "bound": run.bound(texts).detach().cpu().numpy()}
    if run.guide is None:
        return results
    results["reconstructions"] = [one.text for one in run.reconstruct(texts)]
    results["interpolation"] = run.interpolate(*texts, 2)
    data = run.posterior(texts, draws=2)
    results |= {f"posterior of {name}": data.posterior[name].to_numpy() for name in data.posterior}
    results |= {f"{name} of draws": data.sample_stats[name].to_numpy() for name in ("log_p", "log_q")}
    if isinstance(run.model, pf.DELLA):
        results["swapped"] = run.swap(*texts, [1])
    if isinstance(run.model, pf.NVAE):
        results["edited"] = run.edit(texts[0], drop=[2]).text
    return results
