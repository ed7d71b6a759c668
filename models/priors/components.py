r"""Priors over the components of a mixture: conjugate ones for means, stick breaking for weights."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from pyro import distributions as dist
from pyro.nn import PyroSample
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints

from ..distributions.expandable import Expandable
from ..distributions.stick_breaking import LogStickBreaking
from ..local_params import LocalModule
from ..serialization import Configurable
from ..utils.numbers import check_at_least
from ..utils.scalars import tensor_like
from .checks import as_prior
from .roles import Prior

__all__ = ["ComponentPrior", "DirichletProcess", "GaussianVectors", "StickBreaking"]


class ComponentPrior(Prior):
    r"""The role of a prior over the means of a mixture's components, or over their values.

    ``forward(precision)`` takes the precisions of observations of a mean, with a shape that broadcasts to
    :math:`(*, N, D)`, and returns a distribution with event shape :math:`(D)` and a batch shape that broadcasts to
    :math:`(*, N)`.

    Examples:
        >>> class Near(ComponentPrior):
        ...     def forward(self, precision):
        ...         return pyro.distributions.Normal(torch.zeros(3, 2), 0.1).to_event(1)
        >>> mixture = pf.Mixture(torch.zeros(3).log_softmax(-1), torch.randn(3, 2), noise_variance=1.0)
        >>> model = pf.MixtureAttention(mixture, keys=Near())
        >>> trace = pyro.poutine.trace(model).get_trace(torch.randn(5, 2))
        >>> trace.nodes["keys"]["value"].shape
        torch.Size([3, 2])
    """

    def forward(self, precision: Float[Tensor, "..."]) -> Distribution:
        raise NotImplementedError(
            f"{type(self).__name__} is a ComponentPrior: write forward(precision) -> Distribution"
        )


class GaussianVectors(ComponentPrior):
    r"""The conjugate prior: an initial mean counts as much as :math:`\kappa` queries.

    .. math:: \mu_n \sim N\left(\mu_n^0, \frac{1}{\kappa \alpha_n}\right)

    With a Gamma prior over the precisions :math:`\alpha_n` it is the Normal-Gamma prior, as in
    :class:`~pyroformer.models.attention.em.conjugate_priors.ConjugatePriors`.

    Arguments:
        initial: :math:`\mu^0`, with shape :math:`(*, N, D)`.
        pseudo_counts: :math:`\kappa > 0`; a number, or one for each component with shape :math:`(*, N)`.

    Raises:
        ValueError: If a pseudo-count is not positive.

    Examples:
        >>> GaussianVectors(torch.zeros(3, 2), pseudo_counts=4.0)(torch.ones(3, 1)).stddev[0]
        tensor([0.5000, 0.5000])
    """

    initial: Tensor
    pseudo_counts: Tensor

    def __init__(
        self, initial: Float[Tensor, "*batch n d"], pseudo_counts: float | Float[Tensor, "*#batch n"] = 1.0
    ) -> None:
        super().__init__()
        prior_counts = tensor_like(pseudo_counts, initial)
        if not bool((prior_counts > 0).all()):
            raise ValueError(
                f"pseudo_counts is {float(prior_counts.min())}: give a positive number, or leave the prior out."
            )
        self.register_buffer("initial", initial)
        self.register_buffer("pseudo_counts", prior_counts.expand(initial.shape[:-1]).clone())

    def forward(self, precision: Float[Tensor, "..."]) -> Distribution:
        scale = (self.pseudo_counts[..., None] * precision).rsqrt()
        normal: Distribution = dist.Normal(self.initial, scale).to_event(1)
        return normal


class StickBreaking(Expandable):
    r"""Weights of the first N components of a Dirichlet process, the last of which takes the rest of the stick.

    .. math::
        \pi_n = b_n \prod_{k < n} (1 - b_k), \qquad b_n \sim \text{Beta}(1, a), \qquad
        p(\pi) = a^{N-1} \pi_N^{a-1} \prod_{n=2}^{N-1} \Big( \sum_{k \ge n} \pi_k \Big)^{-1}

    Arguments:
        concentration: :math:`a`, with shape :math:`(*)`.
        components: :math:`N \ge 2`.

    For small :math:`a` the last weights underflow, :math:`e^{-N/a}` on average, and densities of draws with them:
    :class:`~pyroformer.models.distributions.stick_breaking.LogStickBreaking` has the same over log weights.

    References:
        Gibbs Sampling Methods for Stick-Breaking Priors (Ishwaran and James, 2001).

    Examples:
        >>> distribution = StickBreaking(torch.tensor(3.0), components=2)
        >>> torch.allclose(distribution.log_prob(torch.tensor([0.2, 0.8])), torch.tensor(3 * 0.8**2).log())
        True
    """

    arg_constraints = {"concentration": constraints.positive}
    parameter_dims = {"concentration": 0}
    support = constraints.simplex
    has_rsample = True

    def __init__(
        self, concentration: Float[Tensor, "*batch"], components: int, validate_args: bool | None = None
    ) -> None:
        check_at_least(2, components=components)
        self.concentration = concentration
        super().__init__(concentration.shape, Size((components,)), validate_args)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        mask = torch.ones(self.event_shape, dtype=torch.bool, device=self.concentration.device)
        return LogStickBreaking(self.concentration, mask, validate_args=False).rsample(sample_shape).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        tiny = torch.finfo(value.dtype).tiny
        rest = value.flip(-1).cumsum(-1).flip(-1).clamp_min(tiny)
        shrinkage = (self.concentration - 1) * rest[..., -1].log()
        return (value.shape[-1] - 1) * self.concentration.log() + shrinkage - rest[..., 1:-1].log().sum(-1)

    @property
    def mean(self) -> Tensor:
        each = 1 / (1 + self.concentration[..., None])
        order = torch.arange(self.event_shape[0], device=each.device)
        last = order == self.event_shape[0] - 1
        return torch.where(last, 1, each) * (1 - each) ** order


class DirichletProcess(Configurable, LocalModule):
    r"""Weights of a Dirichlet process that is truncated to the mixture's components.

    .. math:: a \sim p(a), \qquad \pi \sim \text{StickBreaking}(a)

    Draws are log weights, so that none is lost where a is small and the last weights underflow.

    Arguments:
        concentration: :math:`a`: a positive number, or its prior: a distribution, a module or a function. About
            :math:`a \log (1 + M / a)` components explain M queries.

    Examples:
        >>> import pyro.distributions as dist
        >>> prior = DirichletProcess(dist.Gamma(1.0, 1.0))
        >>> prior(torch.ones(5, dtype=torch.bool)).event_shape
        torch.Size([5])
    """

    def __init__(self, concentration: float | nn.Module | Distribution | Callable[..., Distribution] = 1.0) -> None:
        super().__init__()
        if not isinstance(concentration, float | int):
            self.hyperprior = as_prior(concentration, nn.Module, "concentration")
            self.concentration = PyroSample(
                partial(_hyperprior)
            )  # Pyro renames a plain function, so that it cannot be pickled
            return
        if not concentration > 0:
            raise ValueError(f"concentration is {concentration}: give a positive number.")
        self.register_buffer("concentration", torch.tensor(float(concentration)))

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        concentration: Any = self.concentration
        batch = torch.broadcast_shapes(concentration.shape, mask.shape[:-1])
        return LogStickBreaking(concentration.expand(batch), mask)


def _hyperprior(module: Any) -> Any:
    distribution: Distribution = module.hyperprior()
    return distribution
