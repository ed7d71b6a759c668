"""The command that is running, as it was typed."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["typed", "typed_command"]

_arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Remembers the arguments of a command while it runs."""
    token = _arguments.set(tuple(arguments))
    try:
        yield
    finally:
        _arguments.reset(token)


def typed_command() -> str | None:
    """The command that is running, quoted for a shell; None outside of the command line.

    Examples:
        >>> with typed(["fit", "nvae", "--data", "my texts.txt"]):
        ...     typed_command()
        "pyroformer fit nvae --data 'my texts.txt'"
        >>> typed_command() is None
        True
    """
    arguments = _arguments.get()
    return shlex.join(["pyroformer", *arguments]) if arguments else None
