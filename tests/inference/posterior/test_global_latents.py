"""The posterior of latents that all observations share, as ArviZ expects it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import Gamma
from pyro.infer.autoguide import AutoNormal

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.inference.diagnostics import as_chains
from pyroformer.inference.posterior.arviz_compat import dataset, group_names
from pyroformer.inference.posterior.draws import dimension_names
from pyroformer.inference.posterior.global_latents import global_posterior
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.mixture_attention.model import MixtureAttention
from pyroformer.models.priors.components import DirichletProcess


def test_sites_have_named_dimensions_and_no_auxiliary_one_is_exported() -> None:
    mixture = Mixture(torch.zeros(3).log_softmax(-1), torch.randn(3, 2), noise_variance=1.0)
    model, queries = MixtureAttention.conjugate(mixture), torch.randn(9, 2)
    data = global_posterior(model, Automatic(model, AutoNormal), queries, plate="tokens", draws=4)
    for group in ("posterior", "prior"):
        assert {name: values.dims for name, values in dataset(data, group).items()} == {
            "keys": ("chain", "draw", "component", "dimension")
        }
    observed = dataset(data, "observed_data")
    assert [values.shape for values in observed.values()] == [(9, 2)]
    assert all(values.dims[0] == "observation" for values in observed.values())
    torch.testing.assert_close(torch.from_numpy(next(iter(observed.values())).values), queries)


def test_arviz_draws_traces_and_finds_the_chains_of_a_mixture() -> None:
    """ArviZ 1 fails at dimensions that have no coordinate."""
    import arviz
    import matplotlib.pyplot as plt

    mixture = Mixture(torch.zeros(3).log_softmax(-1), torch.randn(3, 2), noise_variance=1.0)
    model, queries = MixtureAttention.conjugate(mixture), torch.randn(9, 2)
    guide = Automatic(model, AutoNormal)
    fits = [global_posterior(model, guide, queries, plate="tokens", draws=20, seed=seed) for seed in (0, 1)]
    for data in (fits[0], as_chains(fits)):
        for group in group_names(data):
            content = dataset(data, group)
            assert all((content[dim].values == np.arange(size)).all() for dim, size in content.sizes.items())
            assert set(content.sizes) == set(content.coords), group
        arviz.plot_trace(data, var_names=["keys"])
        arviz.plot_autocorr(data, var_names=["keys"])
    plt.close("all")


def test_precisions_are_one_for_each_component() -> None:
    mixture = Mixture(torch.zeros(2).log_softmax(-1), torch.randn(2, 2), noise_variance=1.0)
    model = MixtureAttention(mixture, precision=Gamma(2.0, 1.0))
    data = global_posterior(model, Automatic(model, AutoNormal), torch.randn(9, 2), plate="tokens", draws=4)
    assert dataset(data, "posterior")["precision"].dims == ("chain", "draw", "component")


def test_weights_are_weights_before_and_after() -> None:
    """The model draws log weights; an automatic guide says nothing of that."""
    mixture = Mixture(torch.zeros(3).log_softmax(-1), torch.randn(3, 2), noise_variance=1.0)
    model = MixtureAttention(mixture, weights=DirichletProcess(Gamma(1.0, 1.0)))
    data = global_posterior(model, Automatic(model, AutoNormal), torch.randn(9, 2), plate="tokens", draws=4)
    for group in ("posterior", "prior"):
        total = dataset(data, group)["weights"].sum("component").values
        torch.testing.assert_close(torch.from_numpy(total), torch.ones(1, 4), rtol=0, atol=1e-5)


def test_dimensions_are_named_by_their_size_where_that_is_unambiguous() -> None:
    known = {"vectors": ("component", "dimension")}
    names = dimension_names({"lam": (16,), "vectors": (4, 16), "covariance": (16, 16), "tree": (3,), "df": ()}, known)
    assert names["lam"] == ("dimension",) and names["df"] == ()
    assert names["covariance"] == ("covariance_dim_0", "covariance_dim_1")
    assert names["tree"] == ("tree_dim_0",)


def drawn(queries: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is exported of each observation, and the evidence of ``queries`` as one list, at the same keys."""
    mixture = Mixture(torch.tensor([0.7, 0.3]).log(), torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), noise_variance=1.0)
    model = MixtureAttention.conjugate(mixture)
    data = global_posterior(model, Automatic(model, AutoNormal), queries, plate="tokens", draws=3, mask=mask)
    keys = torch.from_numpy(dataset(data, "posterior")["keys"].values[0])
    flat = queries.reshape(-1, 2)
    evidence = torch.stack([pf.attend(flat, model.mixture({"keys": one}), returns="evidence") for one in keys])
    per_observation = torch.from_numpy(dataset(data, "log_likelihood")["per_observation"].values[0])
    return per_observation, torch.from_numpy(dataset(data, "observed_data")["query"].values), evidence


def test_plates_around_the_one_of_observations_multiply_them() -> None:
    queries = torch.randn(2, 3, 5, 2)
    per_observation, observed, evidence = drawn(queries)
    torch.testing.assert_close(per_observation, evidence, rtol=0, atol=1e-4)
    torch.testing.assert_close(observed, queries.reshape(-1, 2))


def test_what_a_mask_hides_is_no_observation() -> None:
    queries, mask = torch.randn(3, 5, 2), torch.arange(15).reshape(3, 5) % 4 > 0
    per_observation, observed, evidence = drawn(queries, mask)
    torch.testing.assert_close(per_observation, evidence[:, mask.flatten()], rtol=0, atol=1e-4)
    torch.testing.assert_close(observed, queries[mask])
    with pytest.raises(ValueError, match="a mask hides all that the model observes in the plate 'tokens'"):
        drawn(queries, mask & False)


class Nested(torch.nn.Module):
    """Texts of three tokens, the length of a text in the plate of texts alone if ``length``."""

    def __init__(self, length: bool) -> None:
        super().__init__()
        self.length = length

    def forward(self, seen: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("texts", len(seen), dim=-2):
            if self.length:
                pyro.sample("length", dist.Poisson(3.0), obs=torch.full((len(seen), 1), 3.0))
            with pyro.plate("tokens", 3, dim=-1):
                pyro.sample("text", dist.Normal(mean, 1.0), obs=seen)


def test_plates_inside_the_one_of_observations_are_parts_of_one() -> None:
    model, seen = Nested(length=False), torch.randn(4, 3)
    data = global_posterior(model, Automatic(model, AutoNormal), seen, draws=2)
    mean = torch.from_numpy(dataset(data, "posterior")["mean"].values[0])
    expected = dist.Normal(mean[:, None, None], 1.0).log_prob(seen).sum(-1)
    torch.testing.assert_close(torch.from_numpy(dataset(data, "log_likelihood")["per_observation"].values[0]), expected)
    assert dataset(data, "observed_data")["text"].shape == (4, 3)
    model = Nested(length=True)
    with pytest.raises(ValueError, match="the sites length, text are in different plates: put all of 'texts' into"):
        global_posterior(model, Automatic(model, AutoNormal), seen, draws=2)
