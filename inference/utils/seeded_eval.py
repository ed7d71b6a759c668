"""Evaluation of modules with a seed: no gradients, no dropout, and the global state restored afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch
from torch import nn

from ...models.utils.seeding import forked_rng
from ...models.utils.weight_tables import weight_tables_kept
from .finite_weights import check_finite

__all__ = ["seeded_eval"]

_GLOBAL_STATE = RLock()  # the same thread may enter again


@contextmanager
def seeded_eval(*modules: nn.Module | None, seed: int) -> Iterator[None]:
    """Modules in eval mode, no gradients, random numbers from ``seed``; the previous state is restored afterwards.

    Pyro's stack of handlers and torch's generator are global, so threads wait for one another here.

    Raises:
        ValueError: If a parameter is not finite: whatever comes of it would be no number, or a wall of them.

    Examples:
        >>> layer = torch.nn.Dropout()
        >>> with seeded_eval(layer, seed=0):
        ...     layer.training, torch.is_grad_enabled()
        (False, False)
        >>> layer.training, torch.is_grad_enabled()
        (True, True)
    """
    with _GLOBAL_STATE:
        for module in modules:
            if module is not None:
                check_finite(dict(module.named_parameters()), type(module).__name__)
        yield from _seeded_eval(modules, seed)


def _seeded_eval(modules: tuple[nn.Module | None, ...], seed: int) -> Iterator[None]:
    modes = [(part, part.training) for module in modules if module is not None for part in module.modules()]
    with torch.no_grad(), weight_tables_kept(), forked_rng(seed):
        try:
            for part, _ in modes:
                part.training = False  # not eval(): each part has a mode of its own to go back to
            yield
        finally:
            for part, training in modes:
                part.training = training
