"""Queries that do not count: whatever stands in them, EM ends where it ends without them."""

import pytest
import torch

import pyroformer as pf


@pytest.mark.parametrize("filler", [0.0, 1e6, float("nan"), float("inf")])
def test_queries_that_do_not_count_may_hold_anything(filler: float) -> None:
    queries = torch.randn(20, 3, dtype=torch.float64)
    mixture = pf.Mixture(
        torch.zeros(4, dtype=torch.float64).log_softmax(-1), torch.randn(4, 3, dtype=torch.float64), noise_variance=1.0
    )
    moves = ("means", "variances", "weights")
    expected = pf.em.adapt(queries[:15], mixture, steps=5, moves=moves)
    queries[15:] = filler
    state = pf.em.adapt(queries, mixture, mask=torch.arange(20) < 15, steps=5, moves=moves)
    assert torch.allclose(state.mixture.means, expected.mixture.means, atol=1e-12)
    assert torch.allclose(state.objective, expected.objective, atol=1e-10)


@pytest.mark.parametrize("own", [0.3, float("nan")])
def test_the_predictive_variance_of_an_absent_component_is_that_under_its_prior(own: float) -> None:
    """That is (own + noise) (1 + 1 / kappa) - noise, as no query counts; the others are as without it."""
    queries, present = torch.randn(20, 2).double(), torch.tensor([True, False, True])
    parts = torch.zeros(3).double(), torch.randn(3, 2).double(), torch.tensor([[0.5], [own], [2.0]]).double()
    without = pf.Mixture(*(part[present] for part in parts))
    options = {"steps": 3, "variational": True, "priors": pf.em.ConjugatePriors(pseudo_counts=4.0)}
    state = pf.em.adapt(queries, pf.Mixture(*parts, mask=present), **options)
    expected = torch.full((3, 1), own + (own + 2**0.5) / 4).double()
    expected[present] = pf.em.adapt(queries, without, **options).mixture.variances
    torch.testing.assert_close(state.mixture.variances, expected, equal_nan=True)
