"""Batches of texts: few shapes, in an order that is a function of the seed and the step alone."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from torch.utils.data import IterableDataset, get_worker_info

from ...models.batch import Batch
from ...models.utils.numbers import check_at_least
from .texts import Texts

__all__ = ["TrainingStream", "sequential_batches"]


class TrainingStream(IterableDataset[Batch]):
    r"""An endless stream of training batches, in which step :math:`s` is a function of the seed alone.

    Each epoch shuffles the texts, sorts them by bucket, cuts the sequence into chunks of

        batch_size x accumulate_grad_batches x world

    texts, one chunk for each optimizer step, and shuffles the chunks. A chunk is padded to the bucket of its longest
    text, so that there are no more shapes than buckets, and its texts are dealt in turn to the micro-batches
    :math:`(a, r)` of accumulation :math:`a` and rank :math:`r`. Only the last chunk can be short: it is filled with
    rows of weight zero. Every text comes exactly once an epoch.

    A text has weight :math:`W A / n`, with :math:`W` processes, :math:`A` accumulated micro-batches and :math:`n` texts
    in the step, so that it counts :math:`1/n` once gradients are averaged over ranks and micro-batches.

    Iterating gives this rank's micro-batches from step ``start`` on; it may be wrapped in a ``DataLoader`` with
    ``batch_size=None`` and any number of workers. A run that resumes sets ``start`` to the number of steps it has made.

    Arguments:
        texts: The training texts.
        batch_size: Number of rows of a micro-batch.
        seed: Random seed of the order.
        rank: Number of this process, from 0 to ``world`` - 1.
        world: Number of processes that share each step.
        accumulate_grad_batches: Number of micro-batches of each process in a step.
        start: The first step.

    Raises:
        ValueError: If there are no texts, a size is below 1, or the rank is not below ``world``.

    Examples:
        >>> from pyroformer.inference.data.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rose is a rose"], vocabulary=259)
        >>> texts = Texts.encode(["rose", "is", "a"], tokenizer, max_length=8)
        >>> stream = TrainingStream(texts, batch_size=2)
        >>> [batch] = stream.step(1)
        >>> batch.tokens.shape, batch.weight.tolist()
        (torch.Size([2, 8]), [0.5, 0.5])
    """

    def __init__(
        self,
        texts: Texts,
        batch_size: int = 64,
        seed: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
        accumulate_grad_batches: int = 1,
        start: int = 0,
    ) -> None:
        super().__init__()
        if not len(texts):
            raise ValueError("there are no texts to train on: give at least one.")
        check_at_least(1, batch_size=batch_size, world=world, accumulate_grad_batches=accumulate_grad_batches)
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is none of {world} processes: give one from 0 to {world - 1}.")
        self.texts = texts
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.accumulate_grad_batches = accumulate_grad_batches
        self.start = start
        self._plan: tuple[int, Int[np.ndarray, "steps chunk"], Int[np.ndarray, " steps"]] | None = None

    @property
    def texts_per_step(self) -> int:
        """Number of texts in an optimizer step over all ranks; one step of an epoch may have fewer."""
        return self.batch_size * self.accumulate_grad_batches * self.world

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.texts) // self.texts_per_step)

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of one optimizer step."""
        return [self.micro_batch(step, index) for index in range(self.accumulate_grad_batches)]

    def micro_batch(self, step: int, index: int = 0) -> Batch:
        """This rank's micro-batch number ``index`` of one optimizer step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chunks, lengths = self._epoch(epoch)
        dealt = chunks[place, index * self.world + self.rank :: self.world * self.accumulate_grad_batches]
        weight = self.world * self.accumulate_grad_batches / int((chunks[place] >= 0).sum())
        return self.texts.batch(dealt, int(lengths[place]), weight)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in count(self.start * self.accumulate_grad_batches + first, stride):
            yield self.micro_batch(*divmod(number, self.accumulate_grad_batches))

    def position(self, step: int) -> dict[str, Any]:
        """The state from which the stream resumes after ``step`` steps."""
        return {"step": step, "seed": self.seed, "texts": len(self.texts), "texts_per_step": self.texts_per_step}

    def resume(self, state: dict[str, Any]) -> None:
        """Starts after the steps of an earlier run; ranks and micro-batches may divide them differently.

        Raises:
            ValueError: If the order of batches would differ from that of the earlier run.
        """
        for name, value in self.position(0).items():
            if name != "step" and state[name] != value:
                raise ValueError(
                    f"the run began with {name.replace('_', ' ')} = {state[name]} and would go on with {value}: "
                    "its batches would be others. Resume it with the same data, seed and texts per step."
                )
        self.start = state["step"]

    def _epoch(self, epoch: int) -> tuple[Int[np.ndarray, "steps chunk"], Int[np.ndarray, " steps"]]:
        """Indices of the texts in each step of an epoch (-1: filler), and the padded length of each step."""
        if self._plan is None or self._plan[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            order = _narrow(np.arange(len(self.texts)))
            generator.shuffle(order)
            order = _by_bucket(order, _buckets(self.texts), len(self.texts.padded_lengths))
            chunks, lengths = _chunks(order, self.texts, self.texts_per_step)
            shuffled = generator.permutation(len(chunks))
            self._plan = epoch, chunks[shuffled], lengths[shuffled]
        return self._plan[1:]


def sequential_batches(texts: Texts, batch_size: int = 64) -> Iterator[tuple[Int[np.ndarray, " texts"], Batch]]:
    r"""Every text once, shortest first, in batches of one size: pairs (indices of the texts, batch).

    Each text has weight 1 / number of texts in the batch; the last batch is filled with rows of weight zero at its end.

    Examples:
        >>> from pyroformer.inference.data.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rose is a rose"], vocabulary=259)
        >>> texts = Texts.encode(["rose", "is", "a"], tokenizer, max_length=8)
        >>> [(indices.tolist(), batch.weight.tolist()) for indices, batch in sequential_batches(texts, batch_size=2)]
        [([2, 1], [0.5, 0.5]), ([0], [1.0, 0.0])]
    """
    check_at_least(1, batch_size=batch_size)
    chunks, lengths = _chunks(_narrow(np.argsort(texts.lengths, kind="stable")), texts, batch_size)
    for chunk, length in zip(chunks, lengths, strict=True):
        yield chunk[chunk >= 0], texts.batch(chunk, int(length))


def _buckets(texts: Texts) -> UInt8[np.ndarray, " texts"]:
    """The number of the bucket of each text."""
    buckets = np.empty(len(texts), np.uint8)
    for part in _parts(len(texts)):
        lengths = np.diff(texts.offsets[part.start : part.stop + 1])
        buckets[part] = np.searchsorted(texts.padded_lengths, lengths)
    return buckets


def _by_bucket(
    order: Int[np.ndarray, " texts"], buckets: UInt8[np.ndarray, " texts"], count: int
) -> Int[np.ndarray, " texts"]:
    """Texts by their buckets, those of a bucket as they were: a stable sort in less memory."""
    buckets = buckets[order]
    return np.concatenate([order[buckets == bucket] for bucket in range(count)])


def _chunks(
    order: Int[np.ndarray, " texts"], texts: Texts, size: int
) -> tuple[Int[np.ndarray, "chunks {size}"], Int[np.ndarray, " chunks"]]:
    """Texts in order of their buckets, cut into chunks (the last filled with -1), and the padded length of each."""
    chunks = np.full((-(-len(order) // size), size), -1, order.dtype)
    chunks.reshape(-1)[: len(order)] = order
    longest = np.zeros(len(chunks), np.int64)
    for part in _parts(len(chunks), size):
        rows = chunks[part]
        longest[part] = np.where(rows < 0, 0, texts.offsets[rows + 1] - texts.offsets[rows]).max(1)
    return chunks, np.asarray(texts.padded_lengths)[np.searchsorted(texts.padded_lengths, longest)]


def _parts(rows: int, size: int = 1) -> list[slice]:
    """Slices of rows with about a million entries each, so that what is computed of them is small beside the texts."""
    step = max(1, 2**20 // size)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _narrow(numbers: Int[np.ndarray, " texts"]) -> Int[np.ndarray, " texts"]:
    """Numbers of texts in half the memory, if there are not billions."""
    return numbers.astype(np.int32) if len(numbers) < 2**31 else numbers
