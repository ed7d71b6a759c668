"""Detect whether tensors changed since a result was cached."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TensorState", "same_state", "state_of"]


class TensorState(NamedTuple):
    """Tensors, their version counters and ``requires_grad`` flags, and whether gradients are recorded."""

    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    require_grad: tuple[bool, ...]
    grad_enabled: bool


def state_of(*tensors: Tensor | None) -> TensorState | None:
    """The state of the tensors that are not None; None if it is unknown, as for inference tensors.

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
    """Whether a result computed in one state is valid in the other; False if either is unknown."""
    if one is None or other is None or len(one.tensors) != len(other.tensors):
        return False
    return one[1:] == other[1:] and all(a is b for a, b in zip(one.tensors, other.tensors, strict=True))
