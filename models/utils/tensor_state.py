"""Whether tensors are as they were, so that what was computed from them still holds."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TensorState", "same_state", "state_of"]


class TensorState(NamedTuple):
    """Tensors, how often each was changed in place and whether it requires a gradient; and whether one is recorded."""

    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    require_grad: tuple[bool, ...]
    grad_enabled: bool


def state_of(*tensors: Tensor | None) -> TensorState | None:
    """The state of tensors, without those that are None; None if it cannot be known, as that of inference tensors.

    Within a compiler's graph, tensors have no versions.

    Examples:
        >>> x = torch.zeros(2)
        >>> before = state_of(x)
        >>> same_state(before, state_of(x)), same_state(before, state_of(x.add_(1)))
        (True, False)
    """
    present = tuple(tensor for tensor in tensors if tensor is not None)
    versions: tuple[int, ...] = ()
    if not torch.compiler.is_compiling():
        if any(tensor.is_inference() for tensor in present):
            return None
        versions = tuple(tensor._version for tensor in present)
    return TensorState(present, versions, tuple(each.requires_grad for each in present), torch.is_grad_enabled())


def same_state(one: TensorState | None, other: TensorState | None) -> bool:
    """Whether a result computed in one state holds in another one; False if either is not known."""
    if one is None or other is None or len(one.tensors) != len(other.tensors):
        return False
    return one[1:] == other[1:] and all(a is b for a, b in zip(one.tensors, other.tensors, strict=True))
