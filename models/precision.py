"""The minimum precision of distributions."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["at_least_float32"]


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A tensor in float32, or in its own dtype where that is more precise, for use in a distribution.

    Examples:
        >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(2).double()).dtype
        (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
