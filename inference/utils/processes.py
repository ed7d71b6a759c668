"""The processes of a training that runs on several devices."""

import os

__all__ = ["rank"]


def rank() -> int:
    """The number of this process among those that train together, from 0; set by torchrun and Lightning."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))
