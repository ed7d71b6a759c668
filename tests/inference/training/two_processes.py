"""Prints how far the gradient of two processes (gloo, DistributedDataParallel) is from that of one, noise fed in."""

import os
import tempfile

import pyro
import pyro.distributions as dist
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.loaders import TrainingStream
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.base import LocalModule
from pyroformer.models.batch import Batch

TEXTS = [f"{n} is {n % 7} modulo seven." for n in range(37)]  # 33 train: the last step is short on both ranks


class Model(LocalModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, batch: Batch) -> None:
        with pyro.plate("texts", len(batch.weight), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            mean = (batch.tokens * batch.mask).sum(-1) / 1000
            pyro.sample("text", dist.Normal(self.scale * z, 1.0), obs=mean)


class Guide(LocalModule):
    """The noise of a text is a function of the text, so that it does not matter which process draws it."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1))
        self.log_scale = nn.Parameter(torch.tensor(-0.5))

    def forward(self, batch: Batch) -> None:
        noise = torch.sin((batch.tokens * batch.mask).sum(-1).float())
        with pyro.plate("texts", len(batch.weight), dim=-1):
            pyro.sample("z", dist.Delta(self.loc * batch.lengths + self.log_scale.exp() * noise))


def gradient(rank: int, world: int, folder: str, steps: int) -> list[torch.Tensor]:
    corpus = Corpus.load(folder)
    objective = ELBO()(Model(), Guide())
    wrapped = DistributedDataParallel(objective) if world > 1 else objective
    for step in range(steps):
        [batch] = TrainingStream(corpus.train, 16 // world, seed=1, rank=rank, world=world).step(step)
        wrapped(batch).backward()
    return [p.grad for p in objective.parameters()]


def worker(rank: int, folder: str, steps: int, file: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    result = gradient(rank, 2, folder, steps)
    if rank == 0:
        torch.save(result, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Corpus.from_texts(TEXTS, vocabulary=270, folder=os.path.join(folder, "corpus"))
        folder = os.path.join(folder, "corpus")
        file = os.path.join(folder, "gradient")
        mp.spawn(worker, args=(folder, 3, file), nprocs=2)
        one, two = gradient(0, 1, folder, 3), torch.load(file, weights_only=True)
    print(max(float((a - b).abs() / a.abs().clamp(min=1e-3)) for a, b in zip(one, two, strict=True)))
