"""Heavy-tailed priors: a few latents may be large while the others stay small."""

import math

import torch
from jaxtyping import Float
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ..utils.numbers import check_at_least, check_positive
from ..utils.precision import at_least_float32
from .latents import First, LinearPrior, bounded_std
from .roles import VectorPrior

__all__ = ["LaplaceVectorPrior", "LinearLaplace", "LinearStudentT", "StudentTVectorPrior"]


class LinearStudentT(LinearPrior):
    r"""Student's t, whose mean and log variance are linear in the summary.

    .. math:: z_l \sim t_\nu\Big(\mu_l, \sigma_l \sqrt{(\nu - 2) / \nu}\Big)

    so that :math:`\sigma_l^2` is its variance, as in :class:`~pyroformer.models.priors.latents.LinearGaussian`, its
    limit for large :math:`\nu`. Divergences of a Gaussian guide are estimated at its draws.

    Arguments:
        latent_size: As in :class:`~pyroformer.models.priors.latents.LinearPrior`.
        summary_size: As there.
        layers: As there.
        first: As there.
        df: :math:`\nu > 2`; smaller means heavier tails.

    Raises:
        ValueError: If ``df`` is 2 or less, or a size is not positive.

    References:
        Bayesian Data Analysis (Gelman et al., 2013), chapter 17, for the t family in robust models.

    Examples:
        >>> prior = LinearStudentT(latent_size=4, summary_size=6, layers=3)
        >>> prior(torch.randn(5, 6), index=2).variance[0]
        tensor([1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<SelectBackward0>)
    """

    df: Tensor

    def __init__(
        self, latent_size: int, summary_size: int, layers: int, first: First = "standard", df: float = 4.0
    ) -> None:
        super().__init__(latent_size, summary_size, layers, first)
        self.register_buffer("df", _checked_df(df))

    def conditional(self, mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
        return _student(at_least_float32(self.df), mean, bounded_std(log_variance))


class LinearLaplace(LinearPrior):
    r"""A Laplace, whose mean and log variance are linear in the summary.

    .. math:: z_l \sim \mathrm{Laplace}\Big(\mu_l, \sigma_l / \sqrt 2\Big)

    so that :math:`\sigma_l^2` is its variance. The divergence of a Gaussian guide is exact.

    Arguments are those of :class:`~pyroformer.models.priors.latents.LinearPrior`.

    References:
        The Bayesian Lasso (Park & Casella, 2008).

    Examples:
        >>> prior = LinearLaplace(latent_size=4, summary_size=6, layers=3)
        >>> prior(torch.randn(5, 6), index=2).variance[0]
        tensor([1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<SelectBackward0>)
    """

    def conditional(self, mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
        return _laplace(mean, bounded_std(log_variance))


class StudentTVectorPrior(VectorPrior):
    r"""Independent entries of Student's t with a standard deviation of :math:`\sigma`, as base measure.

    Arguments:
        width: :math:`P`.
        df: :math:`\nu > 2`; smaller means heavier tails.
        std: :math:`\sigma > 0`.
        learnable: Whether means and standard deviations are parameters rather than buffers.

    Raises:
        ValueError: If a number is out of its range.

    References:
        As for :class:`LinearStudentT`.

    Examples:
        >>> StudentTVectorPrior(3)().variance
        tensor([1.0000, 1.0000, 1.0000])
    """

    df: Tensor
    mean: Tensor
    log_std: Tensor

    def __init__(self, width: int, df: float = 4.0, std: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        self.register_buffer("df", _checked_df(df))
        _add_moments(self, width, std, learnable)

    def forward(self) -> Distribution:
        return _student(*map(at_least_float32, (self.df, self.mean, self.log_std.exp())))


class LaplaceVectorPrior(VectorPrior):
    r"""Independent Laplace entries with a standard deviation of :math:`\sigma`, as base measure.

    The divergence of a Gaussian guide is exact.

    Arguments:
        width: :math:`P`.
        std: :math:`\sigma > 0`.
        learnable: Whether means and standard deviations are parameters rather than buffers.

    Raises:
        ValueError: If a number is out of its range.

    References:
        As for :class:`LinearLaplace`.

    Examples:
        >>> LaplaceVectorPrior(3, std=2.0)().variance
        tensor([4.0000, 4.0000, 4.0000])
    """

    mean: Tensor
    log_std: Tensor

    def __init__(self, width: int, std: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        _add_moments(self, width, std, learnable)

    def forward(self) -> Distribution:
        return _laplace(*map(at_least_float32, (self.mean, self.log_std.exp())))


class _StudentT(dist.StudentT):  # type: ignore[misc]
    """Student's t that has a variance: torch's looks at the values of nu, which no captured graph can."""

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * self.df / (self.df - 2)


def _student(df: Tensor, mean: Tensor, std: Tensor) -> Distribution:
    distribution: Distribution = _StudentT(df, mean, std * ((df - 2) / df).sqrt()).to_event(1)
    return distribution


def _laplace(mean: Tensor, std: Tensor) -> Distribution:
    distribution: Distribution = dist.Laplace(mean, std * math.sqrt(0.5)).to_event(1)
    return distribution


def _checked_df(df: float) -> Tensor:
    if not df > 2:
        raise ValueError(f"df is {df}: give a number above 2, as there is no variance otherwise; large is a Gaussian.")
    return torch.tensor(float(df))


def _add_moments(prior: nn.Module, width: int, std: float, learnable: bool) -> None:
    check_at_least(1, width=width)
    check_positive(std=std)
    for name, value in {"mean": torch.zeros(width), "log_std": torch.full((width,), math.log(std))}.items():
        if learnable:
            setattr(prior, name, nn.Parameter(value))
        else:
            prior.register_buffer(name, value)
