"""The processes of a training that runs on several devices."""

import os
import re

__all__ = ["by_torchrun", "rank"]

_SET_BY_LIGHTNING = {"NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}  # in the processes that ``fit`` itself starts


def by_torchrun() -> bool:
    """Whether torchrun has started this process; without it, variables such as ``WORLD_SIZE`` are left over."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The number of this process among those that train together, from 0; set by torchrun and Lightning.

    Raises:
        ValueError: If it is no number of a process, there are not so many processes, or neither has started this one.
    """
    if by_torchrun():
        return _number("RANK")
    number = max(_number(name) for name in ("RANK", "LOCAL_RANK"))
    if _number("RANK") or (number and not os.environ.keys() >= _SET_BY_LIGHTNING):
        name = "RANK" if _number("RANK") else "LOCAL_RANK"
        raise ValueError(
            f"the environment variable {name} is {os.environ[name]}, but this process was started neither by torchrun "
            f"nor by fit itself: unset {name}, or start all processes with torchrun."
        )
    return number


def _number(name: str) -> int:
    value = os.environ.get(name, "0")
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise ValueError(
            f"the environment variable {name} is {value!r}: unset it, or give the number of this process, from 0."
        )
    size = os.environ.get("WORLD_SIZE", "")
    if int(value) and not (size.isdecimal() and int(value) < int(size)):
        raise ValueError(
            f"the environment variable {name} is {value}, but WORLD_SIZE, the number of processes, is "
            f"{size or 'not set'}: unset {name}, or start all processes with torchrun."
        )
    return int(value)
