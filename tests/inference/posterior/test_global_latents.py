"""The posterior of latents that all observations share, as ArviZ expects it."""

import torch
from pyro.distributions import Gamma
from pyro.infer.autoguide import AutoNormal

from pyroformer.guides.automatic import Automatic
from pyroformer.inference.posterior.arviz_compat import dataset
from pyroformer.inference.posterior.draws import dimension_names
from pyroformer.inference.posterior.global_latents import global_posterior
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.mixture_attention import MixtureAttention
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
