"""A Dirichlet distribution over log weights."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Size, Tensor
from torch.distributions import constraints, register_kl

from .expandable import Expandable
from .log_dirichlet_math import (
    LOG_ZERO,
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    dirichlet_mean_log,
    sample_log_dirichlet,
)
from .log_simplex import LogSimplex, log_simplex

__all__ = ["LogDirichlet", "where_same_components"]


class LogDirichlet(Expandable):
    r"""The distribution of :math:`\log \pi` where :math:`\pi \sim \mathrm{Dir}(\alpha)`.

    .. math:: \log p(\log \pi) = \sum_i \alpha_i \log \pi_i - \log B(\alpha)

    A density on log ratios (see :func:`~.log_dirichlet_math.dirichlet_log_prob`), so that draws, densities and KL
    divergences are finite for any concentration with a finite logarithm: weights of tokens span hundreds of orders of
    magnitude. Draws have pathwise gradients, and the KL divergence of two is exact and registered.

    Arguments:
        log_concentration: :math:`\log \alpha`, with shape :math:`(*, N)`.
        mask: True where a component exists, with shape :math:`(*, N)`. Other components are ``LOG_ZERO`` in
            draws and contribute nothing to densities: the distribution is that of the existing components alone.

    Examples:
        >>> weights = LogDirichlet(torch.tensor([0.0, 0.0, 5.0]), torch.tensor([True, True, False]))
        >>> weights.sample().exp().sum()
        tensor(1.)
        >>> weights.log_mean.exp()
        tensor([0.5000, 0.5000, 0.0000])
        >>> torch.distributions.kl_divergence(weights, weights)
        tensor(0.)
    """

    arg_constraints = {"log_concentration": constraints.independent(constraints.real, 1)}
    parameter_dims = {"log_concentration": 1, "present": 1}
    has_rsample = True

    def __init__(
        self,
        log_concentration: Float[Tensor, "*#batch n"],
        mask: Bool[Tensor, "*#batch n"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        shape = log_concentration.shape
        if mask is not None:
            try:
                shape = torch.broadcast_shapes(shape, mask.shape)
            except RuntimeError as error:
                raise ValueError(
                    f"mask has shape {tuple(mask.shape)}, log_concentration {tuple(shape)}: give one of the same shape."
                ) from error
        self.log_concentration = log_concentration.expand(shape)
        self.present = None if mask is None else mask.expand(shape)  # not `mask`: that name is Pyro's method
        super().__init__(shape[:-1], shape[-1:], validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return log_simplex if self.present is None else LogSimplex(self.present)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        log_concentration = self.log_concentration.expand(self._extended_shape(Size(sample_shape)))
        return sample_log_dirichlet(log_concentration, self.present)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return dirichlet_log_prob(self.log_concentration, value, self.present)

    def entropy(self) -> Tensor:
        return dirichlet_entropy(self.log_concentration, self.present)

    @property
    def mean(self) -> Tensor:
        r"""The mean of the log weights, :math:`\mathrm E \log \pi_i = \psi(\alpha_i) - \psi(\alpha_0)`."""
        return dirichlet_mean_log(self.log_concentration, self.present)

    @property
    def log_mean(self) -> Tensor:
        r"""The log of the mean weights, :math:`\log \mathrm E \pi_i = \log (\alpha_i / \alpha_0)`."""
        if self.present is None:
            return self.log_concentration.log_softmax(-1)
        kept = torch.where(self.present, self.log_concentration, LOG_ZERO)
        return torch.where(self.present, kept.log_softmax(-1), LOG_ZERO)


def where_same_components(p: Any, q: Any, divergence: Tensor) -> Tensor:
    """A divergence of distributions over log weights; infinite where one has components that the other has not."""
    one, other = p.present, q.present
    if one is other:
        return divergence
    same = other if one is None else one if other is None else one == other  # without a mask, all exist
    return torch.where(same.all(-1), divergence, torch.inf)


@register_kl(LogDirichlet, LogDirichlet)  # type: ignore[untyped-decorator]
def _kl_log_dirichlet(p: Any, q: Any) -> Tensor:  # not LogDirichlet: beartype warns of Pyro's typing.Callable
    return where_same_components(p, q, dirichlet_kl(p.log_concentration, q.log_concentration, p.present))
