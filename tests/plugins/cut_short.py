"""Runs that crash before their end, and the weights that they go on from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyroformer.inference.training.status import Status

__all__ = ["crashed_at", "last_weights"]


class Crash(Exception):
    pass


def crashed_at(step: int, train: Callable[..., Any], *args: Any, split: str = "train", **options: Any) -> None:
    """Call ``train``, which crashes at its first report of training, or of validation, from a step on."""

    def crash(status: Status) -> None:
        if status.split == split and status.step >= step:
            raise Crash

    with pytest.raises(Crash):
        train(*args, callback=crash, **options)


def last_weights(folder: Path) -> dict[str, Tensor]:
    """The weights in the state that a run goes on from."""
    weights: dict[str, Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return weights
