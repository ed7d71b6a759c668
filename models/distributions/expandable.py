"""The base class of distributions that expand by expanding their parameters."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from pyro.distributions import TorchDistribution
from torch import Size

__all__ = ["Expandable"]

D = TypeVar("D", bound="Expandable")


class Expandable(TorchDistribution):
    r"""A distribution whose parameters expand with its batch shape, so that it stays one of its class.

    ``parameter_dims`` names the tensors that expand, each with the number of its own dimensions, at the right; other
    attributes are shared. (Pyro's default would wrap the distribution, and divergences are registered for classes.)

    Examples:
        >>> class Rate(Expandable):
        ...     arg_constraints = {}
        ...     parameter_dims = {"rate": 0}
        ...     def __init__(self, rate):
        ...         self.rate = rate
        ...         super().__init__(rate.shape, validate_args=False)
        >>> Rate(torch.ones(3)).expand([2, 3]).rate.shape
        torch.Size([2, 3])
    """

    parameter_dims: ClassVar[dict[str, int]] = {}

    def expand(self: D, batch_shape: Sequence[int], _instance: Any = None) -> D:
        new: D = self.__new__(type(self)) if _instance is None else _instance
        new.__dict__.update(vars(self))
        for name, dims in self.parameter_dims.items():
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(new, name, tensor.expand(*batch_shape, *tensor.shape[tensor.ndim - dims :]))
        super(Expandable, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new
