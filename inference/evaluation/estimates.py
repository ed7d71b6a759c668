"""Estimates over texts with standard errors."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["Estimate", "perplexity", "ratio"]

LARGEST_PERPLEXITY = 1e9  # a larger one is printed as missing


class Estimate(NamedTuple):
    """A number and its standard error over texts; None where it is not finite or too large to mean anything."""

    value: float | None
    error: float | None = None


def ratio(values: Float[np.ndarray, " n"], counts: Float[np.ndarray, " n"] | None = None) -> Estimate:
    r"""A rate over texts and its standard error, which a single text does not have.

    .. math::
        r = \frac{\sum_i v_i}{\sum_i c_i}, \qquad
        \mathrm{se}^2 = \frac{n}{n - 1} \frac{\sum_i (v_i - r c_i)^2}{(\sum_i c_i)^2}

    Arguments:
        values: The numerator :math:`v_i` of each text, with shape :math:`(n)`.
        counts: The denominator :math:`c_i` of each text, such as its number of tokens; 1 for each text if None.

    Examples:
        >>> ratio(np.array([1.0, 3.0]))
        Estimate(value=2.0, error=1.0)
    """
    counts = np.ones_like(values) if counts is None else counts
    n, total = len(values), float(counts.sum())
    if not total > 0:
        return Estimate(None)
    rate = float(values.sum()) / total
    if not math.isfinite(rate):
        return Estimate(None)
    if n == 1:
        return Estimate(rate)
    return Estimate(rate, math.sqrt(n / (n - 1) * float(np.square(values - rate * counts).sum())) / total)


def perplexity(nats_per_token: Estimate) -> Estimate:
    """The exponential of a rate, without a value where it is too large to mean anything.

    Examples:
        >>> perplexity(Estimate(0.0, 0.1)), perplexity(Estimate(1000.0))
        (Estimate(value=1.0, error=0.1), Estimate(value=None, error=None))
    """
    rate, error = nats_per_token
    if rate is None or not rate <= math.log(LARGEST_PERPLEXITY):
        return Estimate(None)
    return Estimate(math.exp(rate), None if error is None else math.exp(rate) * error)
