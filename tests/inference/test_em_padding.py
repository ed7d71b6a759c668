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
