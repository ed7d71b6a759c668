"""Shapes and types checked on the first calls of a test: a training makes the same calls again and again."""

from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import config

CALLS = 1000  # of checked functions in a test and in the fixtures that it is the first to use

_calls = 0


def start() -> None:
    """Starts to count: the next :data:`CALLS` calls are checked."""
    global _calls
    _calls = 0
    config.update("jaxtyping_disable", False)


def first_calls(function: Any) -> Any:
    """The check that jaxtyping puts around each function of the package: beartype's, which ends itself."""
    checked = beartype(function)
    return counted(checked) if callable(checked) and not isinstance(checked, type) else checked


def counted(checked: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        global _calls
        _calls += 1
        if _calls > CALLS:
            config.update("jaxtyping_disable", True)
        return checked(*args, **kwargs)

    return call
