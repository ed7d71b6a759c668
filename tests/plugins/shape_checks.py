"""Shapes and types checked on the first calls of a test: a training makes the same calls again and again."""

from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import config

CALLS = 300  # of checked functions in a test and in the fixtures that it is the first to use

_calls = 0


def start() -> None:
    """Starts to count: the next :data:`CALLS` calls are checked."""
    global _calls
    _calls = 0
    config.update("jaxtyping_disable", False)


def first_calls(function: Any) -> Any:
    """The check that jaxtyping puts around each function of the package: beartype's, which ends itself.

    It is made when the function is first called, since most functions are not called in most files of tests.
    """
    if isinstance(function, type):
        return beartype(function)
    checked: Callable[..., Any] | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        global _calls
        nonlocal checked
        _calls += 1
        if _calls > CALLS:
            config.update("jaxtyping_disable", True)
        if checked is None:
            checked = beartype(function)
        return checked(*args, **kwargs)

    return call
