"""Tables that depend on weights alone, computed once while the weights do not change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from .tensor_state import same_state, state_of

__all__ = ["from_weights", "weight_tables_kept"]

R = TypeVar("R")
_KEPT: ContextVar[dict[tuple[int, str], Any] | None] = ContextVar("weight tables", default=None)


@contextmanager
def weight_tables_kept() -> Iterator[None]:
    """A context in which :func:`from_weights` caches its results; they are freed at the end."""
    if _KEPT.get() is not None:
        yield
        return
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def from_weights(owner: object, name: str, compute: Callable[[], R], *weights: Tensor | None) -> R:
    """``compute()``, or its cached result if the weights have not changed since.

    Nothing is kept where gradients are recorded.

    Arguments:
        owner: The module that the table is of.
        name: The name of the table there.
        compute: Computes it from the weights.
        weights: All weights that it depends on.

    Examples:
        >>> layer, calls = torch.nn.Linear(2, 2), []
        >>> with torch.no_grad(), weight_tables_kept():
        ...     for _ in range(3):
        ...         _ = from_weights(layer, "square", lambda: calls.append(layer.weight.square()), layer.weight)
        >>> len(calls)
        1
    """
    kept = _KEPT.get()
    if kept is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute()
    if (state := state_of(*weights)) is None:  # it is not known whether they have changed
        return compute()
    if (entry := kept.get((id(owner), name))) is not None:
        _, before, table = entry
        if same_state(before, state):
            return table
    table = compute()
    kept[id(owner), name] = (owner, state, table)  # with the owner: another may not have its id meanwhile
    return table
