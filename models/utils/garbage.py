"""A pause of Python's search for cycles of objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["garbage_collection_paused"]


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """A block in which Python does not look for cycles, for work that creates so many objects that looking is slow.

    Objects without cycles are freed at once, as always. Blocks can be nested.

    Examples:
        >>> import gc
        >>> with garbage_collection_paused():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
