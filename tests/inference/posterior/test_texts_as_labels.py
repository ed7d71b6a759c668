"""Any text can label a posterior: equal ones, and ones that NumPy and NetCDF cannot hold."""

from pathlib import Path
from typing import Any

import arviz
import jaxtyping
import numpy as np
import pytest
import torch

from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.diagnostics import khat, loo
from pyroformer.inference.posterior.arviz_compat import dataset, pareto_smoothed
from pyroformer.inference.posterior.export import to_arviz
from pyroformer.inference.posterior.labels import storable, unique_labels
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.vae import VAE

SCHEMA = {"created_at", "inference_library", "inference_library_version", "seed", "model", "guide", "draws_are"}


@pytest.fixture(scope="module")
def run() -> Run:
    corpus = Corpus.from_texts([f"number {n} of many" for n in range(40)], vocabulary=265, max_length=24)
    torch.manual_seed(0)
    model = VAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    return Run(model.eval(), VAEGuide(model).eval(), corpus, RunFolder("nowhere"), {}, 0)


def test_equal_texts_have_labels_of_their_own(run: Run) -> None:
    texts = ["ok", "I do.", "ok", "ok (2)", "ok"]
    data = run.posterior(texts, draws=3)
    assert dataset(data, "posterior")["text"].values.tolist() == ["ok", "I do.", "ok (3)", "ok (2)", "ok (4)"]
    for group in ("posterior", "conditional_log_likelihood", "observed_data", "constant_data"):
        assert dataset(data, group)["string"].values.tolist() == texts
    name = next(iter(dataset(data, "posterior").data_vars))
    rows = arviz.summary(data, var_names=[name], kind="stats")
    assert len(rows) == dataset(data, "posterior")[name][0, 0].size
    assert dataset(data, "posterior").sel(text="ok").sizes.get("text") is None


def test_labels_are_the_texts_where_they_differ(run: Run) -> None:
    data = run.posterior(["a", "b"], draws=2)
    assert dataset(data, "posterior")["text"].values.tolist() == ["a", "b"]
    assert "string" not in dataset(data, "posterior").coords
    assert unique_labels(["a", "a (2)", "a", "a"]) == ["a", "a (2)", "a (3)", "a (4)"]


def test_nul_characters_are_written_as_escapes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(run.tokenizer), "decode_batch", lambda self, rows: ["a\0b" for _ in rows])
    data = run.posterior(["nul\0end", "\0"], draws=2, predictive=2)
    data.to_netcdf(tmp_path / "posterior.nc")
    assert dataset(data, "posterior")["text"].values.tolist() == [r"nul\x00end", r"\x00"]
    pieces = [piece for piece in dataset(data, "constant_data")["piece"].values[0].tolist() if piece != "<eos>"]
    assert "".join(pieces) == r"nul\x00end"
    assert set(dataset(data, "generated")["texts"].values.ravel()) == {r"a\x00b"}
    assert storable("plain") == "plain"


def test_attributes_say_what_made_the_data_and_that_leave_one_out_does_not_apply(run: Run) -> None:
    data = run.posterior(["a"], draws=2, seed=7)
    assert set(data.attrs) >= SCHEMA
    assert data.attrs["inference_library"] == "pyroformer"
    for group in ("posterior", "sample_stats"):
        assert set(dataset(data, group).attrs) >= SCHEMA
        assert dataset(data, group).attrs["seed"] == 7
    assert "no leave-one-out or WAIC from this group" in dataset(data, "conditional_log_likelihood").attrs["warning"]
    assert "warning" not in dataset(data, "posterior").attrs


def test_arviz_refuses_leave_one_out_where_a_latent_is_local(run: Run) -> None:
    data = run.posterior(["a", "b"], draws=30)
    for options in ({}, {"var_name": "per_text"}):
        with pytest.raises(TypeError, match="log likelihood not found"):
            arviz.loo(data, **options)
    with pytest.raises(ValueError, match="vectors is local to each text"):
        loo(data)


@pytest.mark.parametrize("spread", [0.0, 1e-4])
def test_khat_of_an_exact_guide_is_the_best_value(spread: float) -> None:
    log_weights = -3e3 + spread * (np.arange(200) % 2)
    smoothed, shape = pareto_smoothed(log_weights)
    assert shape == 0.0
    assert np.exp(smoothed).sum() == pytest.approx(1)


@pytest.mark.parametrize("rare", [0, 1, 4, 60, 199])
def test_khat_of_two_values(rare: int) -> None:
    """A largest weight that fills the tail bounds the variance; one that a few draws have says nothing of a tail."""
    log_weights = np.r_[np.full(200 - rare, -3.0), np.full(rare, -2.0)]
    smoothed, shape = pareto_smoothed(np.random.default_rng(0).permutation(log_weights))
    assert shape == (0.0 if rare in (0, 60, 199) else np.inf)
    assert np.exp(smoothed).sum() == pytest.approx(1)


@pytest.mark.parametrize("last", [np.nan, np.inf])
def test_khat_of_weights_that_are_none_is_the_worst(last: float) -> None:
    assert pareto_smoothed(np.r_[np.full(199, -3.0), last])[1] == np.inf


def test_khat_of_a_collapsed_site_is_zero(run: Run) -> None:
    data = run.posterior(["a", "b"], draws=30)
    stats = dataset(data, "sample_stats")
    site = next(str(name).removeprefix("log_q_") for name in stats if str(name).startswith("log_q_"))
    data["sample_stats"][f"log_q_{site}"] = stats[f"log_p_{site}"] + 1e-4 * (np.arange(30)[:, None] % 2)
    assert khat(data, site).values.tolist() == [0.0, 0.0]


def test_a_tensor_is_no_batch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    wrong: Any = torch.zeros(3, 2)
    assert run.guide is not None
    with pytest.raises(
        ValueError, match="batch is a Tensor: give a Batch, or for a model whose latents are all global"
    ):
        to_arviz(run.model, run.guide, wrong)
