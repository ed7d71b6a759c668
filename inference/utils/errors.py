"""Checks of numbers, and error messages of one line."""

from ...models.utils.numbers import declared_number

__all__ = ["check_at_least", "first_line"]


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


def first_line(error: BaseException) -> str:
    """The first line of a library's message, cut to 120 characters; the name of the error if it has no message.

    Examples:
        >>> first_line(ValueError("the file is cut short\\nat byte 7"))
        'the file is cut short'
    """
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__
