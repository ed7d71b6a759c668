"""Numbers of layers and vectors on the command line: ranges such as 1-3,6 and assignments such as 3=0.1."""

import re
from collections.abc import Callable
from typing import TypeVar

__all__ = ["parse_assignments", "parse_ranges"]

V = TypeVar("V", int, float)


def parse_ranges(text: str, flag: str, kind: str) -> list[int]:
    """The numbers in a list of numbers and ranges.

    Arguments:
        text: The list, separated by commas.
        flag: The option that it was typed behind, for the message.
        kind: What is numbered, for the message.

    Raises:
        ValueError: If it is no such list.

    Examples:
        >>> parse_ranges("1-3, 6", "--layers", kind="layers")
        [1, 2, 3, 6]
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{flag} is {text!r}, no list of {kind}: write 2, or 1-3, or 1-3,6.")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers


def parse_assignments(text: str, flag: str, kind: Callable[[str], V], example: str) -> dict[int, V]:
    """The values that are assigned to numbers.

    Raises:
        ValueError: If it is no list of assignments, or a number has two.

    Examples:
        >>> parse_assignments("3=0.1, 6=2", "--scale", float, "3=0.1")
        {3: 0.1, 6: 2.0}
    """
    values: dict[int, V] = {}
    for part in text.split(","):
        left, _, right = part.partition("=")
        try:
            number, value = int(left), kind(right)
        except ValueError:
            raise ValueError(f"{flag} is {text!r}: write {example}, with commas between several.") from None
        if number in values:
            raise ValueError(f"{flag} is {text!r}, which names {number} twice: name it once.")
        values[number] = value
    return values
