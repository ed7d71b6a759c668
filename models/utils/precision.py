"""The minimum precision of distributions."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["at_least_float32", "without_autocast"]


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A tensor in float32, or in its own dtype where that is more precise, for use in a distribution.

    Examples:
        >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(2).double()).dtype
        (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products keep the dtype of their factors; devices without autocast, such as meta, need none.

    Examples:
        >>> x = torch.randn(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(x.device):
        ...     (x @ x).dtype
        torch.float32
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
