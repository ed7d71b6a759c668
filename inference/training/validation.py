"""Validation of a run: held-out texts, when they are due, the best loss so far, and patience."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...models.batch import Batch
from ...models.mixture_names import MixtureNames
from ...models.transformer.mixtures.posterior import NO_VECTORS
from ..data.loaders import sequential_batches
from ..data.texts import Texts, evenly_spaced
from ..options import TrainingOptions
from ..utils.seeds import derived_seed, set_seed
from .meter import LossMeter

__all__ = ["Validation", "dealt"]


class Validation:
    """The validations of a run, and the best of them.

    Arguments:
        texts: Held-out texts.
        options: ``validations``, ``validation_texts``, ``patience``, ``batch_size`` and ``seed``.

    Attributes:
        texts: The texts that are read: the same ones each time, whatever the batch size.
        done: Number of validations up to here.
        best: The smallest loss.
        best_step: Its step.
        wait: Number of validations since.
        best_on_other_texts: Whether the best loss is that of other texts, with which it cannot be compared.

    Examples:
        >>> corpus = pf.Corpus.from_texts([f"Number {n}." for n in range(40)], vocabulary=270)
        >>> validation = Validation(corpus.valid, TrainingOptions(validations=4, patience=1))
        >>> validation.due(progress=0.6)
        2
        >>> validation.note(2.5, step=10), validation.note(2.7, step=20), validation.is_over
        (True, False, True)
    """

    def __init__(self, texts: Texts, options: TrainingOptions) -> None:
        self.texts = evenly_spaced(texts, options.validation_texts)
        self.done, self.best_on_other_texts = 0, False
        self._options, self._available, self._vectors_died = options, len(texts), False
        self.start()

    def start(self, loss: float = math.inf, step: int = 0) -> None:
        """Start with the loss of a step as the best one."""
        self.best, self.best_step, self.wait = loss, step, 0

    def note(self, loss: float, step: int) -> bool:
        """Note the loss of a step; whether it is the best one."""
        if loss < self.best:
            self.start(loss, step)
            return True
        self.wait += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return 0 < self._options.patience <= self.wait

    def due(self, progress: float) -> int:
        """The number of validations up to here, whatever the length of the run was before it was resumed."""
        due = math.floor(progress * self._options.validations)
        return due + 1 if progress >= (due + 1) / self._options.validations else due

    @torch.no_grad()
    def measure(
        self, losses: Callable[[Batch], dict[str, Tensor]], device: torch.device, rank: int = 0, world: int = 1
    ) -> LossMeter:
        """The losses of this process's share of the texts, each batch with a random seed of its own."""
        meter = LossMeter()
        batches = enumerate(sequential_batches(self.texts, self._options.batch_size))
        for index, batch in dealt(batches, rank, world):
            set_seed(derived_seed(self._options.seed, -1, index, 0))
            batch = batch.to(device)
            meter.add(losses(batch), batch)
        return meter

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {
            "best": self.best,
            "best_step": self.best_step,
            "wait": self.wait,
            "validations_done": self.done,
            "validation_texts": len(self.texts),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. That of an older run does not tell its texts: mostly they were all."""
        self.best, self.best_step, self.wait = state["best"], state["best_step"], state["wait"]
        self.best_on_other_texts = state.get("validation_texts", self._available) != len(self.texts)

    def warn_of_no_vectors(self, values: Mapping[str, float], step: int) -> None:
        """Warn once if no held-out text keeps a vector, of its own mixture or of one of a layer's."""
        dead = [names for names in MixtureNames.all_in(values, "kept") if values[names.kept] == 0]
        if dead and not self._vectors_died:
            self._vectors_died = True
            place = "" if dead[0].stack == "text" else f", {dead[0].description}"
            warnings.warn(f"step {step}{place}: {NO_VECTORS}", stacklevel=2)


def dealt(batches: Iterable[tuple[int, tuple[Any, Batch]]], rank: int, world: int) -> Iterator[tuple[int, Batch]]:
    """Deal batches to processes in turn; in the last round a process without one repeats the first process's batch
    with weight 0, as sharded processes must all compute.
    """
    numbered = iter(batches)
    while dealt := list(islice(numbered, world)):
        index, (_, batch) = dealt[rank] if rank < len(dealt) else dealt[0]
        yield index, batch if rank < len(dealt) else batch._replace(weight=torch.zeros_like(batch.weight))
