"""Means of losses per token, accumulated on the device."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...models.batch import Batch

__all__ = ["LossMeter"]


class LossMeter:
    """Sums of losses on the device, read as means in nats per token: reading waits for the device, adding does not.

    Attributes:
        tokens: Number of tokens in all readings.
        tokens_per_text: Mean length of the texts in the last reading.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.tokens = 0.0
        self.tokens_per_text = math.nan

    def add(self, losses: dict[str, Tensor], batch: Batch) -> None:
        """Add the losses of a batch, weighted sums over its texts in nats."""
        assert batch.mask is not None
        real = (batch.weight > 0).to(batch.weight.dtype)
        texts = real.sum()
        entries = {name: value * texts / batch.weight.sum().clamp(min=1e-12) for name, value in losses.items()}
        entries |= {"tokens": (batch.mask.sum(-1) * real).sum(), "texts": texts}
        for name, value in entries.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.detach().clone()

    def read(self, reduce: Callable[..., Any] | None = None) -> dict[str, float]:
        """The means since the last reading, which then start anew; ``reduce`` sums over processes."""
        if not self.sums:
            return {}
        stacked = torch.stack([value.double() for value in self.sums.values()])
        if reduce is not None:
            stacked = reduce(stacked, reduce_op="sum")
        names, values = list(self.sums), stacked.tolist()
        self.sums = {}
        sums = dict(zip(names, values, strict=True))
        tokens, texts = sums.pop("tokens"), sums.pop("texts")
        self.tokens += tokens
        self.tokens_per_text = tokens / texts
        return {name: value / tokens for name, value in sums.items()}
