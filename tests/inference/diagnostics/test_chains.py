"""Several fits as chains, and their r-hat."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.diagnostics import as_chains
from pyroformer.inference.posterior.arviz_compat import dataset
from pyroformer.inference.posterior.export import to_arviz
from pyroformer.inference.posterior.global_latents import global_posterior
from pyroformer.models.batch import Batch
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.vae import VAE

SEEN = torch.tensor([0.3, -1.2, 0.8])


class Mean(nn.Module):
    def forward(self, seen: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("texts", len(seen), dim=-1):
            pyro.sample("text", dist.Normal(mean, 1.0), obs=seen)


class Fit(nn.Module):
    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, seen: Tensor) -> None:
        pyro.sample("mean", dist.Normal(self.mean, 0.5))


def rhat(means: tuple[float, ...]) -> float:
    import arviz

    fits = [global_posterior(Mean(), Fit(mean), SEEN, draws=100, seed=number) for number, mean in enumerate(means)]
    return float(arviz.rhat(dataset(as_chains(fits), "posterior"))["mean"])


def test_rhat_of_fits_that_agree_is_one_and_of_others_is_not() -> None:
    assert rhat((0.0, 0.0, 0.0)) < 1.05
    assert rhat((0.0, 0.0, 1.5)) > 1.5


def fit(
    seed: int = 0, texts: tuple[list[int], ...] = ([5, 2], [6, 7, 2]), draws: int = 3, include_prior: bool = True
) -> object:
    torch.manual_seed(seed)
    model = VAE(TransformerConfig(vocabulary=9, max_length=4, width=8, layers=1, heads=2))
    return to_arviz(model, VAEGuide(model), Batch.pad(list(texts)), draws=draws, include_prior=include_prior)


def test_chains_are_the_fits_and_the_texts_stay() -> None:
    fits = [fit(seed) for seed in range(3)]
    chains = as_chains(fits)
    for number, one in enumerate(fits):
        expected = dataset(one, "posterior")["vectors"].values[0]
        assert (
            dataset(chains, "posterior")["vectors"]
            .sel(chain=number)
            .equals(dataset(one, "posterior")["vectors"].sel(chain=0).assign_coords(chain=number))
        ), expected
    assert dataset(chains, "observed_data").equals(dataset(fits[0], "observed_data"))


def test_fits_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="there are 1 fits: r-hat compares at least 2"):
        as_chains([fit()])
    one: Any = fit()
    with pytest.raises(ValueError, match="fits is the result of one fit: give a list of at least 2"):
        as_chains(one)
    with pytest.raises(ValueError, match="fit 2 is of other texts than the first: export the same texts"):
        as_chains([fit(), fit(texts=([5, 2], [7, 7, 2]))])
    with pytest.raises(ValueError, match="in 'posterior' than the first, such as 'vectors': export all"):
        as_chains([fit(), fit(draws=4)])
    with_own: Any = fit()
    with_own["posterior"] = dataset(with_own, "posterior").assign(mine=0.0)
    for fits in ([with_own, fit()], [fit(), with_own]):
        with pytest.raises(ValueError, match="than the first, such as 'mine'.* add variables of your own to all"):
            as_chains(fits)
    with pytest.raises(ValueError, match="fit 2 has no group 'prior', but the first has"):
        as_chains([fit(), fit(include_prior=False)])


def test_a_fit_exported_before_dimensions_were_numbered_is_of_the_same_texts() -> None:
    before, now = (global_posterior(Mean(), Fit(mean), SEEN, draws=4) for mean in (0.0, 1.0))
    observed = dataset(before, "observed_data")
    before["observed_data"] = observed.drop_vars([*observed.coords])
    assert dataset(as_chains([before, now]), "posterior").sizes["chain"] == 2
