r"""Rényi divergences of posteriors, and the privacy of a text whose mixture is released as one draw.

A draw of a text's posterior, Dirichlet weights and Gaussian vectors, tells about the text no more than how far its
posterior is from that of another text. With the divergence of order :math:`\lambda > 1`,

.. math:: D_\lambda(p \,\|\, q) = \frac1{\lambda - 1} \log \mathrm{E}_q \Big[ \Big( \frac{p}{q} \Big)^\lambda \Big],

a mechanism has Rényi differential privacy :math:`(\lambda, \varepsilon)` if :math:`D_\lambda \le \varepsilon` **in both
directions and for all pairs of inputs** that count as neighbors. Here any two texts do which have as many components;
the number of components is public. Divergences of independent parts add up, and so do those of several releases about
one text. What is measured on some texts is no guarantee for others: that takes parameters with bounds, as
:meth:`Clip.apply` makes them, and their worst case, :meth:`Clip.worst_case`.

References:
    Rényi Differential Privacy (Mironov, 2017), https://arxiv.org/abs/1702.07476
    Rényi Divergence Measures for Commonly Used Univariate Continuous Distributions (Gil, Alajaji & Linder, 2013)
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..utils.numbers import check_at_least, declared_number

__all__ = ["Clip", "approximate_epsilon", "dirichlet_renyi", "gaussian_renyi", "mixture_renyi"]


def gaussian_renyi(
    mean: Float[Tensor, "*#batch p"],
    variance: Float[Tensor, "*#batch p"],
    other_mean: Float[Tensor, "*#batch p"],
    other_variance: Float[Tensor, "*#batch p"],
    order: float,
) -> Float[Tensor, "*batch"]:
    r"""The Rényi divergence of a diagonal Gaussian from another, in nats and float64.

    .. math::
        D_\lambda = \sum_d \frac{\lambda (\mu_d - \mu_d')^2}{2 s_d}
        - \frac{1}{2 (\lambda - 1)} \log \frac{s_d}{\sigma_d^{2 (1 - \lambda)} \sigma_d'^{2 \lambda}}, \qquad
        s = (1 - \lambda) \sigma^2 + \lambda \sigma'^2

    It is infinite where :math:`s \le 0`: where the first variance is :math:`\lambda / (\lambda - 1)` times the second.

    Arguments:
        mean: :math:`\mu`.
        variance: :math:`\sigma^2`.
        other_mean: :math:`\mu'`.
        other_variance: :math:`\sigma'^2`.
        order: :math:`\lambda`, above 0 and not 1, where the limit is the Kullback-Leibler divergence.

    Raises:
        ValueError: If the order is out of its range.

    Examples:
        >>> zero, one = torch.zeros(3), torch.ones(3)
        >>> gaussian_renyi(zero, one, one, one, order=2.0)
        tensor(3., dtype=torch.float64)
        >>> gaussian_renyi(zero, 2 * one, zero, one, order=2.0)
        tensor(inf, dtype=torch.float64)
    """
    _check_order(order)
    mean, variance, other_mean, other_variance = (x.double() for x in (mean, variance, other_mean, other_variance))
    _check_widths("dimensions", mean, variance, other_mean, other_variance)
    between = (1 - order) * variance + order * other_variance
    finite = between > 0
    safe = torch.where(finite, between, 1.0)
    distance = 0.5 * order * (mean - other_mean).square() / safe
    scale = 0.5 * (safe.log() - (1 - order) * variance.log() - order * other_variance.log()) / (1 - order)
    return torch.where(finite, distance + scale, torch.inf).sum(-1)


def dirichlet_renyi(
    alpha: Float[Tensor, "*#batch n"], other_alpha: Float[Tensor, "*#batch n"], order: float
) -> Float[Tensor, "*batch"]:
    r"""The Rényi divergence of a Dirichlet distribution from another, in nats and float64.

    .. math::
        D_\lambda = \frac{1}{\lambda - 1} \Big( \log B(\lambda \alpha + (1 - \lambda) \alpha')
        - \lambda \log B(\alpha) - (1 - \lambda) \log B(\alpha') \Big)

    It is infinite where an entry of :math:`\lambda \alpha + (1 - \lambda) \alpha'` is not positive.

    Arguments:
        alpha: Concentrations :math:`\alpha`.
        other_alpha: Those of the other, :math:`\alpha'`.
        order: :math:`\lambda`, above 0 and not 1.

    Raises:
        ValueError: If the order is out of its range.

    Examples:
        >>> flat = torch.ones(3)
        >>> dirichlet_renyi(flat, flat, order=2.0).abs()
        tensor(0., dtype=torch.float64)
    """
    _check_order(order)
    alpha, other_alpha = alpha.double(), other_alpha.double()
    _check_widths("components", alpha, other_alpha)
    between = order * alpha + (1 - order) * other_alpha
    finite = (between > 0).all(-1)
    safe = torch.where(finite[..., None], between, 1.0)
    terms = _log_beta(safe) - order * _log_beta(alpha) - (1 - order) * _log_beta(other_alpha)
    return torch.where(finite, terms / (order - 1), torch.inf)


def mixture_renyi(
    alpha: Float[Tensor, "*#batch n"],
    mean: Float[Tensor, "*#batch n p"],
    variance: Float[Tensor, "*#batch n p"],
    other_alpha: Float[Tensor, "*#batch n"],
    other_mean: Float[Tensor, "*#batch n p"],
    other_variance: Float[Tensor, "*#batch n p"],
    order: float,
) -> Float[Tensor, "*batch"]:
    r"""The Rényi divergence of a text's posterior from another's with as many components: weights and all vectors.

    Weights and vectors are independent, so that their divergences add up. A released draw has its components in order.

    Arguments:
        alpha: Concentrations of the components.
        mean: Their means.
        variance: Their variances.
        other_alpha: Concentrations of the other text's components.
        other_mean: Their means.
        other_variance: Their variances.
        order: :math:`\lambda`, above 0 and not 1.

    Raises:
        ValueError: If the order is out of its range.

    Examples:
        >>> one = torch.ones(3, 2)
        >>> mixture_renyi(torch.ones(3), one, one, torch.ones(3), 0 * one, one, order=2.0)
        tensor(6., dtype=torch.float64)
    """
    vectors = gaussian_renyi(mean, variance, other_mean, other_variance, order)
    return dirichlet_renyi(alpha, other_alpha, order) + vectors.sum(-1)


class Clip(NamedTuple):
    r"""Bounds of a posterior's parameters, which bound the divergence between any two texts.

    Arguments:
        norm: The largest norm of a mean.
        least_variance: The smallest variance of a dimension.
        most_variance: The largest one; below :math:`\lambda / (\lambda - 1)` times the smallest for a finite guarantee.
        least_alpha: The smallest concentration of a component.
        most_alpha: The largest one; likewise.

    Raises:
        ValueError: At the first use, if a bound is not positive or finite, or a pair of them is out of order.

    Examples:
        >>> clip = Clip(norm=1.0, least_variance=4.0, most_variance=4.0, least_alpha=0.5, most_alpha=0.5)
        >>> clip.worst_case(components=1, width=8, order=2.0)
        1.0
    """

    norm: float
    least_variance: float
    most_variance: float
    least_alpha: float
    most_alpha: float

    def apply(
        self, alpha: Float[Tensor, "*batch n"], mean: Float[Tensor, "*batch n p"], variance: Float[Tensor, "*batch n p"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n p"], Float[Tensor, "*batch n p"]]:
        """Concentrations, means and variances within the bounds; those that are already stay as they are."""
        self._check()
        length = torch.linalg.vector_norm(mean.double(), dim=-1, keepdim=True)
        shrunk = (mean.double() * (self.norm / length.clamp_min(self.norm))).to(mean.dtype)
        return (
            alpha.clamp(self.least_alpha, self.most_alpha),
            shrunk,
            variance.clamp(self.least_variance, self.most_variance),
        )

    def worst_case(self, components: int, width: int, order: float) -> float:
        r"""The largest divergence of one clipped posterior from another, in nats: :math:`\varepsilon` of Rényi privacy.

        For the vectors it is attained: by opposite means of the largest norm, where the first has the largest and the
        second the smallest variance in each dimension. The weights are a function of independent draws of
        :math:`\text{Gamma}(\alpha_i)`, whose divergences bound theirs and are largest at the ends of the interval.

        Arguments:
            components: The number of components that are released, the prior's left out as it is the same for all.
            width: The number of dimensions of a vector.
            order: :math:`\lambda`, above 1.

        Raises:
            ValueError: If a bound or an argument is out of its range, or no finite guarantee exists at this order.
        """
        self._check()
        _check_order(order, least=1.0)
        check_at_least(1, components=components, width=width)
        for name, least, most in (
            ("variance", self.least_variance, self.most_variance),
            ("alpha", self.least_alpha, self.most_alpha),
        ):
            if order * least <= (order - 1) * most:
                raise ValueError(
                    f"order is {order:g}, at which {name} between {least:g} and {most:g} has no finite guarantee: "
                    "bring its bounds together, or take an order closer to 1."
                )
        narrow, wide = (torch.full((width,), v).double() for v in (self.least_variance, self.most_variance))
        far = torch.zeros(width, dtype=torch.float64)
        far[0] = 2 * self.norm
        vectors = float(gaussian_renyi(far, wide, 0 * far, narrow, order))
        ends = torch.tensor([self.least_alpha, self.most_alpha], dtype=torch.float64)
        weights = float(_gamma_renyi(ends, ends.flip(0), order).max())
        return components * (vectors + weights)

    def _check(self) -> None:
        for name, value in self._asdict().items():
            if not 0 < declared_number(name, value, float) < math.inf:
                raise ValueError(f"{name} is {value}: give a finite number above 0.")
        for name, least, most in (
            ("variance", self.least_variance, self.most_variance),
            ("alpha", self.least_alpha, self.most_alpha),
        ):
            if least > most:
                raise ValueError(f"least_{name} is {least:g} and most_{name} {most:g}: give the smaller one first.")


def approximate_epsilon(renyi: float, order: float, delta: float) -> float:
    r""":math:`\varepsilon` of :math:`(\varepsilon, \delta)` differential privacy, from Rényi privacy of an order.

    .. math:: \varepsilon = \varepsilon_\lambda + \frac{\log (1 / \delta)}{\lambda - 1}

    Several releases about one text add up in ``renyi``, all of one order; the best order is found by trying some.

    Arguments:
        renyi: :math:`\varepsilon_\lambda`, 0 or more, such as :meth:`Clip.worst_case`.
        order: :math:`\lambda`, above 1.
        delta: :math:`\delta`, above 0 and below 1.

    Raises:
        ValueError: If an argument is out of its range.

    Examples:
        >>> round(approximate_epsilon(0.5, order=11.0, delta=1e-5), 3)
        1.651
    """
    _check_order(order, least=1.0)
    if not 0 <= declared_number("renyi", renyi, float) < math.inf:
        raise ValueError(f"renyi is {renyi}: give a finite divergence, 0 or more.")
    if not 0 < declared_number("delta", delta, float) < 1:
        raise ValueError(f"delta is {delta}: give a probability above 0 and below 1.")
    return renyi + math.log(1 / delta) / (order - 1)


def _gamma_renyi(shape: Tensor, other: Tensor, order: float) -> Tensor:
    """The divergence of a gamma distribution from another of the same rate."""
    between = order * shape + (1 - order) * other
    terms = torch.lgamma(between) - order * torch.lgamma(shape) - (1 - order) * torch.lgamma(other)
    return terms / (order - 1)


def _log_beta(alpha: Tensor) -> Tensor:
    return torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))


def _check_widths(name: str, *parameters: Tensor) -> None:
    sizes = sorted({x.shape[-1] for x in parameters})
    if len(sizes) > 1:
        raise ValueError(f"there are {sizes[0]} and {sizes[-1]} {name}: give texts with as many as each other.")


def _check_order(order: float, least: float = 0.0) -> None:
    if not least < declared_number("order", order, float) < math.inf or order == 1:
        rule = "give a number above 1" if least else "give a number above 0 other than 1, where it is the KL divergence"
        raise ValueError(f"order is {order}: {rule}.")
