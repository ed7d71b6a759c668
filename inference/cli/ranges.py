"""Numbers of layers and vectors as one writes them on the command line."""

import re
from collections.abc import Callable
from typing import TypeVar

__all__ = ["assigned", "parse_ranges"]

V = TypeVar("V", int, float)


def parse_ranges(text: str, of: str) -> list[int]:
    """Single numbers and ranges.

    Raises:
        ValueError: If it is none of these.

    Examples:
        >>> parse_ranges("1-3, 6", of="layers")
        [1, 2, 3, 6]
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{of} {text!r} is no list of {of}: write 2, or 1-3, or 1-3,6.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def assigned(text: str, flag: str, kind: Callable[[str], V], example: str) -> dict[int, V]:
    """What is given to each of some numbers.

    Raises:
        ValueError: If it is no list of these, or a number is given something twice.

    Examples:
        >>> assigned("3=0.1, 6=2", "--scale", float, "3=0.1")
        {3: 0.1, 6: 2.0}
    """
    found: dict[int, V] = {}
    for part in text.split(","):
        number, _, value = part.partition("=")
        try:
            key, given = int(number), kind(value)
        except ValueError:
            raise ValueError(f"{flag} is {text!r}: write {example}, with commas between several.") from None
        if key in found:
            raise ValueError(f"{flag} is {text!r}, which names {key} twice: name it once.")
        found[key] = given
    return found
