r"""Densities with heavier tails than a Gaussian's: Student's t, of which the Gaussian is the limit.

.. math::
    t_\nu(q; k, a^{-1}) = \frac{\Gamma((\nu + D) / 2)}{\Gamma(\nu / 2) (\nu \pi)^{D / 2}} \sqrt{|a|}
    \left( 1 + \frac{\delta^2}{\nu} \right)^{-(\nu + D) / 2}, \qquad \delta^2 = (q - k)^T a \, (q - k)

All functions take :math:`\tau = 1 / \nu`, which is 0 for a Gaussian, and are smooth there.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ...distributions.stirling import stirling_remainder

__all__ = ["influence", "log_normalizer", "log_tail"]

SMALL = 0.1  # below which a logarithm over its argument is a series


def log_tail(
    distance: Float[Tensor, "*#batch"], inverse_degrees: Float[Tensor, "*#batch"], width: int
) -> Float[Tensor, "*#batch"]:
    r"""The part of the log density that depends on the distance.

    .. math:: -\frac{1 + \tau D}{2} \, \frac{\log(1 + \tau \delta^2)}{\tau}, \qquad -\frac{\delta^2}{2} \text{ at } 0

    Arguments:
        distance: :math:`\delta^2`.
        inverse_degrees: :math:`\tau`, at least 0.
        width: :math:`D`.

    Examples:
        >>> log_tail(torch.tensor([1.0, 100.0]), torch.tensor([[0.0], [1.0]]), 2)  # Gaussian and Cauchy
        tensor([[ -0.5000, -50.0000],
                [ -1.0397,  -6.9227]])
    """
    return -0.5 * (1 + inverse_degrees * width) * distance * _log_ratio(inverse_degrees * distance)


def influence(
    distance: Float[Tensor, "*#batch"], inverse_degrees: Float[Tensor, "*#batch"], width: int
) -> Float[Tensor, "*#batch"]:
    r"""The weight of a query in the M-step of a mean: 1 for a Gaussian; with heavy tails, less for a distant query.

    .. math:: \frac{\nu + D}{\nu + \delta^2} = \frac{1 + \tau D}{1 + \tau \delta^2}

    Examples:
        >>> influence(torch.tensor([0.0, 2.0, 98.0]), torch.tensor(0.5), 2)
        tensor([2.0000, 1.0000, 0.0400])
    """
    return (1 + inverse_degrees * width) / (1 + inverse_degrees * distance)


def log_normalizer(inverse_degrees: Float[Tensor, "*batch"], width: int) -> Float[Tensor, "*batch"]:
    r"""The part of the log density that depends on neither the distance nor the precision.

    .. math:: \log \Gamma \frac{\nu + D}{2} - \log \Gamma \frac{\nu}{2} - \frac{D}{2} \log(\nu \pi)

    It is computed by Stirling's formula with its remainder, in which large numbers do not cancel.

    Examples:
        >>> log_normalizer(torch.tensor([0.0, 1.0]), 1).exp()  # Gaussian and Cauchy
        tensor([0.3989, 0.3183])
    """
    half, scaled = width / 2, inverse_degrees * width
    main = (half - 0.5) * scaled.log1p() - half * _shortfall(scaled)
    remainder = _remainder(2 * inverse_degrees / (1 + scaled)) - _remainder(2 * inverse_degrees)
    return main + remainder - half * math.log(2 * math.pi)


def _log_ratio(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r""":math:`\log(1 + x) / x`, 1 at 0."""
    small, near, far, rest = _branches(x)
    return torch.where(small, 2 * (1 + rest) / (2 + near), far.log1p() / far)


def _shortfall(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r""":math:`1 - \log(1 + x) / x`, 0 at 0, where the difference would lose digits."""
    small, near, far, rest = _branches(x)
    return torch.where(small, (near - 2 * rest) / (2 + near), 1 - far.log1p() / far)


def _branches(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Mask of small x; x there, and elsewhere; :math:`\text{artanh}(z) / z - 1`, with :math:`z = x / (2 + x)`.

    It is a series for :math:`\log(1 + x) = 2 \, \text{artanh}(z)`. Neither branch has the arguments of the other, on
    which it would overflow: its gradient would be NaN.
    """
    small = x < SMALL
    near, far = torch.where(small, x, 0.0), torch.where(small, 1.0, x)
    square = (near / (2 + near)).square()
    rest = square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9 + square / 11))))
    return small, near, far, rest


def _remainder(inverse: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The remainder of Stirling's formula for the logarithm of the gamma function, at one over ``inverse``."""
    zero = inverse == 0
    return torch.where(zero, inverse / 12, stirling_remainder(-torch.where(zero, 1.0, inverse).log()))
