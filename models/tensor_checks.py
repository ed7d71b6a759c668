"""Checks of the values of tensors, where reading them waits for nothing."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.jit._trace import is_tracing

__all__ = ["check_entries", "is_readable"]


def is_readable(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether values are to be read, and can be at once: on a CPU, and not while a graph is traced.

    Where arguments of distributions are not validated, as in training, nothing is: what diverges is NaN there.
    """
    if not torch.distributions.Distribution._validate_args:
        return False
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not is_tracing()


def check_entries(name: str, tensor: Shaped[Tensor, "..."], allowed: Bool[Tensor, "..."], rule: str) -> None:
    """Raises unless ``allowed``, which broadcasts with the tensor, is True everywhere; where that cannot be read, not.

    Raises:
        ValueError: With the first value that is not allowed, and the rule.

    Examples:
        >>> x = torch.tensor([1.0, -2.0])
        >>> check_entries("x", x, x > 0, "it must be positive")
        Traceback (most recent call last):
        ValueError: x is -2.0; it must be positive
    """
    if not is_readable(tensor):
        return
    try:
        fine = bool(allowed.all())
    except RuntimeError:  # inside torch.func.vmap, and of fake tensors
        return
    if not fine:
        values, allowed = torch.broadcast_tensors(tensor.detach(), allowed)
        raise ValueError(f"{name} is {float(f'{float(values[~allowed][0]):.6g}')}; {rule}")
