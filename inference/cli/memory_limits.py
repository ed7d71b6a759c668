"""Numbers that no machine holds: refused before a command starts, or explained where its memory ends."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...models.utils.errors import first_line
from ...models.utils.numbers import FLOATS
from ..utils.files import is_disk_full

__all__ = ["check_numbers", "resource_message"]

INTEGERS_BELOW = 2**63  # torch's integers have 64 bits
MAX_DEVICES = 1024
LARGE = 1000  # options with a number from here on are named where the memory ends


def check_numbers(values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises a ValueError for an option with a number beyond those that torch computes with.

    Examples:
        >>> check_numbers({"seed": 0, "learning_rate": 1e-3, "model": {"dropout": 0.1}})
        >>> check_numbers({"seed": 2**64})
        Traceback (most recent call last):
        ...
        ValueError: --seed is 18446744073709551616: give a whole number of less than 2^63 = 9223372036854775808.
    """
    for name, value in values.items():
        flag = f"-{name}" if len(name) == 1 else f"--{prefix}{name}"
        if isinstance(value, Mapping):
            check_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int) and abs(value) >= INTEGERS_BELOW:
            raise ValueError(f"{flag} is {value}: give a whole number of less than 2^63 = {INTEGERS_BELOW}.")
        elif isinstance(value, float) and 0 < abs(value) < float("inf") and not FLOATS[0] <= abs(value) <= FLOATS[1]:
            raise ValueError(f"{flag} is {value}: give 0, or a number from {FLOATS[0]:g} to {FLOATS[1]:g} in size.")
        elif name == "devices" and value > MAX_DEVICES:
            raise ValueError(f"{flag} is {value}: give a whole number from 1 to {MAX_DEVICES}.")


def resource_message(error: Exception, arguments: Sequence[str]) -> str | None:
    """One line for the end of memory, of the stack, of a disk or of a number's range; None for other errors.

    Examples:
        >>> resource_message(MemoryError(), ["sample", "run", "-n", "5000000"])
        'the machine has no memory left: lower -n, which is 5000000.'
    """
    text = str(error)
    if is_disk_full(error):
        return (
            "a checkpoint could not be written. Nothing already written is lost: make room, then fit goes on with "
            "--resume."
        )
    large = [f"{flag}, which is {value}" for flag, value in _typed_numbers(arguments) if abs(float(value)) >= LARGE]
    lower = f"lower {' or '.join(large)}." if large else "lower --batch_size, or take a smaller --size or less data."
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "the device has no memory left: lower --batch_size and raise --accumulate_grad_batches, or take a smaller "
            "--size."
        )
    if isinstance(error, MemoryError) or re.search(r"can't allocate memory|not enough memory|[Oo]ut of memory", text):
        return f"the machine has no memory left: {lower}"
    if isinstance(error, RecursionError):
        return "a file or an option is nested too deeply: the files of a run have a few levels."
    if isinstance(error, OverflowError) or re.search(r"[Oo]verflow|numel: integer multiplication|too large", text):
        return f"a number is too large for the machine ({first_line(error)}): {lower}"
    return None


def _typed_numbers(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Each option with a number, as it was typed."""
    joined = "\0".join(arguments)
    return re.findall(r"(?:^|\0)(--?[A-Za-z][\w.-]*)[=\0]([+-]?[\d.]+(?:[eE][+-]?\d+)?)(?=\0|$)", joined)
