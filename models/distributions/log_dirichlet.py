"""A Dirichlet distribution over log weights, and a categorical distribution over text lengths."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, constraints, register_kl, transform_to
from torch.distributions.utils import lazy_property

from .log_dirichlet_math import (
    LOG_ZERO,
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    dirichlet_mean_log,
    sample_log_dirichlet,
)

__all__ = ["Lengths", "LogDirichlet", "log_simplex"]


_ONCE = Size()


class _LogSimplex(constraints.Constraint):
    """Vectors of log weights: their exponentials sum to one. ``LOG_ZERO`` stands for a weight of zero."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        tolerance = 1e-6 if value.dtype == torch.float64 else 1e-4
        return (value.exp().sum(-1) - 1).abs() < tolerance


log_simplex = _LogSimplex()


class LogDirichlet(TorchDistribution):
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
    support = log_simplex
    has_rsample = True

    def __init__(
        self,
        log_concentration: Float[Tensor, "*#batch n"],
        mask: Bool[Tensor, "*#batch n"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        shape = log_concentration.shape
        if mask is not None:
            shape = torch.broadcast_shapes(shape, mask.shape)
        self.log_concentration = log_concentration.expand(shape)
        self.present = None if mask is None else mask.expand(shape)  # not `mask`: that name is Pyro's method
        super().__init__(shape[:-1], shape[-1:], validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "LogDirichlet":
        new: LogDirichlet = self._get_checked_instance(LogDirichlet, _instance)
        shape = Size(batch_shape) + self.event_shape
        new.log_concentration = self.log_concentration.expand(shape)
        new.present = None if self.present is None else self.present.expand(shape)
        super(LogDirichlet, new).__init__(shape[:-1], self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = _ONCE) -> Tensor:
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


@register_kl(LogDirichlet, LogDirichlet)  # type: ignore[untyped-decorator]
def _kl_log_dirichlet(p: Any, q: Any) -> Tensor:  # not LogDirichlet: beartype warns of Pyro's typing.Callable
    if (p.present is None) != (q.present is None):
        raise ValueError("one LogDirichlet has a mask and the other none: give both the same mask")
    return dirichlet_kl(p.log_concentration, q.log_concentration, p.present)


class Lengths(TorchDistribution):
    r"""A categorical distribution over the lengths :math:`1, \dots, W`.

    Arguments:
        logits: Log probabilities up to a constant, of length 1 first, with shape :math:`(*, W)`.

    Examples:
        >>> Lengths(torch.zeros(4)).log_prob(torch.tensor(4)).exp()
        tensor(0.2500)
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    has_enumerate_support = True

    def __init__(self, logits: Float[Tensor, "*batch w"], validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], Size(), validate_args)

    @property
    def max_length(self) -> int:
        """The largest length."""
        return self.logits.shape[-1]

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(1, self.max_length)

    @lazy_property
    def probs(self) -> Tensor:
        return self.logits.exp()

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Lengths":
        new: Lengths = self._get_checked_instance(Lengths, _instance)
        new.logits = self.logits.expand(Size(batch_shape) + self.logits.shape[-1:])
        super(Lengths, new).__init__(Size(batch_shape), Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = _ONCE) -> Int[Tensor, "..."]:
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            flat = self.logits.exp().reshape(-1, self.max_length)
            draws = torch.multinomial(flat, math.prod(sample_shape), replacement=True).T
            return (draws + 1).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self.logits.expand(shape + (self.max_length,))
        return logits.gather(-1, value.long().expand(shape)[..., None] - 1).squeeze(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = torch.arange(1, self.max_length + 1, device=self.logits.device)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1,) + self.batch_shape) if expand else values

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum(-1)

    @property
    def mean(self) -> Tensor:
        return (self.probs * self.enumerate_support(expand=False).reshape(-1)).sum(-1)


class _LogRatios(Transform):
    """Log weights from their log ratios to the last; the reference measure of both densities is that of the ratios."""

    domain = constraints.real_vector
    codomain = log_simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _LogRatios)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 1)).log_softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., :-1] - y[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])

    def forward_shape(self, shape: Size) -> Size:
        return Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Size) -> Size:
        return Size((*shape[:-1], shape[-1] - 1))


def _log_ratios(constraint: constraints.Constraint) -> Transform:
    return _LogRatios()


biject_to.register(_LogSimplex, _log_ratios)
transform_to.register(_LogSimplex, _log_ratios)
