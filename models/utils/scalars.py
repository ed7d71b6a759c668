"""Numbers as tensors, without a copy from the CPU to the device, which would wait for it."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["tensor_like"]


def tensor_like(value: Any, like: Tensor) -> Tensor:
    """A number or a tensor in the dtype and on the device of another tensor.

    Examples:
        >>> tensor_like(2, torch.zeros(3, dtype=torch.float64))
        tensor(2., dtype=torch.float64)
        >>> tensor_like(torch.ones(2), torch.zeros(3)).shape
        torch.Size([2])
    """
    if isinstance(value, int | float):
        return like.new_full((), value)
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)
