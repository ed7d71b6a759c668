"""Export to ArviZ and diagnostics, for models with a known posterior."""

import math
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.diagnostics import as_chains, compare, khat
from pyroformer.inference.posterior.arviz_compat import dataset, pareto_smoothed
from pyroformer.inference.posterior.export import to_arviz
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=30, max_length=12, width=16, layers=2, heads=2, dropout=0.0)
BATCH = Batch.pad([[5, 6, 7, 8, EOS], [9, EOS], [10, 11, 12, EOS]])
SMALL: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts([f"the number {n} is a number." for n in range(200)], max_length=32, vocabulary=270)


def untrained(corpus: Corpus, seed: int = 0) -> Run:
    torch.manual_seed(seed)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SMALL)
    return Run(model.eval(), NVAEGuide(model).eval(), corpus, RunFolder("nowhere"), {}, step=0)


@pytest.fixture(scope="module")
def nvae(corpus: Corpus) -> Run:
    return untrained(corpus)


class Conjugate(nn.Module):
    """An observation of 0.5 for each text, whose mean is random: evidence and posterior are known."""

    def forward(self, batch: Batch) -> None:
        with pyro.plate("texts", 3, dim=-1):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(3), 1.0))
            pyro.sample("text", dist.Normal(mean, 1.0), obs=torch.full((3,), 0.5))


class Guess(nn.Module):
    def __init__(self, mean: float, scale: float) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, batch: Batch) -> None:
        with pyro.plate("texts", 3, dim=-1):
            pyro.sample("mean", dist.Normal(torch.full((3,), self.mean), self.scale))


def test_names_and_shapes_of_a_mixture() -> None:
    torch.manual_seed(0)
    model = NVAE(CONFIG)
    data = to_arviz(model, NVAEGuide(model), BATCH, draws=5, predictive=2)
    posterior = dataset(data, "posterior")
    assert dict(posterior["vectors"].sizes) == {"chain": 1, "draw": 5, "text": 3, "component": 6, "dimension": 16}
    sums = posterior["weights"].sum("component")
    np.testing.assert_allclose(sums, np.ones((1, 5, 3)), atol=1e-5)
    absent = posterior["vectors"].isnull().all("dimension")[0, 0]
    assert absent.values.tolist() == [[False] * 6, [False] * 3 + [True] * 3, [False] * 5 + [True]]
    assert dict(dataset(data, "prior").sizes) == dict(posterior.sizes)
    predictive = dataset(data, "posterior_predictive")
    assert dict(predictive["tokens"].sizes)["draw"] == dict(predictive["length"].sizes)["draw"] == 2
    likelihood = dataset(data, "conditional_log_likelihood")
    np.testing.assert_allclose(likelihood["per_token"].sum("token"), likelihood["per_text"], rtol=1e-4)
    stats = dataset(data, "sample_stats")
    parts = sum(stats[f"log_p_{site}"] for site in ("length", "weights", "vectors", "text"))
    np.testing.assert_allclose(parts, stats["log_p"], rtol=1e-5)


def test_latents_of_layers_are_variables_of_their_own() -> None:
    model = DELLA(CONFIG, latent_size=4)
    posterior = dataset(to_arviz(model, DELLAGuide(model), BATCH, draws=2), "posterior")
    assert {name: values.shape for name, values in posterior.items()} == {"z_1": (1, 2, 3, 4), "z_2": (1, 2, 3, 4)}


def test_the_weights_are_those_of_the_importance_weighted_bound() -> None:
    data = to_arviz(Conjugate(), Guess(0.25, math.sqrt(0.5)), BATCH, draws=40)
    stats = dataset(data, "sample_stats")
    truth = dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(0.5))  # q is the posterior: every weight is p(x)
    np.testing.assert_allclose(stats["log_p"] - stats["log_q"], np.full((1, 40, 3), float(truth)), atol=1e-5)


@pytest.mark.parametrize(("scale", "least", "most"), [(0.9, -2.0, 0.5), (0.25, 0.7, 5.0)])
def test_khat_finds_a_guide_that_is_too_narrow(scale: float, least: float, most: float) -> None:
    result = khat(to_arviz(Conjugate(), Guess(0.25, scale), BATCH, draws=2000))
    assert result.sizes == {"text": 3}
    assert ((result > least) & (result < most)).all()


class Shared(nn.Module):
    """mu ~ N(0, 1), z_i ~ N(mu, 1), x_i ~ N(z_i, 1), and 9 for one of the x: the outlier says most of mu."""

    def forward(self, batch: Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("texts", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(mu.expand(3), 1.0))
            pyro.sample("text", dist.Normal(z, 1.0), obs=torch.tensor([0.0, 0.1, 9.0]))


class SharedGuess(nn.Module):
    """The posterior, with the scale of z multiplied."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, batch: Batch) -> None:
        seen = torch.tensor([0.0, 0.1, 9.0])
        mu = pyro.sample("mu", dist.Normal(seen.sum() / 5, math.sqrt(0.4)))
        with pyro.plate("texts", 3, dim=-1):
            pyro.sample("z", dist.Normal((mu + seen) / 2, self.scale * math.sqrt(0.5)))


def test_khat_of_texts_is_given_what_they_share() -> None:
    fixed: dict[str, Any] = {"draws": 400, "data_size": 3, "fix_global": True}
    assert (khat(to_arviz(Shared(), SharedGuess(), BATCH, **fixed)) == 0).all()
    assert (khat(to_arviz(Shared(), SharedGuess(0.3), BATCH, **fixed)) > 0.5).all()
    data = to_arviz(Shared(), SharedGuess(), BATCH, draws=30, data_size=3)
    assert dataset(data, "posterior")["mu"].std() > 0.3
    with pytest.raises(ValueError, match="'mu' lies outside the plate 'texts', .* give their number as data_size=..."):
        to_arviz(Shared(), SharedGuess(), BATCH)
    with pytest.raises(ValueError, match="all texts share 'mu', so that none .* fix_global=True"):
        khat(data)


class Point(nn.Module):
    def forward(self, batch: Batch) -> None:
        with pyro.plate("texts", 3, dim=-1):
            pyro.sample("mean", dist.Delta(torch.full((3,), 0.25)))


def test_a_point_has_no_khat() -> None:
    with pytest.raises(ValueError, match="the guide is a point at 'mean', so that its draws have no"):
        khat(to_arviz(Conjugate(), Point(), BATCH, draws=30))


def test_pareto_smoothing_is_of_the_largest_weights() -> None:
    rng = np.random.default_rng(0)
    smoothed, shape = pareto_smoothed(rng.exponential(0.6, 4000))  # weights e^x are Pareto with shape 0.6
    assert abs(shape - 0.6) < 0.15
    assert np.exp(smoothed).sum() == pytest.approx(1.0)


def test_a_run_names_texts_and_tokens_and_is_written_and_read(nvae: Run, tmp_path: Path) -> None:
    import arviz

    texts = ["the number 7 is a number.", "the number"]
    data = nvae.posterior(texts, draws=30, predictive=1)
    assert dataset(data, "posterior")["text"].values.tolist() == texts
    pieces = dataset(data, "constant_data")["piece"].sel(text="the number").values
    assert [piece for piece in pieces if piece] == list(nvae.tokenizer.pieces("the number"))
    assert dataset(data, "generated")["texts"].shape == (1, 1, 2)
    data.to_netcdf(tmp_path / "posterior.nc")
    again = arviz.from_netcdf(tmp_path / "posterior.nc")
    for group in ("posterior", "sample_stats", "conditional_log_likelihood", "prior"):
        assert dataset(again, group).equals(dataset(data, group))
    assert khat(again).shape == (2,)


def test_only_the_named_sites_are_exported() -> None:
    model = NVAE(CONFIG)
    data = to_arviz(model, NVAEGuide(model), BATCH, draws=2, sites=["weights"], include_prior=False)
    assert list(dataset(data, "posterior")) == ["weights"]
    assert "log_q_vectors" in dataset(data, "sample_stats")
    again = to_arviz(model, NVAEGuide(model), BATCH, draws=2, sites="weights", include_prior=False)
    assert list(dataset(again, "posterior")) == ["weights"]


def test_half_precision_is_kept_as_floats() -> None:
    model = NVAE(CONFIG)
    guide = NVAEGuide(model)
    with torch.autocast("cpu", torch.bfloat16):
        data = to_arviz(model, guide, BATCH, draws=2)
    assert dataset(data, "posterior")["vectors"].dtype == np.float32


def test_a_run_compared_with_itself_is_no_better(nvae: Run, corpus: Corpus) -> None:
    texts = corpus.test[:4]
    assert compare(nvae, nvae, texts, num_particles=2).difference == 0
    result = compare(nvae, untrained(corpus, seed=1), texts, num_particles=2)
    assert result.difference == pytest.approx(result.each.mean())
    assert result.error == pytest.approx(result.each.std(ddof=1) / 2)


MODEL = NVAE(CONFIG)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"draws": 0}, "draws is 0: give a whole number of at least 1"),
    ({"draws": 3.5}, "draws is 3.5: give a whole number, such as 4"),
    ({"draws": "3"}, "draws is '3', a str: give a number"),
    ({"draws": 2, "predictive": 3}, "predictive is 3, but there are 2 draws to decode from"),
    ({"sites": ["z"]}, "there is no latent site 'z': choose among weights, vectors"),
    ({"draws": 10**7}, r"draws of 3 texts would take [\d.]+ GiB, more than 1.00 GiB: .*, or max_bytes=\d+\.$"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:20] for _, message in REFUSED])
def test_invalid_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        to_arviz(MODEL, NVAEGuide(MODEL), BATCH, **options)


def test_the_size_that_a_refusal_names_is_enough() -> None:
    with pytest.raises(ValueError, match="GiB, more than 0.00 GiB") as error:
        to_arviz(MODEL, NVAEGuide(MODEL), BATCH, draws=2, max_bytes=99)
    size = int(str(error.value).rpartition("max_bytes=")[2].rstrip("."))
    to_arviz(MODEL, NVAEGuide(MODEL), BATCH, draws=2, max_bytes=size)
    with pytest.raises(ValueError, match=rf"or max_bytes={size}\.$"):
        to_arviz(MODEL, NVAEGuide(MODEL), BATCH, draws=2, max_bytes=size - 1)


def test_no_posterior(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="the batch is unobserved: a posterior is one of texts"):
        to_arviz(MODEL, NVAEGuide(MODEL), Batch.unobserved(2))
    plain = Run(LanguageModel.for_corpus(corpus, **SMALL), None, corpus, RunFolder("nowhere"), {}, step=0)
    with pytest.raises(ValueError, match="a LanguageModel has no latents, so no posterior to draw from"):
        plain.posterior("the number")


def test_invalid_diagnostics(nvae: Run) -> None:
    data = nvae.posterior("the number", draws=5)
    with pytest.raises(ValueError, match="there are 5 draws: k-hat needs at least 25"):
        khat(data)
    with pytest.raises(ValueError, match="there is no latent site 'z': choose among vectors, weights"):
        khat(data, "z")
    with pytest.raises(ValueError, match="there is no group 'loo' in the data"):
        dataset(data, "loo")
    with pytest.raises(ValueError, match="there are 1 texts: a standard error needs at least 2"):
        compare(nvae, nvae, ["the number"])


def test_tokens_of_a_single_text_are_coordinates(nvae: Run) -> None:
    data = nvae.posterior("the number the", draws=3, predictive=2)
    pieces = list(nvae.tokenizer.pieces("the number the"))
    labels = dataset(data, "posterior")["component"].values.tolist()
    assert labels[0] == "prior" and len(labels) == len(set(labels)) == len(pieces) + 1
    assert [label.removesuffix(" (2)") for label in labels[1:]] == pieces
    assert dataset(data, "conditional_log_likelihood")["token"].values.tolist() == labels[1:]
    assert dataset(data, "posterior_predictive")["token"].dtype.kind == "i", "generated texts have other tokens"
    several = dataset(nvae.posterior(["the number", "the"], draws=2), "posterior")
    assert several["component"].values.tolist() == list(range(several.sizes["component"]))


def test_nothing_of_a_single_text_is_padding(nvae: Run) -> None:
    data = nvae.posterior("the number 7", draws=3)
    for group in ("posterior", "prior", "conditional_log_likelihood"):
        assert not any(values.isnull().any() for values in dataset(data, group).values())


def test_observed_and_generated_texts_have_the_same_names(nvae: Run) -> None:
    texts = ["the number", "the number 12 is a number."]
    data = nvae.posterior(texts, draws=6, predictive=4)
    observed, predictive = dataset(data, "observed_data"), dataset(data, "posterior_predictive")
    assert set(observed) == set(predictive) == {"tokens", "length"}, "numbers alone, which predictive checks compare"
    assert observed["length"].values.tolist() == [len(ids) for ids in nvae.tokenizer.encode_batch(texts)]
    for ids, length, text in zip(
        predictive["tokens"].values.reshape(-1, predictive.sizes["token"]),
        predictive["length"].values.ravel(),
        dataset(data, "generated")["texts"].values.ravel(),
        strict=True,
    ):
        assert (ids[length:] == 0).all() and ids[length - 1] != 0
        assert nvae.tokenizer.decode_batch(torch.from_numpy(ids[None])) == [text]


def test_arviz_finds_what_a_predictive_check_compares(nvae: Run) -> None:
    import arviz
    import matplotlib.pyplot as plt

    data = nvae.posterior(["the number", "the number 12 is a number."], draws=6, predictive=4)
    if hasattr(arviz, "plot_ppc"):
        arviz.plot_ppc(data, var_names=["length"])
    else:
        arviz.plot_ppc_interval(data, var_names=["length"])
    assert plt.get_fignums()
    plt.close("all")


def test_draws_of_two_seeds_can_be_joined(nvae: Run) -> None:
    fits = [nvae.posterior("the number 7", draws=4, seed=seed) for seed in (0, 1)]
    both = dataset(as_chains(fits), "posterior")
    assert both.sizes["chain"] == 2 and both.sizes["draw"] == 4 and both.sizes["text"] == 1
    for chain, fit in enumerate(fits):
        assert (both["vectors"].isel(chain=chain).values == dataset(fit, "posterior")["vectors"].values[0]).all()


def test_every_group_names_the_run(nvae: Run) -> None:
    data = nvae.posterior("the number", draws=2, seed=5)
    for group in ("posterior", "prior", "conditional_log_likelihood", "sample_stats", "observed_data", "constant_data"):
        attributes = dataset(data, group).attrs
        assert (attributes["seed"], attributes["step"], attributes["run"]) == (5, 0, "nowhere")


def test_the_variables_that_leave_one_out_would_take_warn_of_it(nvae: Run) -> None:
    likelihood = dataset(nvae.posterior("the number", draws=2), "conditional_log_likelihood")
    for name in ("per_text", "per_token"):
        assert likelihood[name].attrs["warning"].startswith("no leave-one-out or WAIC")


def test_khats_say_what_they_mean(nvae: Run) -> None:
    data = nvae.posterior("the number", draws=30)
    assert "above 0.7 it is unreliable" in khat(data).attrs["reading"]
    assert "does not say how good the guide is" in khat(data, "vectors").attrs["reading"]
