"""The processes of a training that runs on several devices."""

import os
import re

__all__ = ["rank"]


def rank() -> int:
    """The number of this process among those that train together, from 0; set by torchrun and Lightning.

    Raises:
        ValueError: If it is no number of a process, or there are not so many processes.
    """
    name = "RANK" if "RANK" in os.environ else "LOCAL_RANK"
    value = os.environ.get(name, "0")
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise ValueError(
            f"the environment variable {name} is {value!r}: unset it, or give the number of this process, from 0."
        )
    size = os.environ.get("WORLD_SIZE", "")
    if int(value) and not (size.isdecimal() and int(value) < int(size)):
        raise ValueError(
            f"the environment variable {name} is {value}, but WORLD_SIZE, the number of processes, is "
            f"{size or 'not set'}: unset {name}, or start all processes with torchrun or srun."
        )
    return int(value)
