"""A pass of a wrapped model over batches, with an observer at every layer."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...models.nvib.bottleneck import Bottleneck
from ...models.nvib.observer import Observer
from ..utils.seeded_eval import seeded_eval

__all__ = ["run_batches"]


def run_batches(
    model: nn.Module, batches: object, layers: Mapping[str, Bottleneck], observers: Mapping[str, Observer]
) -> None:
    """Runs the model over the batches in evaluation mode, and shows every layer to its observer.

    A batch is a mapping of the model's arguments, a tuple or list of them, or the one argument. Batches go to the
    device of the model.

    Raises:
        ValueError: If there are no batches, or they are something else.
    """
    if isinstance(batches, Mapping | Tensor | str) or not isinstance(batches, Iterable):
        raise ValueError(
            f"batches has type {type(batches).__name__}: give an iterable of batches, such as a list with one in it"
        )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    count = 0
    with seeded_eval(model, seed=0), _watching(layers, observers):
        for batch in batches:
            _call(model, batch, device)
            count += 1
    if not count:
        raise ValueError("there are no batches: give at least one")


@contextmanager
def _watching(layers: Mapping[str, Bottleneck], observers: Mapping[str, Observer]) -> Iterator[None]:
    try:
        for name, layer in layers.items():
            layer.observer = observers[name]
        yield
    finally:
        for layer in layers.values():
            layer.observer = None


def _call(model: nn.Module, batch: object, device: torch.device) -> None:
    if isinstance(batch, Mapping):
        model(**{name: _at(value, device) for name, value in batch.items()})
    elif isinstance(batch, tuple | list):
        model(*[_at(value, device) for value in batch])
    elif isinstance(batch, Tensor):
        model(_at(batch, device))
    else:
        raise ValueError(
            f"a batch has type {type(batch).__name__}: give a dictionary of the model's arguments, a tuple of them, or "
            "one tensor"
        )


def _at(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) else value
