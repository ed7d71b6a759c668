"""The support of distributions over log weights, and its bijection from unconstrained vectors."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to
from torch.nn.functional import logsigmoid, pad

from .log_dirichlet_math import LOG_ZERO

__all__ = ["LogSimplex", "LogStickBreakingTransform", "breaking", "log_simplex", "remaining"]


class LogSimplex(constraints.Constraint):
    """Vectors of log weights: their exponentials sum to one. ``LOG_ZERO`` stands for a weight of zero.

    Arguments:
        mask: True where a component exists, with shape :math:`(*, N)`; None is everywhere. The others weigh nothing. In
            a row without any component, all weights are zero.

    Examples:
        >>> LogSimplex(torch.tensor([True, False])).check(torch.tensor([[0.0, -1e30], [-1e30, 0.0]]))
        tensor([ True, False])
    """

    event_dim = 1

    def __init__(self, mask: Bool[Tensor, "*batch n"] | None = None) -> None:
        self.mask = mask

    def check(self, value: Tensor) -> Tensor:
        tolerance = 1e-6 if value.dtype == torch.float64 else 1e-4
        weights = value.exp()
        total = 1 if self.mask is None else self.mask.any(-1).to(weights.dtype)
        fine = (weights.sum(-1) - total).abs() < tolerance
        return fine if self.mask is None else fine & (torch.where(self.mask, 0, weights).sum(-1) < tolerance)

    def __repr__(self) -> str:
        return "LogSimplex()"  # torch's drops the first letter, an underscore in its own classes


log_simplex = LogSimplex()


class LogStickBreakingTransform(Transform):
    r"""Log weights of N components from the log odds of N - 1 shares.

    .. math::
        \log \pi_n = \log b_n + \sum_{m < n} \log (1 - b_m), \qquad
        b_n = \sigma(x_n - \log (N - n))

    Zeros become equal weights. The shares of a Dirichlet distribution and of a stick-breaking process are independent,
    so that a guide of independent Gaussians (Pyro's ``AutoNormal``) leaves out no correlation of the prior. The
    Jacobian is one, because densities of log weights have the log ratios as their reference measure.

    With a mask, the components that exist break the stick as if there were no other. The coordinates that are then left
    over have a standard normal density in place of a Jacobian, so that a posterior over all of them is proper; their
    inverse is 0. So a base distribution that it transforms must be standard normal there, and independent of the rest:
    where :func:`breaking` is False of the first N - 1 components.

    Arguments:
        mask: True where a component exists, with shape :math:`(*, N)`; None is everywhere.

    Examples:
        >>> transform = LogStickBreakingTransform()
        >>> transform(torch.zeros(3)).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
        >>> transform.inv(torch.tensor([0.5, 0.25, 0.25]).log()).round(decimals=4)
        tensor([0.6931, 0.0000])
        >>> LogStickBreakingTransform(torch.tensor([True, False, True]))(torch.zeros(2)).exp()
        tensor([0.5000, 0.0000, 0.5000])

        Weights of a family of one's own, with heavy tails:

        >>> from pyro import distributions as dist
        >>> def heavy(mask):
        ...     base = dist.MaskedMixture(breaking(mask)[..., :-1], dist.Normal(0.0, 1.0), dist.StudentT(4.0))
        ...     return dist.TransformedDistribution(base.to_event(1), [LogStickBreakingTransform(mask)])
        >>> log_weights = torch.tensor([0.3, 0.7]).log()
        >>> heavy(torch.tensor([True, True])).log_prob(log_weights)
        tensor(-1.3935)
        >>> heavy(torch.tensor([True, True, False])).log_prob(torch.cat([log_weights, torch.tensor([-1e30])]))
        tensor(-1.3935)
    """

    domain = constraints.real_vector
    bijective = True

    def __init__(self, mask: Bool[Tensor, "*batch n"] | None = None, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.mask = mask
        self.codomain = LogSimplex(mask)

    def with_cache(self, cache_size: int = 1) -> "LogStickBreakingTransform":
        return self if cache_size == self._cache_size else LogStickBreakingTransform(self.mask, cache_size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LogStickBreakingTransform) or (self.mask is None) != (other.mask is None):
            return False
        return self.mask is None or other.mask is None or torch.equal(self.mask, other.mask)

    __hash__ = Transform.__hash__

    def _call(self, x: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape n+1"]:
        mask = self._mask_of(x)
        log_odds, breaks = x - _log_later(mask, x), breaking(mask)[..., :-1]
        taken, left = (torch.where(breaks, logsigmoid(each), 0) for each in (log_odds, -log_odds))
        return torch.where(mask, pad(taken, (0, 1)) + pad(left.cumsum(-1), (1, 0)), LOG_ZERO)

    def _inverse(self, y: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape n-1"]:
        mask = self._mask_of(y[..., :-1])
        y = torch.where(mask, y, LOG_ZERO)
        rest = y.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
        x = y[..., :-1] - rest + _log_later(mask, y)
        return torch.where(breaking(mask)[..., :-1], x, 0)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self.mask is None:
            return x.new_zeros(x.shape[:-1])
        normal = -0.5 * (x.square() + math.log(2 * math.pi))
        return torch.where(breaking(self._mask_of(x))[..., :-1], 0, normal).sum(-1)

    def forward_shape(self, shape: Size) -> Size:
        return Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Size) -> Size:
        return Size((*shape[:-1], shape[-1] - 1))

    def _mask_of(self, x: Tensor) -> Tensor:
        """The mask of the components of unconstrained vectors, on their device."""
        if self.mask is None:
            return torch.ones(x.shape[-1] + 1, dtype=torch.bool, device=x.device)
        return self.mask.to(x.device)


def breaking(mask: Bool[Tensor, "*batch n"]) -> Bool[Tensor, "*batch n"]:
    """The components that break the stick: those that exist, but the last.

    Examples:
        >>> breaking(torch.tensor([True, False, True, True, False]))
        tensor([ True, False,  True, False, False])
    """
    return mask & (remaining(mask) > 1)


def remaining(mask: Bool[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """The number of components that exist from each one to the last, itself included."""
    return mask.flip(-1).cumsum(-1).flip(-1)


def _log_later(mask: Bool[Tensor, "*batch n"], like: Tensor) -> Float[Tensor, "*batch n-1"]:
    """The log number of components that exist after each one, in the dtype of another tensor; 0 after the last."""
    return remaining(mask)[..., 1:].clamp_min(1).to(like.dtype).log()


def _transform(constraint: LogSimplex) -> Transform:
    return LogStickBreakingTransform(constraint.mask)


biject_to.register(LogSimplex, _transform)
transform_to.register(LogSimplex, _transform)
