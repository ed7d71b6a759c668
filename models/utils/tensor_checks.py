"""Checks of the types of tensors, and of their values where reading them waits for nothing."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.jit._trace import is_tracing

__all__ = ["check_entries", "check_leading", "check_types", "is_known", "is_readable"]


def is_known(tensor: Shaped[Tensor, "..."], wait: bool = False) -> bool:
    """Whether code may branch on values: outside of graph traces and torch.func, and on a CPU.

    Arguments:
        tensor: The values.
        wait: Whether it may wait for another device, too.

    Examples:
        >>> is_known(torch.zeros(2)), is_known(torch.zeros(2, device="meta"), wait=True)
        (True, False)
    """
    if torch.compiler.is_compiling() or is_tracing() or is_functorch_wrapped_tensor(tensor):
        return False
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta:  # a compiler's tensors have no values
        return False
    return wait or tensor.device.type == "cpu"


def is_readable(*tensors: Shaped[Tensor, "..."] | float | None) -> bool:
    """Whether values are validated and those of all tensors can be read without a wait; numbers and None always can.

    Where arguments of distributions are not validated, as in training, nothing is: what diverges is NaN there.

    Examples:
        >>> is_readable(torch.zeros(2), 1.0, None), is_readable(torch.zeros(2), torch.zeros(2, device="meta"))
        (True, False)
    """
    validated = bool(torch.distributions.Distribution._validate_args)
    return validated and all(is_known(tensor) for tensor in tensors if isinstance(tensor, Tensor))


REQUIRED = ("queries", "means", "log_weights")  # which are never None


def check_types(booleans: tuple[str, ...] = (), required: tuple[str, ...] = REQUIRED, /, **tensors: object) -> None:
    """Raises unless each is a tensor of real floating-point numbers, or None where it is not ``required``; those named
    ``booleans``, of booleans.

    Raises:
        ValueError: With its name and type.

    Examples:
        >>> check_types(means=torch.zeros(2), mask=None)
        >>> check_types(("mask",), mask=torch.zeros(2))
        Traceback (most recent call last):
        ValueError: mask has dtype float32: give booleans, True where something is present.
    """
    for name, tensor in tensors.items():
        if tensor is None and name not in required:
            continue
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} has type {type(tensor).__name__}: give a tensor, as torch.as_tensor makes it.")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if name in booleans and tensor.dtype != torch.bool:
            raise ValueError(f"{name} has dtype {dtype}: give booleans, True where something is present.")
        if name not in booleans and not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {dtype}: give floating-point numbers, as {name}.float() does.")


def check_leading(shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises unless leading dimensions broadcast.

    Arguments:
        shapes: Those of each tensor, by its name.

    Raises:
        ValueError: With all of them.

    Examples:
        >>> check_leading({"queries": (2, 3), "means": (1, 3), "values": ()})
        >>> check_leading({"queries": (2,), "means": (3,)})
        Traceback (most recent call last):
        ValueError: the leading dimensions (2,) of queries, (3,) of means do not broadcast: give them alike, or none.
    """
    leading = [shape for shape in shapes.values() if shape]
    if all(shape == leading[0] for shape in leading):
        return
    for place in range(1, 1 + max(len(shape) for shape in leading)):
        sizes = [shape[-place] for shape in leading if len(shape) >= place and shape[-place] != 1]
        if any(size != sizes[0] for size in sizes):
            each = ", ".join(f"{tuple(shape)} of {name}" for name, shape in shapes.items())
            raise ValueError(f"the leading dimensions {each} do not broadcast: give them alike, or none.")


def check_entries(name: str, tensor: Shaped[Tensor, "..."], allowed: Bool[Tensor, "..."], way_out: str) -> None:
    """Raises if ``allowed``, which broadcasts with the tensor, is False anywhere; skipped where values cannot be read.

    Raises:
        ValueError: With the first value that is not allowed, and the way out.

    Examples:
        >>> x = torch.tensor([1.0, -2.0])
        >>> check_entries("x", x, x > 0, "give positive numbers")
        Traceback (most recent call last):
        ValueError: x is -2.0: give positive numbers.
    """
    if is_readable(tensor, allowed) and not bool(allowed.all()):
        values, allowed = torch.broadcast_tensors(tensor.detach(), allowed)
        raise ValueError(f"{name} is {float(f'{float(values[~allowed][0]):.6g}')}: {way_out}.")
