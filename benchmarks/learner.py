"""Training of several networks on the same batches, in turns, so that losses and times are comparable."""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.loaders import TrainingStream, sequential_batches
from pyroformer.inference.data.texts import Texts
from pyroformer.inference.schedules import warmup_cosine
from pyroformer.models.batch import Batch

Loss = Callable[[Batch], Tensor]  # nats per text of a batch, weighted


class Learner:
    """A network with its loss, its optimizer and its step times."""

    def __init__(self, network: nn.Module, loss: Loss, learning_rate: float) -> None:
        self.network, self.loss, self.peak = network, loss, learning_rate
        decay = [p for p in network.parameters() if p.ndim >= 2]
        rest = [p for p in network.parameters() if p.ndim < 2]
        groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
        self.seconds: list[float] = []

    def step(self, batch: Batch, tokens: float, progress: float) -> None:
        start = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * warmup_cosine(progress)
        self.optimizer.zero_grad()
        (self.loss(batch) / tokens).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)

    @torch.no_grad()
    def held_out(self, texts: Texts) -> float:
        """Nats per token over texts."""
        self.network.eval()
        nats = tokens = 0.0
        for indices, batch in sequential_batches(texts, 64):
            nats += float(self.loss(batch)) * len(indices)
            tokens += float(texts.lengths[indices].sum())
        return nats / tokens


def learn_in_turn(
    learners: Mapping[str, Learner],
    corpus: Corpus,
    batch_size: int,
    steps: int,
    seed: int,
    look: Callable[[], None] = lambda: None,
    looks: int = 1,
) -> None:
    """Train all networks on one training stream; ``look()`` is called so many times, the last time at the end."""
    tokens = float(corpus.train.lengths.mean())
    stream: Iterator[Batch] = iter(TrainingStream(corpus.train, batch_size, seed=seed))
    for step, batch in enumerate(islice(stream, steps)):
        for learner in learners.values():
            learner.step(batch, tokens, step / steps)
        if (step + 1) * looks // steps > step * looks // steps:
            look()
