"""Numbers of NumPy and torch as Python's own, and checks of options that are numbers."""

import math
from collections.abc import Iterable
from typing import Any, get_args

__all__ = [
    "FLOATS",
    "check_at_least",
    "check_dropout",
    "check_finite_number",
    "check_not_negative",
    "check_positive",
    "declared_number",
    "declared_numbers",
    "plain_number",
]

FLOATS = (1e-30, 1e30)  # float32 has room beyond, but products of two of them do not


def plain_number(value: Any) -> Any:
    """Convert a number or string of NumPy or torch to Python's type; other values are returned unchanged.

    Examples:
        >>> plain_number(torch.tensor(3)), plain_number(torch.zeros(2).numpy().sum()), plain_number("three")
        (3, 0.0, 'three')
    """
    if type(value) in (bool, int, float, str) or value is None:
        return value
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def declared_number(name: str, value: Any, kind: Any) -> Any:
    """Convert an option to the number type that it is declared with; other types leave it unchanged.

    Arguments:
        name: The option's name, for the message.
        value: Its value.
        kind: Its declared type, such as ``int | None``.

    Raises:
        ValueError: If it is something else than a number, or not whole where it has to be.

    Examples:
        >>> declared_number("width", torch.tensor(8), int), declared_number("beta", 1, float)
        (8, 1.0)
        >>> declared_number("width", 8.5, int)
        Traceback (most recent call last):
        ValueError: width is 8.5: give a whole number, such as 8.
    """
    value = plain_number(value)
    types = {*get_args(kind)} or {kind}
    if not types & {int, float} or value is None and type(None) in types:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, a {type(value).__name__}: give a number.")
    if float in types:
        return float(value)
    if isinstance(value, float):
        nearest = max(round(value), 1) if abs(value) < float("inf") else 1
        raise ValueError(f"{name} is {value}: give a whole number, such as {nearest}.")
    return value


def check_at_least(least: int, **numbers: int) -> None:
    """Raises a ValueError that names the first of the numbers that is not whole or below ``least``.

    Examples:
        >>> check_at_least(1, draws=100, texts=0)
        Traceback (most recent call last):
        ...
        ValueError: texts is 0: give a whole number of at least 1.
    """
    for name, number in numbers.items():
        if declared_number(name, number, int) < least:
            raise ValueError(f"{name} is {number}: give a whole number of at least {least}.")


def check_dropout(**shares: float) -> None:
    """Raises a ValueError that names the first probability of dropping something that is not at least 0 and below 1.

    Examples:
        >>> check_dropout(dropout=1.0)
        Traceback (most recent call last):
        ValueError: dropout is 1.0: give a number of at least 0 and below 1.
    """
    for name, share in shares.items():
        if not 0 <= declared_number(name, share, float) < 1:
            raise ValueError(f"{name} is {share}: give a number of at least 0 and below 1.")


def check_finite_number(**numbers: float) -> None:
    """Raises a ValueError that names the first of the numbers that is infinite or not a number.

    Examples:
        >>> check_finite_number(log_variance=-3.0, scale=float("inf"))
        Traceback (most recent call last):
        ValueError: scale is inf: give a finite number.
    """
    for name, number in numbers.items():
        if not math.isfinite(declared_number(name, number, float)):
            raise ValueError(f"{name} is {number}: give a finite number.")


def check_positive(**numbers: Any) -> None:
    """Raises a ValueError that names the first of the numbers that is not positive, or is infinite or not a number.

    Examples:
        >>> check_positive(scale=1, df=0.0)
        Traceback (most recent call last):
        ValueError: df is 0.0: give a positive, finite number.
    """
    for name, number in numbers.items():
        if not 0 < declared_number(name, number, float) < math.inf:
            raise ValueError(f"{name} is {number}: give a positive, finite number.")


def check_not_negative(**numbers: Any) -> None:
    """Raises a ValueError that names the first of the numbers that is negative, infinite or not a number.

    Examples:
        >>> check_not_negative(tolerance=0, delta=-1)
        Traceback (most recent call last):
        ValueError: delta is -1: give a finite number of at least 0.
    """
    for name, number in numbers.items():
        if not 0 <= declared_number(name, number, float) < math.inf:
            raise ValueError(f"{name} is {number}: give a finite number of at least 0.")


def declared_numbers(name: str, values: Any, kind: Any) -> list[Any]:
    """The numbers of a list, array or tensor, each of the type that it is declared with.

    Raises:
        ValueError: If it is something else, or a number is not whole where it has to be.

    Examples:
        >>> declared_numbers("layers", torch.tensor([1, 2]), int), declared_numbers("values", (1, 0.5), float)
        ([1, 2], [1.0, 0.5])
        >>> declared_numbers("layers", 1, int)
        Traceback (most recent call last):
        ValueError: layers is 1: give a list of numbers.
    """
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{name} is {values!r:.40}: give a list of numbers.")
    return [declared_number(name, value, kind) for value in values]
