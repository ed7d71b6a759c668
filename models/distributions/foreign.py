"""Distributions of torch and of other libraries, as Pyro's."""

from typing import Any

import pyro.distributions
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

__all__ = ["Foreign", "as_pyro"]


def as_pyro(distribution: Any) -> Any:
    r"""Convert a torch distribution to one that Pyro can sample, mask and expand.

    What is already Pyro's, or no distribution, is returned unchanged. A distribution of torch becomes Pyro's of the
    same name, with its closed forms; one of another library, such as a flow of zuko, a :class:`Foreign`. Priors are
    converted wherever a model takes one.

    Examples:
        >>> as_pyro(torch.distributions.Normal(0.0, 1.0))
        Normal(loc: 0.0, scale: 1.0)
        >>> as_pyro(torch.distributions.Normal(torch.zeros(3), 1.0)).mask(torch.tensor([True, False, True])).batch_shape
        torch.Size([3])
    """
    if isinstance(distribution, TorchDistributionMixin) or not isinstance(distribution, Distribution):
        return distribution
    kind, original = getattr(pyro.distributions, type(distribution).__name__, None), type(distribution)
    if original.__module__.startswith("torch.") and isinstance(kind, type) and issubclass(kind, original):
        new: Any = kind.__new__(kind)
        new.__dict__.update(vars(distribution))
        return new
    return Foreign(distribution)


class Foreign(TorchDistribution):
    r"""A distribution of another library, which has torch's methods, as one of Pyro's.

    Its density, draws and moments are those of the original; expanding it never asks the original to expand.

    Arguments:
        original: A :class:`torch.distributions.Distribution`.

    Examples:
        >>> class Bimodal(torch.distributions.MixtureSameFamily):
        ...     "Of another library."
        >>> modes = torch.distributions.Normal(torch.tensor([-1.0, 1.0]), 0.5)
        >>> bimodal = Bimodal(torch.distributions.Categorical(torch.ones(2)), modes)
        >>> Foreign(bimodal).expand([3]).mask(torch.tensor([True, True, False])).sample().shape
        torch.Size([3])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, original: Distribution) -> None:
        self.original = original
        super().__init__(original.batch_shape, original.event_shape, validate_args=False)

    def __repr__(self) -> str:
        return f"Foreign({type(self.original).__name__})"

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.original.has_rsample)

    @property
    def support(self) -> Any:
        """The original's support; where it has none, all vectors of real numbers."""
        try:
            support = self.original.support
        except NotImplementedError:
            support = None
        return constraints.independent(constraints.real, len(self.event_shape)) if support is None else support

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.original.sample(Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.original.rsample(Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.original.log_prob(value)

    def entropy(self) -> Tensor:
        return self.original.entropy()

    @property
    def mean(self) -> Tensor:
        return self.original.mean

    @property
    def variance(self) -> Tensor:
        return self.original.variance
