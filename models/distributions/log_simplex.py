"""The support of distributions over log weights, and its bijection from unconstrained vectors."""

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to
from torch.nn.functional import logsigmoid, pad

__all__ = ["LogStickBreakingTransform", "log_simplex"]


class _LogSimplex(constraints.Constraint):
    """Vectors of log weights: their exponentials sum to one. ``LOG_ZERO`` stands for a weight of zero."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        tolerance = 1e-6 if value.dtype == torch.float64 else 1e-4
        return (value.exp().sum(-1) - 1).abs() < tolerance


log_simplex = _LogSimplex()


class LogStickBreakingTransform(Transform):
    r"""Log weights of N components from the log odds of N - 1 shares.

    .. math::
        \log \pi_n = \log b_n + \sum_{m < n} \log (1 - b_m), \qquad
        b_n = \sigma(x_n - \log (N - n))

    Zeros become equal weights. The shares of a Dirichlet distribution and of a stick-breaking process are independent,
    so that a guide of independent Gaussians (Pyro's ``AutoNormal``) leaves out no correlation of the prior. The
    Jacobian is one, because densities of log weights have the log ratios as their reference measure.

    Examples:
        >>> transform = LogStickBreakingTransform()
        >>> transform(torch.zeros(3)).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
        >>> transform.inv(torch.tensor([0.5, 0.25, 0.25]).log()).round(decimals=4)
        tensor([0.6931, 0.0000])
    """

    domain = constraints.real_vector
    codomain = log_simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogStickBreakingTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape n+1"]:
        log_odds = x - _log_later(x)
        left = logsigmoid(-log_odds).cumsum(-1)
        return pad(logsigmoid(log_odds), (0, 1)) + pad(left, (1, 0))

    def _inverse(self, y: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape n-1"]:
        rest = y.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]
        x = y[..., :-1] - rest
        return x + _log_later(x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])

    def forward_shape(self, shape: Size) -> Size:
        return Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Size) -> Size:
        return Size((*shape[:-1], shape[-1] - 1))


def _log_later(x: Float[Tensor, "*shape n"]) -> Float[Tensor, " n"]:
    """The log number of components after each one."""
    return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device).log()


def _transform(constraint: constraints.Constraint) -> Transform:
    return LogStickBreakingTransform()


biject_to.register(_LogSimplex, _transform)
transform_to.register(_LogSimplex, _transform)
