"""Priors of the latents of layers."""

from typing import Literal

import torch
from jaxtyping import Float
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from ..utils.numbers import check_at_least
from ..utils.precision import at_least_float32
from .roles import LatentPrior

__all__ = ["First", "LinearGaussian", "LinearPrior", "StandardGaussian", "bounded_std", "gaussian", "unbounded"]

First = Literal["standard", "learned", "linear"]
LOG_VARIANCE = 5.0  # the largest log variance of a latent, and minus the smallest


class StandardGaussian(LatentPrior):
    r"""A standard Gaussian for every latent, independent of the latents below and of the condition.

    .. math:: z_l \sim \mathcal N(0, I)

    Arguments:
        latent_size: :math:`p`.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Examples:
        >>> StandardGaussian(4)(torch.zeros(5, 0), index=0).batch_shape
        torch.Size([5])
    """

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        check_at_least(1, latent_size=latent_size)
        self.latent_size = latent_size

    def forward(self, summary: Float[Tensor, "*batch p"], index: int) -> Distribution:
        zeros = at_least_float32(summary.new_zeros(*summary.shape[:-1], self.latent_size))
        return gaussian(zeros, zeros)


class LinearPrior(LatentPrior):
    r"""Base class of the priors of a latent whose mean and log variance are linear in the summary.

    .. math:: (\mu_l, \log \sigma_l^2) = W_l s_l + b_l

    A subclass defines the family in :meth:`conditional`; or in :meth:`of_scores`, where it has other parameters. At the
    start each latent has mean 0 and variance 1.

    Arguments:
        latent_size: :math:`p`.
        summary_size: :math:`S`; 0 where the latents are independent.
        layers: Number of latents.
        first: Prior of the first latent, which has none below: ``"standard"`` normal, or ``"learned"`` (a constant mean
            and variance), or ``"linear"`` like the others, where there is a condition.
        scores: The number of scores of a latent from which :meth:`of_scores` makes its distribution.

    Examples:
        >>> class Logistic(LinearPrior):
        ...     def conditional(self, mean, log_variance):
        ...         return pyro.distributions.Logistic(mean, (0.5 * log_variance).exp()).to_event(1)
        >>> prior = Logistic(latent_size=4, summary_size=6, layers=3)
        >>> prior(torch.zeros(5, 6), index=2).event_shape
        torch.Size([4])
    """

    def __init__(
        self, latent_size: int, summary_size: int, layers: int, first: First = "standard", scores: int | None = None
    ) -> None:
        super().__init__()
        check_at_least(1, latent_size=latent_size, layers=layers)
        self.latent_size = latent_size
        linear = [summary_size > 0 and (k > 0 or first == "linear") for k in range(layers)]
        learned = [linear[k] or (k == 0 and first == "learned") for k in range(layers)]
        self.scores = outputs = 2 * latent_size if scores is None else scores
        self.weights = nn.ParameterDict(
            {str(k): torch.zeros(outputs, summary_size) for k in range(layers) if linear[k]}
        )
        self.biases = nn.ParameterDict({str(k): torch.zeros(outputs) for k in range(layers) if learned[k]})

    def forward(self, summary: Float[Tensor, "*batch p"], index: int) -> Distribution:
        name = str(index)
        if name in self.weights:
            scores = nn.functional.linear(summary, self.weights[name], self.biases[name])
        else:
            bias = self.biases[name] if name in self.biases else summary.new_zeros(self.scores)
            scores = bias.expand(*summary.shape[:-1], -1)
        return self.of_scores(at_least_float32(scores))

    def of_scores(self, scores: Float[Tensor, "*batch s"]) -> Distribution:
        """The distribution of a latent with these scores, which are 0 for a standard one."""
        return self.conditional(*scores.chunk(2, -1))

    def conditional(self, mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
        """The distribution of a latent with this mean and log variance, its entries independent."""
        raise NotImplementedError(f"{type(self).__name__} is a LinearPrior: write conditional(mean, log_variance)")


class LinearGaussian(LinearPrior):
    r"""A Gaussian whose mean and log variance are linear in the summary.

    .. math:: z_l \sim \mathcal N(\mu_l, \operatorname{diag} \sigma_l^2), \quad (\mu_l, \log \sigma_l^2) = W_l s_l + b_l

    At the start it is standard normal for every latent. The log variance is bounded smoothly by :data:`LOG_VARIANCE`.
    Arguments are those of :class:`LinearPrior`.

    References:
        Fuse It More Deeply! (Hu et al., 2022), Eq. 8, https://arxiv.org/abs/2207.06130

    Examples:
        >>> prior = LinearGaussian(latent_size=4, summary_size=6, layers=3)
        >>> prior(torch.randn(5, 6), index=2).batch_shape
        torch.Size([5])
    """

    def conditional(self, mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
        return gaussian(mean, log_variance)


def gaussian(mean: Float[Tensor, "*batch p"], log_variance: Float[Tensor, "*batch p"]) -> Distribution:
    r"""A diagonal Gaussian whose log variance is bounded smoothly, :math:`b \tanh(\log \sigma^2 / b)`.

    Examples:
        >>> gaussian(torch.zeros(4), torch.full((4,), 100.0)).stddev
        tensor([12.1825, 12.1825, 12.1825, 12.1825])
    """
    normal: Distribution = dist.Normal(mean, bounded_std(log_variance)).to_event(1)
    return normal


def bounded_std(log_variance: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    r"""Standard deviations from log variances that are bounded smoothly, :math:`b \tanh(\log \sigma^2 / b)`."""
    return (LOG_VARIANCE * torch.tanh(log_variance / LOG_VARIANCE) / 2).exp()


def unbounded(variance: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    """The log variances that the bound maps to the logs of these variances, clamped to the range of the bound.

    Examples:
        >>> torch.testing.assert_close(bounded_std(unbounded(torch.tensor([0.25]))), torch.tensor([0.5]))
    """
    return LOG_VARIANCE * (variance.log() / LOG_VARIANCE).clamp(-0.95, 0.95).atanh()
