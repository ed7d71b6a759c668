"""A device beside the CPU, on machines without one: whether code keeps to the device of its tensors, and waits for it.

Its tensors are kept and computed on the CPU, so that results are those of the CPU, random numbers included. As on a
GPU, an operation on tensors of both devices fails, and NumPy cannot read them. What would make the CPU wait for a GPU
is recorded: reading a value, copies between the two unless they are ``non_blocking``, indices on the CPU, results whose
size depends on values, and factorizations of matrices, which check theirs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "lazy"  # of torch's devices, one that no build has, and whose backward pass runs where the test does
ATEN = torch.ops.aten
COPIES = {ATEN._to_copy.default, ATEN.copy_.default}
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
READS = {  # a value, or a size that depends on values
    ATEN._local_scalar_dense.default,
    ATEN.equal.default,
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.repeat_interleave.Tensor,
    ATEN.bincount.default,
    ATEN._unique2.default,
    ATEN.unique_dim.default,
    ATEN.unique_consecutive.default,
    ATEN.multinomial.default,
    ATEN.linalg_cholesky_ex.default,
    ATEN.linalg_inv_ex.default,
    ATEN._linalg_solve_ex.default,
    ATEN._linalg_eigh.default,
}

_current: "OtherDevice | None" = None  # no tensor is made or computed there without it


class OtherTensor(Tensor):
    """A tensor of the device, whose values are those of ``host``."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "OtherTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), host.stride(), host.storage_offset(), dtype=host.dtype, device=torch.device(NAME, 0)
        )
        made.host = host
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        assert _current is not None, "a tensor of the other device has outlived it"
        return _current.run(op, args, kwargs or {})

    def tolist(self) -> Any:
        assert _current is not None
        _current.waits.append("tolist")
        return self.host.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.__reduce_ex__(protocol)  # files are read on the CPU

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else self, spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.host!r} on {NAME}:0"


class OtherDevice(TorchDispatchMode):
    """The device, while it is entered.

    Attributes:
        waits: What the CPU would have waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return self.run(op, args, kwargs or {})

    def run(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation, on the device where it belongs.

        Raises:
            RuntimeError: If its tensors are on two devices.
        """
        tensors = _tensors((args, tuple(kwargs.values())))
        here = [tensor for tensor in tensors if not isinstance(tensor, OtherTensor)]
        there = len(here) < len(tensors)
        target = kwargs.get("device")
        self.waits += _waits(op, args, kwargs)
        if there:
            if here and op not in COPIES:
                _check_one_device(op, here, args)
        result_there = there
        if target is not None:
            result_there = torch.device(target).type == NAME
            kwargs = kwargs | {"device": torch.device("cpu")}
        if op is ATEN.copy_.default:
            result_there = isinstance(args[0], OtherTensor)
        result = op(*_each(_host, args), **{name: _each(_host, value) for name, value in kwargs.items()})
        if not result_there:
            return result
        result = _each(_there, result)
        return return_and_correct_aliasing(op, args, kwargs, result) if there else result


@contextmanager
def other_device() -> Iterator[OtherDevice]:
    """The device; its tensors must not be used after it."""
    global _current
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([...], device=...) then copies, which is seen
    _current = OtherDevice()
    try:
        with _current:
            yield _current
    finally:
        _current = None
        torch._C._set_only_lift_cpu_tensors(lifted)


def _tensors(values: Any) -> list[Tensor]:
    """The tensors in nested lists and tuples, which are all that operations take."""
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return [values] if isinstance(values, Tensor) else []


def _each(function: Callable[[Any], Any], values: Any) -> Any:
    """Nested lists and tuples with the function of what they hold; a third of the time of torch's ``tree_map``."""
    if type(values) in (list, tuple):
        return type(values)([_each(function, value) for value in values])
    return function(values)


def _host(leaf: Any) -> Any:
    return leaf.host if isinstance(leaf, OtherTensor) else leaf


def _there(leaf: Any) -> Any:
    return OtherTensor(leaf) if isinstance(leaf, Tensor) else leaf


def _waits(op: Any, args: tuple[Any, ...], kwargs: Any) -> list[str]:
    """What the CPU would wait for in an operation."""
    there = [isinstance(arg, OtherTensor) for arg in args]
    if op is ATEN._to_copy.default and kwargs.get("device") is not None and not kwargs.get("non_blocking"):
        return ["copy"] * (there[0] != (torch.device(kwargs["device"]).type == NAME))
    if op is ATEN.copy_.default and not (len(args) > 2 and args[2]):
        return ["copy"] * (there[0] != there[1] and (there[1] or args[1].ndim > 0))
    if op in INDEXING and there[0]:
        indices = [index for index in args[1] if index is not None]
        slow = any(index.dtype == torch.bool or not isinstance(index, OtherTensor) for index in indices)
        return [f"{op} by a mask or by indices on the CPU"] * slow
    return [str(op)] * (op in READS and any(there))


def _check_one_device(op: Any, here: list[Tensor], args: tuple[Any, ...]) -> None:
    """As on a GPU, what may be on the CPU is an entry of an elementwise operation, or indices of a tensor there."""
    if op in INDEXING:
        here = [tensor for tensor in here if not any(tensor is index for index in args[1])]
    written = op._schema.is_mutable and not isinstance(args[0], OtherTensor)
    entries = torch.Tag.pointwise in op.tags and not written
    if any(tensor.ndim > 0 or not entries for tensor in here):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in here)
        raise RuntimeError(f"{op}: a tensor is on {NAME}:0, and others of shape {shapes} are on the CPU")
