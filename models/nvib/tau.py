r"""The dial of a regularized layer: how far its posterior is from the vectors themselves."""

import math
from typing import NamedTuple

from ..utils.numbers import plain_number

__all__ = ["IDENTITY", "Tau", "checked_tau"]


class Tau(NamedTuple):
    r"""Strengths :math:`\tau` of the regularization of one layer; the defaults change nothing.

    Arguments:
        mu: 1 keeps each vector, 0 puts the mean of the prior in its place.
        sigma: Standard deviation of each component, in standard deviations of the prior; 0 is a point mass.
        alpha: Excess of the log concentrations over the prior component's, in standard deviations of theirs;
            :math:`\infty` leaves the prior component out.
        nats: A further excess in nats, for layers where all vectors have one norm, so that the deviation is 0.

    Examples:
        >>> Tau(alpha=-1.0)
        Tau(mu=1.0, sigma=0.0, alpha=-1.0, nats=0.0)
    """

    mu: float = 1.0
    sigma: float = 0.0
    alpha: float = math.inf
    nats: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether the strengths are the defaults, so that the layer computes what it did before it was wrapped."""
        return self == IDENTITY


IDENTITY = Tau()

_RULES = {
    "mu": ("give a number from 0, the prior's mean, to 1, the vector itself", lambda value: 0 <= value <= 1),
    "sigma": ("give 0, a point mass, or a positive finite number", lambda value: 0 <= value < math.inf),
    "nats": ("give a finite number", lambda value: abs(value) < math.inf),
    "alpha": ("give a number, or math.inf for no prior component", lambda value: value > -math.inf),
}


def checked_tau(**values: object) -> dict[str, float]:
    """The strengths that are given, by name, as Python's floats.

    Raises:
        ValueError: If one is no number or out of its range.

    Examples:
        >>> checked_tau(mu=None, sigma=1)
        {'sigma': 1.0}
        >>> checked_tau(sigma=-1)
        Traceback (most recent call last):
        ValueError: tau_sigma is -1: give 0, a point mass, or a positive finite number.
    """
    strengths = {name: plain_number(value) for name, value in values.items() if value is not None}
    for name, value in strengths.items():
        rule, fine = _RULES[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not fine(value):
            raise ValueError(f"tau_{name} is {value!r}: {rule}.")
    return {name: float(value) for name, value in strengths.items()}
