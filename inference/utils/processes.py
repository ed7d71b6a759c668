"""The processes of a training that runs on several devices."""

import os
import re

__all__ = ["rank"]


def rank() -> int:
    """The number of this process among those that train together, from 0; set by torchrun and Lightning.

    Raises:
        ValueError: If it is no number of a process.
    """
    name = "RANK" if "RANK" in os.environ else "LOCAL_RANK"
    value = os.environ.get(name, "0")
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise ValueError(
            f"the environment variable {name} is {value!r}: unset it, or give the number of this process, from 0."
        )
    return int(value)
