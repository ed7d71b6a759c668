"""Draws of Markov chains for ArviZ: the dimensions of a mixture's parts by name."""

import pytest
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import init_to_value

import pyroformer as pf
from pyroformer.inference.posterior.arviz_compat import dataset
from pyroformer.inference.posterior.mcmc import from_mcmc


@pytest.mark.slow
def test_parts_of_a_fitted_mixture_have_their_dimensions() -> None:
    table = torch.cat([torch.randn(12, 3) - 3, torch.randn(12, 3) + 3])
    fitted = pf.GaussianMixture(2, covariance_type="spherical", random_state=0).fit(table)
    kernel = NUTS(fitted.to_model(), max_plate_nesting=1, init_strategy=init_to_value(values=fitted.sites()))
    chains = MCMC(kernel, num_samples=4, warmup_steps=4, disable_progbar=True)
    with pytest.raises(ValueError, match="the chains have no draws: call run"):
        from_mcmc(chains)
    chains.run(table)
    posterior = dataset(from_mcmc(chains), "posterior")
    dimensions = {name: value.dims[2:] for name, value in posterior.items()}
    assert dimensions == {"weights": ("component",), "keys": ("component", "dimension"), "precision": ("component",)}
    assert (abs(posterior["keys"].mean(("chain", "draw")).values - fitted.means_.numpy()) < 1.5).all()
