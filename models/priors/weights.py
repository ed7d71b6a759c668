"""Priors of mixture weights."""

import math

import torch
from jaxtyping import Bool, Float, Int
from pyro import distributions as dist
from pyro.nn import PyroSample
from torch import Tensor
from torch.distributions import Distribution

from ..distributions.log_dirichlet import LogDirichlet
from ..distributions.stick_breaking import LogStickBreaking
from ..utils.numbers import check_at_least, check_not_negative, check_positive
from ..utils.precision import at_least_float32
from .hyperpriors import Hierarchical
from .roles import WeightPrior

__all__ = [
    "GEM",
    "BoundedDirichletProcess",
    "GammaDirichletProcess",
    "PitmanYor",
    "SymmetricDirichlet",
    "conditional_concentration",
]


class BoundedDirichletProcess(WeightPrior):
    r"""A Dirichlet process over the mixture, bounded to as many draws as the text has components.

    .. math:: \pi \sim \mathrm{Dir}\Big( \frac{\alpha_0 + \Delta n}{\kappa (n + 1)}, \dots \Big)

    Arguments:
        concentration: :math:`\alpha_0 > 0`, the total concentration of an empty text.
        delta: :math:`\Delta \geq 0`, the increase with each token. It decides how many vectors a text keeps: the
            larger, the more. At 0, the plain Dirichlet process, long texts keep as few as short ones, and a guide whose
            ``alpha`` is ``relu`` can switch off the vectors of all texts, from which it does not recover.
        samples_per_component: Number of draws of each component.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson & Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> prior = BoundedDirichletProcess(delta=1.0)
        >>> prior(torch.tensor([[True, True, True], [True, False, False]])).log_concentration[:, 0].exp()
        tensor([1., 1.])
    """

    concentration: Tensor
    delta: Tensor

    def __init__(self, concentration: float = 1.0, delta: float = 0.3, samples_per_component: int = 1) -> None:
        super().__init__()
        check_positive(concentration=concentration)
        check_not_negative(delta=delta)
        check_at_least(1, samples_per_component=samples_per_component)
        self.samples_per_component = samples_per_component
        self.register_buffer("concentration", torch.tensor(float(concentration)))
        self.register_buffer("delta", torch.tensor(float(delta)))

    def total_concentration(self, components: Int[Tensor, "*#batch"]) -> Float[Tensor, "*batch"]:
        r""":math:`\alpha_0 + \Delta n` for a text of ``components`` :math:`= \kappa (n + 1)`, the prior's included."""
        concentration, delta = at_least_float32(self.concentration), at_least_float32(self.delta)
        length = (components.to(concentration.dtype) / self.samples_per_component - 1).clamp(min=0)
        return conditional_concentration(concentration, delta, length)

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        components = mask.sum(-1)
        each = self.total_concentration(components) / components.clamp(min=1)
        shape = torch.broadcast_shapes(each.shape + (1,), mask.shape)  # the concentration may have draws on the left
        return LogDirichlet(each.log()[..., None].expand(shape), mask)

    def own_log_concentration(self) -> Float[Tensor, "..."]:
        return self.concentration.log()

    def token_log_concentration(self) -> float | None:
        return math.log(self.delta) if self.delta > 0 else None

    def extra_repr(self) -> str:
        own = f"concentration={self.concentration:g}, delta={self.delta:g}"
        return f"{own}, samples_per_component={self.samples_per_component}"


class SymmetricDirichlet(WeightPrior):
    r"""A finite Dirichlet with the same concentration for every component, however many there are.

    .. math:: \pi \sim \mathrm{Dir}(a, \dots, a)

    Below 1 it prefers few components, 1 is uniform, above 1 it prefers equal weights. The divergence of a guide's
    Dirichlet is exact.

    Arguments:
        concentration: :math:`a > 0`, of each component.

    Raises:
        ValueError: If it is not positive.

    References:
        Bayesian Data Analysis (Gelman et al., 2013), section 3.4.

    Examples:
        >>> distribution = SymmetricDirichlet(2.0)(torch.tensor([True, True, False]))
        >>> distribution.log_concentration.exp()
        tensor([2., 2., 2.])
    """

    concentration: Tensor

    def __init__(self, concentration: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("concentration", _positive("concentration", concentration))

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        return LogDirichlet(at_least_float32(self.concentration).log().expand(mask.shape), mask)

    def own_log_concentration(self) -> Float[Tensor, "..."]:
        return self.concentration.log()

    def extra_repr(self) -> str:
        return f"concentration={self.concentration:g}"


class GEM(WeightPrior):
    r"""Stick-breaking weights of a Dirichlet process: each component takes a share of the rest, the last one all of it.

    .. math:: \pi_n = b_n \prod_{m < n} (1 - b_m), \quad b_n \sim \mathrm{Beta}(1, a)

    Components break the stick in their order: the prior's own first, then those of the tokens from left to right. So
    the first tokens have the largest weights on average; :class:`SymmetricDirichlet` has no such order. The divergence
    of a guide's Dirichlet is exact.

    Arguments:
        concentration: :math:`a > 0`; small values leave little for later components.

    Raises:
        ValueError: If it is not positive.

    References:
        A Constructive Definition of Dirichlet Priors (Sethuraman, 1994).

    Examples:
        >>> GEM(1.0)(torch.ones(4, dtype=torch.bool)).mean.diff() < 0  # of log weights
        tensor([ True,  True, False])
    """

    concentration: Tensor

    def __init__(self, concentration: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("concentration", _positive("concentration", concentration))

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        return LogStickBreaking(at_least_float32(self.concentration), mask)

    def own_log_concentration(self) -> Float[Tensor, "..."]:
        return self.concentration.log()

    def extra_repr(self) -> str:
        return f"concentration={self.concentration:g}"


class PitmanYor(GEM):
    r"""Stick-breaking weights with a power-law tail, such as word frequencies have; the order is that of GEM.

    .. math:: \pi_n = b_n \prod_{m < n} (1 - b_m), \quad b_n \sim \mathrm{Beta}(1 - d, a + n d)

    Arguments:
        concentration: :math:`a > 0`.
        discount: :math:`0 \le d < 1`; 0 is :class:`GEM`.

    Raises:
        ValueError: If either is out of its range.

    References:
        The Two-Parameter Poisson-Dirichlet Distribution (Pitman & Yor, 1997).

    Examples:
        >>> PitmanYor(1.0, 0.5)(torch.ones(4, dtype=torch.bool)).event_shape
        torch.Size([4])
    """

    discount: Tensor

    def __init__(self, concentration: float = 1.0, discount: float = 0.5) -> None:
        super().__init__(concentration)
        if not 0 <= discount < 1:
            raise ValueError(
                f"discount is {discount}: give a number of at least 0, the Dirichlet process, and below 1."
            )
        self.register_buffer("discount", torch.tensor(float(discount)))

    def forward(self, mask: Bool[Tensor, "*batch n"]) -> Distribution:
        return LogStickBreaking(at_least_float32(self.concentration), mask, at_least_float32(self.discount))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, discount={self.discount:g}"


class GammaDirichletProcess(BoundedDirichletProcess, Hierarchical):
    r"""A bounded Dirichlet process with a random concentration: the number of components in use is learned.

    .. math:: \alpha_0 \sim \mathrm{Gamma}(s, r), \quad
        \pi \sim \mathrm{Dir}\Big( \frac{\alpha_0 + \Delta n}{\kappa (n + 1)}, \dots \Big)

    The concentration is one for all texts. Its site is ``weight_prior.concentration``.

    Arguments:
        shape: :math:`s > 0`.
        rate: :math:`r > 0`; the mean of the concentration is :math:`s / r`.
        delta: :math:`\Delta \geq 0`, the increase with each token.
        samples_per_component: Number of draws of each component.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Bayesian Density Estimation and Inference Using Mixtures (Escobar & West, 1995), section 6.

    Examples:
        >>> GammaDirichletProcess(2.0, 2.0)(torch.ones(5, 4, dtype=torch.bool)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self, shape: float = 1.0, rate: float = 1.0, delta: float = 0.3, samples_per_component: int = 1
    ) -> None:
        super().__init__(delta=delta, samples_per_component=samples_per_component)
        distribution = dist.Gamma(_positive("shape", shape), _positive("rate", rate))
        self.concentration = PyroSample(distribution)  # type: ignore[assignment]

    def extra_repr(self) -> str:
        return f"delta={self.delta:g}, samples_per_component={self.samples_per_component}"


def conditional_concentration(
    concentration: Float[Tensor, "*#batch"] | float,
    delta: Float[Tensor, "*#batch"] | float,
    length: Int[Tensor, "*#batch"] | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""The prior's total concentration for a text of :math:`n` tokens.

    .. math:: \alpha_0^{p\prime} = \alpha_0^p + \Delta n

    A fixed concentration would penalize long texts. :math:`\Delta = 0` is the plain Dirichlet process;
    :math:`\alpha_0^p = \Delta = 1` gives a flat Dirichlet over the tokens and the prior component.

    Arguments:
        concentration: :math:`\alpha_0^p > 0`.
        delta: :math:`\Delta \geq 0`.
        length: :math:`n`, the number of tokens, without the prior component.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck
        (Henderson & Fehr, 2023), https://arxiv.org/abs/2207.13529

    Examples:
        >>> conditional_concentration(1.0, 0.3, torch.tensor([10, 20]))
        tensor([4., 7.])
    """
    return concentration + delta * length


def _positive(name: str, value: float) -> Tensor:
    check_positive(**{name: value})
    return torch.tensor(float(value))
