r"""Remainders of Stirling's formula for the Gamma function, as functions of the logarithm of the argument.

Formulas for Gamma and Dirichlet distributions subtract terms of size :math:`x \log x`, which loses all digits at
:math:`x = e^{200}`. Written with these remainders, the large terms cancel analytically.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["digamma_gap", "digamma_gap_slope", "stirling_remainder"]

_SERIES_FROM = math.log(10.0)  # Stirling's series from here on; seven terms reach 1e-15
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)  # B_2, B_4, ..., B_14
_STIRLING_SERIES = tuple(b / (2 * m * (2 * m - 1)) for m, b in enumerate(_BERNOULLI, 1))
_GAP_SERIES = tuple(b / (2 * m) for m, b in enumerate(_BERNOULLI, 1))
_SLOPE_SERIES = tuple(-b * (2 * m - 1) / (2 * m) for m, b in enumerate(_BERNOULLI, 1))


def stirling_remainder(log_x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r""":math:`d(x) = \log\Gamma(x) - (x - \frac12) \log x + x - \frac12 \log 2\pi`.

    Its derivative by :math:`\log x` is :math:`\frac12 - c(x)`, see :func:`digamma_gap`. Accurate to 1e-14 in float64,
    for every :math:`\log x`; below 10 it is written on :math:`\Gamma(1 + x)`, so that x may underflow.

    Examples:
        >>> x = torch.tensor(3.0, dtype=torch.float64)
        >>> formula = (x - 0.5) * x.log() - x + 0.5 * (2 * torch.tensor(torch.pi).double()).log()
        >>> torch.allclose(formula + stirling_remainder(x.log()), torch.lgamma(x))
        True
    """
    small, low, y = _branches(log_x)
    x = low.exp()
    direct = torch.lgamma(1 + x) - (x + 0.5) * low + x - _HALF_LOG_2PI
    return torch.where(small, direct, _odd_series(y, _STIRLING_SERIES))


def digamma_gap(log_x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r""":math:`c(x) = x (\log x - \psi(x))`, which falls from 1 at zero to 1/2 at infinity.

    Examples:
        >>> digamma_gap(torch.tensor([-1e30, 0.0, 200.0]))
        tensor([1.0000, 0.5772, 0.5000])
    """
    small, low, y = _branches(log_x)
    x = low.exp()
    return torch.where(small, 1 + x * (low - _digamma_1p(x)), 0.5 + _odd_series(y, _GAP_SERIES))


def digamma_gap_slope(log_x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r""":math:`\mathrm d c / \mathrm d \log x`, a function of its own, as differences of the flat c lose all digits.

    Examples:
        >>> digamma_gap_slope(torch.tensor(0.0))
        tensor(-0.0677)
    """
    small, low, y = _branches(log_x)
    x = low.exp()
    direct = x * (low + 1 - _digamma_1p(x) - x * torch.special.zeta(2.0, 1 + x))
    return torch.where(small, direct, _odd_series(y, _SLOPE_SERIES))


def _digamma_1p(x: Tensor) -> Tensor:
    r""":math:`\psi(1 + x)` for x >= 0. By recurrence, because torch's trigamma, its gradient, is good to 1e-10 only."""
    above = x + 10
    steps = torch.arange(1, 10, dtype=x.dtype, device=x.device)
    gap = 0.5 + _odd_series(above.reciprocal(), _GAP_SERIES)
    return above.log() - gap / above - (x[..., None] + steps).reciprocal().sum(-1)


def _branches(log_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mask of small x; log x there (0 elsewhere), and 1/x elsewhere (1/10 there): finite in both branches."""
    small = log_x < _SERIES_FROM
    return small, torch.where(small, log_x, 0.0), torch.where(small, -_SERIES_FROM, -log_x).exp()


def _odd_series(y: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """The sum of c_m y^(2m - 1) over m from 1."""
    square, total = y.square(), torch.full_like(y, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * square + coefficient
    return total * y
