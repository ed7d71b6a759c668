"""Weights of mixtures by NUTS, against the conjugate posterior where it is certain which component a query is of."""

import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

import pyroformer as pf
from pyroformer.models.mixture_attention.model import MixtureAttention

COUNTS = torch.tensor([6.0, 3.0, 1.0])


def stick_breaking(concentration: float, discount: float) -> Tensor:
    """The posterior mean of weights by stick breaking: each share has a beta posterior, independent of the others."""
    rest, weights = 1.0, []
    for n in range(2):
        first, second = 1 - discount + COUNTS[n], concentration + (n + 1) * discount + COUNTS[n + 1 :].sum()
        share = float(first / (first + second))
        weights.append(rest * share)
        rest *= 1 - share
    return torch.tensor([*weights, rest])


@pytest.mark.slow
def test_nuts_finds_the_conjugate_posterior_of_weights() -> None:
    prior, expected = pf.priors.PitmanYor(1.0, discount=0.3), stick_breaking(1.0, 0.3)
    keys = torch.tensor([[-30.0], [0.0], [30.0]])
    queries = keys.repeat_interleave(COUNTS.long(), 0)
    model = MixtureAttention(pf.Mixture(torch.zeros(3), keys, noise_variance=1.0), weights=prior)
    pyro.set_rng_seed(0)
    chain = MCMC(NUTS(model, max_plate_nesting=1), num_samples=120, warmup_steps=60, disable_progbar=True)
    chain.run(queries)
    weights = chain.get_samples()["weights"].exp()
    assert ((weights.sum(-1) - 1).abs() < 1e-4).all()
    assert (weights.mean(0) - expected).abs().max() < 0.04
