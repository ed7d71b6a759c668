"""Tables of NumPy, pandas or torch as tensors, and results in the form of the input."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = ["Form", "as_counts", "as_table", "double_rows", "form_of", "in_form", "number_array"]


class Form(NamedTuple):
    """The form of an array.

    Arguments:
        numpy: Whether results are arrays of NumPy; otherwise they are tensors.
        dtype: The dtype of results that are real numbers.
        device: The device of results.
    """

    numpy: bool
    dtype: torch.dtype
    device: torch.device


def as_table(x: object, name: str = "X") -> np.ndarray | Tensor:
    """A table of numbers with two dimensions, not copied where it is an array or a tensor of numbers already.

    Masked entries, and those that pandas marks as missing, become NaN.

    Raises:
        ValueError: If it is sparse, complex or not a table of numbers, or has no column.
        TypeError: If an entry is no number, as NumPy says it.

    Examples:
        >>> as_table([[1, 2], [3, 4]]).dtype
        dtype('float64')
        >>> as_table([1, 2])
        Traceback (most recent call last):
        ValueError: X has shape (2,), and a table has two dimensions. Reshape your data: X.reshape(-1, 1) is one column, X.reshape(1, -1) one row.
    """  # noqa: E501
    if isinstance(x, Tensor):
        if x.layout != torch.strided:
            raise ValueError(f"{name} is a sparse tensor: give a dense one, {name}.to_dense().")
        table: np.ndarray | Tensor = x.detach()
    elif hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise ValueError(f"{name} is sparse: give a dense table, {name}.toarray().")
    else:
        table = _numbers(x, name)
    if table.ndim != 2:
        raise ValueError(
            f"{name} has shape {tuple(table.shape)}, and a table has two dimensions. Reshape your data: "
            f"{name}.reshape(-1, 1) is one column, {name}.reshape(1, -1) one row."
        )
    if table.shape[1] == 0:
        shape = f"({table.shape[0]}, 0)"
        raise ValueError(f"{name} has 0 feature(s) (shape={shape}) while a minimum of 1 is required.")
    if torch.is_complex(table) if isinstance(table, Tensor) else table.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {table.dtype}; give its real part.")
    return table


def _numbers(x: Any, name: str) -> np.ndarray:
    """An array of NumPy of numbers; text that is no number is refused."""
    if isinstance(x, np.ma.MaskedArray):
        return np.ma.filled(x.astype(np.float64), np.nan)
    if hasattr(x, "dtypes") and hasattr(x, "to_numpy"):  # a data frame, whose own mark of what is missing is no number
        x = x.where(x.notna(), np.nan) if np.asarray(x).dtype == object and hasattr(x, "notna") else x
    try:
        table = np.asarray(x)
        if table.dtype.kind in "mM" or isinstance(x, Mapping):
            raise ValueError(f"it is a {type(x).__name__} of {table.dtype}.")
        if table.dtype.kind in "OUSV":
            table = table.astype(np.float64)
    except ValueError as error:
        raise ValueError(f"{name} is no table of numbers ({error}): give rows of equal length, of numbers.") from None
    return table if table.dtype.kind in "fc" else table.astype(np.float64)


def as_counts(x: object, rows: int, device: torch.device) -> Float[Tensor, " m"]:
    """Weights of rows in double precision, on a device.

    Raises:
        ValueError: If there is not one for each row, or one is negative, infinite or NaN, or all are zero.

    Examples:
        >>> as_counts([1, 2], 2, torch.device("cpu"))
        tensor([1., 2.], dtype=torch.float64)
    """
    if isinstance(x, Tensor):
        counts = x.detach().to(device, torch.float32 if device.type == "mps" else torch.float64)
    else:
        counts = torch.from_numpy(number_array("sample_weight", x)).to(device)
    if counts.shape != (rows,):
        raise ValueError(
            f"sample_weight has shape {tuple(counts.shape)} and X {rows} rows: give one weight for each row."
        )
    allowed = (counts >= 0) & counts.isfinite()
    if not bool(allowed.all()):
        raise ValueError(f"sample_weight is {float(counts[~allowed][0]):g}: give finite weights of at least 0.")
    if not bool((counts > 0).any()):
        raise ValueError("all of sample_weight is zero: at least one row has to count.")
    return counts


def number_array(name: str, x: object) -> Float[np.ndarray, "..."]:
    """A copy of an option as an array of numbers.

    Raises:
        ValueError: If it is none.

    Examples:
        >>> number_array("means_init", "a")
        Traceback (most recent call last):
        ValueError: means_init is a str: give an array of numbers.
    """
    try:
        return np.array(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is a {type(x).__name__}: give an array of numbers.") from None


def form_of(table: np.ndarray | Tensor) -> Form:
    """The form in which results about a table are given: its own, in float32 at least.

    Examples:
        >>> form_of(torch.zeros(2, 2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    if isinstance(table, Tensor):
        dtype = table.dtype if table.is_floating_point() else torch.get_default_dtype()
        return Form(False, torch.promote_types(dtype, torch.float32), table.device)
    return Form(True, torch.float32 if table.dtype.itemsize <= 4 else torch.float64, torch.device("cpu"))


def in_form(result: Shaped[Tensor, "..."], form: Form) -> Any:
    """A result in the form of the input; whole numbers keep their type."""
    dtype = form.dtype if result.is_floating_point() else result.dtype
    result = result.to(form.device, dtype)
    return result.cpu().numpy() if form.numpy else result


def double_rows(table: np.ndarray | Tensor, rows: slice, name: str = "X") -> Float[Tensor, "m d"]:
    """Some rows of a table in double precision, in which NaN is what is missing.

    Raises:
        ValueError: If an entry is infinite.
    """
    if isinstance(table, Tensor):
        # Apple's GPUs have no double precision
        part = table[rows].to(torch.float32 if table.device.type == "mps" else torch.float64)
    else:
        part = torch.from_numpy(np.array(table[rows], dtype=np.float64))  # a copy: memory of others is read-only
    if bool(part.isinf().any()):
        raise ValueError(f"{name} has an infinite entry: give finite ones, or NaN where one is missing.")
    return part
