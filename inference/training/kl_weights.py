r"""Schedules and controllers of the objective: the weights of the KL terms, and the share of vectors to keep."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...models.batch import Batch
from ..objectives.keep_control import KeepController
from ..objectives.kl_control import KLController
from ..options import TrainingOptions
from ..schedules import kl_schedule

__all__ = ["KLWeights", "VectorsToKeep"]

Reduce = Callable[..., Any]  # ``reduce(tensor, reduce_op="mean")`` over processes


class KLWeights:
    r"""The weight of each site's KL: its full weight times one factor, of the options' schedule or of a controller.

    Arguments:
        weights: The full weights, as buffers by site; they are set in place.
        options: ``kl_schedule``, ``ladder`` and ``target_kl``.

    Attributes:
        controller: What keeps the KL at its target; None without one.

    Examples:
        >>> weights = nn.Module()
        >>> weights.register_buffer("z", torch.tensor(0.5))
        >>> kl_weights = KLWeights(weights, TrainingOptions(kl_schedule="linear"))
        >>> kl_weights.set(progress=0.125)
        >>> float(weights.z), kl_weights.reported()
        (0.25, {'beta': 0.25})
    """

    def __init__(self, weights: nn.Module, options: TrainingOptions) -> None:
        self.full = {site: float(weight) for site, weight in weights.named_buffers()}
        self.controller = None if options.target_kl is None else KLController(options.target_kl)
        self._weights, self._schedule = weights, kl_schedule(options.kl_schedule, options.ladder)
        self._moves = self.controller is not None or options.kl_schedule != "constant"
        self._factor: float | Tensor = 1.0  # at the last batch
        self._kl = _StepMean()

    def set(self, progress: float) -> None:
        """Set the weights for a batch."""
        self._factor = self._schedule(progress) if self.controller is None else self.controller.value
        self._scale(self._factor)

    def set_full(self) -> None:
        """Set the full weights, as for validation."""
        self._scale(1.0)

    def note(self, losses: Mapping[str, Tensor], batch: Batch) -> None:
        """Note the KL of a batch, if it steers the weights."""
        if self.controller is not None:
            self._kl.add(self._total(losses))

    def end_step(self, reduce: Reduce) -> None:
        """Update the controller with the mean KL of all texts of a step, over all of its batches and processes."""
        if self.controller is not None:
            self.controller.update(self._kl.read(reduce))

    def charged(self, values: Mapping[str, float], tokens_per_text: float) -> float:
        """The objective of held-out texts, in which a KL below its target is charged as the target."""
        if self.controller is None:
            return values["objective"]
        missing = self.controller.target / tokens_per_text - self._total(values)
        return values["bound"] + max(missing, 0.0)

    def reported(self) -> dict[str, float]:
        """The largest weight at the last batch, if it moves."""
        return {"beta": float(self._factor * max(self.full.values()))} if self.full and self._moves else {}

    def _scale(self, factor: float | Tensor) -> None:
        for site, weight in self._weights.named_buffers():
            weight.fill_(self.full[site] * factor)

    def _total(self, values: Mapping[str, Any]) -> Any:
        """The KL of all latents."""
        return sum(values[f"kl_{site}"] for site in self.full)


class VectorsToKeep:
    """The share of vectors to keep: a twin of :class:`KLWeights`, which moves the delta of the prior of the weights.

    Arguments:
        controller: What keeps the share at its target.
        vocabulary: Size of the vocabulary: a vector too many is charged as a token of which nothing is known.
    """

    def __init__(self, controller: KeepController, vocabulary: int) -> None:
        self.controller, self._unknown_token = controller, math.log(vocabulary)
        self._kept = _StepMean()  # the numbers of vectors that are kept, and of tokens

    def set(self, progress: float) -> None:
        """Set the delta for a batch."""
        self.controller.set_delta()

    def note(self, losses: Mapping[str, Tensor], batch: Batch) -> None:
        """Note how many vectors a batch keeps."""
        self._kept.add(torch.stack([losses["kept"].detach(), (batch.weight * batch.lengths).sum()]))

    def end_step(self, reduce: Reduce) -> None:
        """Update the controller with the vectors that a step has kept, over all of its batches and processes."""
        self.controller.update(*self._kept.read(reduce))

    def charged(self, values: Mapping[str, float], tokens_per_text: float) -> float:
        """The objective of held-out texts, with the charge for vectors beyond the share."""
        return values["objective"] + self.controller.excess(values["kept"]) * self._unknown_token

    def reported(self) -> dict[str, float]:
        """The delta."""
        return {"delta": float(self.controller.delta)}


class _StepMean:
    """The mean of a quantity over the batches of a step and over processes."""

    def __init__(self) -> None:
        self._values: list[Float[Tensor, "*shape"]] = []

    def add(self, value: Float[Tensor, "*shape"]) -> None:
        self._values.append(value)

    def read(self, reduce: Reduce) -> Float[Tensor, "*shape"]:
        """The mean since the last reading, which waits for no device."""
        mean = torch.stack(self._values).mean(0)
        self._values = []
        return reduce(mean, reduce_op="mean")
