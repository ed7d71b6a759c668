"""Online EM: batches that are forgotten, against fits of all rows and the formula of the step."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyroformer as pf

KINDS = ["spherical", "diag", "tied", "full"]


def rows_of(number: int, seed: int = 0) -> Tensor:
    """Three clusters far from zero, of different shapes and weights."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.multinomial(torch.tensor([0.2, 0.3, 0.5]), number, replacement=True, generator=generator)
    centers = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])[label]
    scales = torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]])[label]
    return (centers + scales * torch.randn(number, 2, generator=generator) + 50).double()


def with_holes(x: Tensor, share: float) -> Tensor:
    return torch.where(torch.rand(x.shape) < share, torch.nan, x)


@pytest.mark.parametrize("kind", KINDS)
def test_of_one_component_and_equal_steps_it_is_the_fit_of_all_rows(kind: Any) -> None:
    table = rows_of(90)
    whole = pf.GaussianMixture(1, covariance_type=kind).fit(table)
    online = pf.GaussianMixture(1, covariance_type=kind, learning_decay=1.0)
    for batch in table.split(30):
        online.partial_fit(batch)
    torch.testing.assert_close(online.means_, whole.means_)
    torch.testing.assert_close(online.covariances_, whole.covariances_, rtol=1e-5, atol=1e-5)
    assert online.n_iter_ == 3 and not online.converged_ and len(online.lower_bounds_) == 3


@pytest.mark.parametrize(
    "priors", [None, pf.em.ConjugatePriors(pseudo_counts=0.5, shape=1.3, rate=0.4, concentration=2.0)]
)
def test_a_step_is_its_formula(priors: pf.em.ConjugatePriors | None) -> None:
    """Diagonal variances, rows that count twice, and the prior at the mean of all rows."""
    first, second, counts = rows_of(40), rows_of(30, 1), torch.arange(30).double() % 3
    online = pf.GaussianMixture(2, covariance_type="diag", priors=priors, reg_covar=0.0, random_state=0)
    online.partial_fit(first)
    weights, means, variances = online.weights_, online.means_, online.covariances_
    shares, bound = online.predict_proba(second) * counts[:, None], online.score(second, sample_weight=counts)
    online.partial_fit(second, sample_weight=counts)
    assert online.lower_bounds_[-1] == pytest.approx(bound)
    total, rate = counts.sum() + 40, 2**-0.7
    n = total * ((1 - rate) * weights + rate * shares.sum(0) / counts.sum())
    s = total * ((1 - rate) * weights[:, None] * means + rate * shares.T @ second / counts.sum())
    squares = (1 - rate) * weights[:, None] * (variances + means.square())
    squares = total * (squares + rate * shares.T @ second.square() / counts.sum())
    kappa, shape, b, c = (0.5, 1.3, 0.4, 2.0) if priors else (0.0, 1.0, 0.0, 1.0)
    center = (first.sum(0) + counts @ second) / total
    expected = (s + kappa * center) / (n + kappa)[:, None]
    scatter = squares - 2 * expected * s + n[:, None] * expected.square() + kappa * (expected - center).square() + 2 * b
    torch.testing.assert_close(online.means_, expected)
    degrees = n + (kappa > 0) + 2 * (shape - 1)
    torch.testing.assert_close(online.covariances_, scatter / degrees[:, None], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(online.weights_, (n + c - 1) / (n + c - 1).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_stream_finds_what_all_rows_say(kind: Any, share: float) -> None:
    online = pf.GaussianMixture(3, covariance_type=kind, random_state=0)
    for seed in range(20):
        online.partial_fit(with_holes(rows_of(200, seed), share))
    whole = pf.GaussianMixture(3, covariance_type=kind, random_state=0).fit(
        torch.cat([rows_of(200, s) for s in range(20)])
    )
    other = rows_of(2000, 99)
    assert online.score(other) > whole.score(other) - 0.02
    assert online.n_iter_ == 20 and np.mean(online.lower_bounds_[-5:]) > np.mean(online.lower_bounds_[:2]) - 0.2


def test_it_goes_on_after_a_fit_and_in_another_form() -> None:
    fitted = pf.GaussianMixture(3, random_state=0).fit(rows_of(300))
    before = fitted.means_
    fitted.partial_fit(rows_of(200, 1).numpy())
    assert isinstance(fitted.means_, np.ndarray) and fitted.n_iter_ == 2
    assert 0 < np.abs(fitted.means_ - before.numpy()).max() < 1.0
    again = pickle.loads(pickle.dumps(fitted)).partial_fit(rows_of(200, 2))
    torch.testing.assert_close(again.means_, fitted.partial_fit(rows_of(200, 2)).means_)
    assert fitted.fit(rows_of(300)).n_iter_ > 0 and torch.allclose(fitted.means_, before)
