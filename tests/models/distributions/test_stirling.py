import mpmath as mp
import pytest
import torch
from torch import Tensor

from pyroformer.models.distributions.stirling import digamma_gap, digamma_gap_slope, stirling_remainder

LOGS = [-60.0, -30.0, -3.0, -0.1, 0.0, 1.0, 2.1, 2.3, 2.302, 2.303, 4.0, 20.0, 200.0]  # both sides of log 10


def reference(log_x: float) -> tuple[mp.mpf, mp.mpf, mp.mpf]:
    """Remainder, gap and the gap's slope, to 100 digits beyond the canceled ones."""
    with mp.workdps(300):
        x = mp.exp(mp.mpf(log_x))
        remainder = mp.loggamma(x) - (x - mp.mpf("0.5")) * log_x + x - mp.log(2 * mp.pi) / 2
        gap = x * (log_x - mp.digamma(x))
        return remainder, gap, gap + x - x**2 * mp.polygamma(1, x)


@pytest.mark.parametrize("log_x", LOGS)
def test_equal_a_100_digit_reference(log_x: float) -> None:
    x = torch.tensor(log_x, dtype=torch.float64)
    for function, expected in zip((stirling_remainder, digamma_gap, digamma_gap_slope), reference(log_x), strict=True):
        assert abs(function(x).item() - expected) < 1e-14 * (1 + abs(expected)), function.__name__


@pytest.mark.parametrize("log_x", LOGS)
def test_derivatives_are_each_other(log_x: float) -> None:
    x = torch.tensor(log_x, dtype=torch.float64, requires_grad=True)
    _, gap, slope = reference(log_x)
    assert abs(torch.autograd.grad(stirling_remainder(x), x)[0].item() - (0.5 - gap)) < 1e-13
    assert abs(torch.autograd.grad(digamma_gap(x), x)[0].item() - slope) < 1e-13


@pytest.mark.parametrize("function", [stirling_remainder, digamma_gap, digamma_gap_slope])
def test_finite_where_the_argument_underflows(function) -> None:
    x = torch.tensor([-1e30, -800.0, 800.0, 1e30], dtype=torch.float64, requires_grad=True)
    value: Tensor = function(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and gradient.isfinite().all()
