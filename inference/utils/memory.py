"""Memory of the process."""

import ctypes
import sys

__all__ = ["return_freed_memory"]


def return_freed_memory() -> None:
    """Gives memory that is free back to the system, where the C library (glibc) would keep it.

    After work in many small pieces, such as tokenizing, that is hundreds of megabytes.

    Examples:
        >>> return_freed_memory()
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
