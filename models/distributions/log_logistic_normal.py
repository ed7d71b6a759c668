"""A logistic-normal distribution over log weights."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Size, Tensor
from torch.distributions import constraints

from .expandable import Expandable
from .log_dirichlet_math import LOG_ZERO
from .log_simplex import LogSimplex

__all__ = ["LogLogisticNormal"]


class LogLogisticNormal(Expandable):
    r"""The distribution of the log softmax of independent Gaussians, whose softmax is a logistic normal.

    .. math::
        \log \pi_i = x_i - \log \sum_j e^{x_j}, \qquad x_i \sim \mathcal N(\mu_i, \sigma_i^2)

    The reference measure is that of :class:`~.log_dirichlet.LogDirichlet`, the log ratios, which are Gaussian. With
    :math:`\lambda_i = \sigma_i^{-2}`, :math:`d_i = \log \pi_i - \mu_i` and their mean :math:`\bar d` with weights
    :math:`\lambda_i`, of :math:`n` components,

    .. math::
        \log p(\log \pi) = -\frac12 \sum_i \lambda_i (d_i - \bar d)^2 - \sum_i \log \sigma_i
        - \frac12 \log \sum_i \lambda_i - \frac{n - 1}2 \log 2 \pi

    Draws have pathwise gradients.

    Arguments:
        loc: :math:`\mu`, with shape :math:`(*, N)`.
        scale: :math:`\sigma > 0`, with shape :math:`(*, N)`.
        mask: True where a component exists, with shape :math:`(*, N)`; None is everywhere. The others weigh nothing and
            do not enter densities.

    References:
        Logistic-Normal Distributions: Some Properties and Uses (Aitchison & Shen, 1980).

    Examples:
        >>> weights = LogLogisticNormal(torch.zeros(3), torch.ones(3), torch.tensor([True, True, False]))
        >>> weights.sample().exp().sum().round(decimals=5)
        tensor(1.)
        >>> equal = torch.tensor([0.5, 0.5, 0.0]).log().clamp(min=-1e30)
        >>> weights.log_prob(equal), torch.distributions.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.0))  # log ratio
        (tensor(-1.2655), tensor(-1.2655))
    """

    arg_constraints = {
        "loc": constraints.independent(constraints.real, 1),
        "scale": constraints.independent(constraints.positive, 1),
    }
    parameter_dims = {"loc": 1, "scale": 1, "present": 1}
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*#batch n"],
        scale: Float[Tensor, "*#batch n"],
        mask: Bool[Tensor, "*#batch n"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        mask = torch.ones_like(loc, dtype=torch.bool) if mask is None else mask
        self.loc, self.scale, self.present = torch.broadcast_tensors(loc, scale, mask)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        return LogSimplex(self.present)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*shape n"]:
        noise = torch.randn(self._extended_shape(Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
        x = torch.where(self.present, self.loc + self.scale * noise, LOG_ZERO)
        return torch.where(self.present, x.log_softmax(-1), LOG_ZERO)

    def log_prob(self, value: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape"]:
        if self._validate_args:
            self._validate_sample(value)
        precision = torch.where(self.present, self.scale.square().reciprocal(), 0)
        difference = torch.where(self.present, value - self.loc, 0)
        total = torch.where(self.present.any(-1), precision.sum(-1), 1)
        center = (precision * difference).sum(-1) / total
        square = (precision * (difference - center[..., None]).square()).sum(-1)
        log_volume = torch.where(self.present, self.scale.log(), 0).sum(-1) + total.log() / 2
        ratios = (self.present.sum(-1) - 1).clamp_min(0).to(square.dtype)  # an integer divided is of the default dtype
        return -square / 2 - log_volume - ratios * (0.5 * math.log(2 * math.pi))
