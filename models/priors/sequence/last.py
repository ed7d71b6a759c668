"""A cache of a function's last result."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

from ...utils.tensor_state import TensorState, same_state, state_of

__all__ = ["Last"]

R = TypeVar("R")


class Last(Generic[R]):
    """A cache of one result: that for the last value.

    It is computed again after a change in place of the value, or of other tensors that the function reads, and where
    gradients are recorded and were not, or the other way round.

    Examples:
        >>> last, value = Last(), torch.tensor(2.0)
        >>> last(torch.exp, value) is last(torch.exp, value)
        True
    """

    state: TensorState | None = None
    result: R

    def __call__(self, function: Callable[[Tensor], R], value: Tensor, *others: Tensor | None) -> R:
        state = state_of(value, *others)
        if not same_state(self.state, state):
            self.state, self.result = state, function(value)
        return self.result
