"""Trainings that the tests compare: alone, or in two processes, ``python together.py FOLDER``."""

import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.cli.main import main as command
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.loaders import TrainingStream
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.run import Run
from pyroformer.inference.training import compiled as compiled_module
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.lightning_module import Training
from pyroformer.models.base import LocalModule, Model
from pyroformer.models.batch import Batch
from pyroformer.models.della import DELLA
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.blocks import compile_blocks
from pyroformer.models.vae import VAE

TEXTS = [f"{n} is {n % 7} modulo seven." for n in range(10, 32)]  # 20 train: one step of an epoch is short
SYSTEMS = ("lm", "nvae", "vae", "della")
SHORT = {"steps": 2}  # whole batches alone: one graph
SIZE = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.1}
MODERN = {
    "dropout": 0.0,
    "layers": 2,
    "norm": "rms",
    "positions": "rotary",
    "activation": "swiglu",
    "key_value_heads": 1,
    "bias": False,
}


def pair(corpus: Corpus, name: str) -> tuple[Model, nn.Module | None]:
    torch.manual_seed(0)
    if name in ("lm", "short"):
        return LanguageModel.for_corpus(corpus, **(SIZE | MODERN)), None
    if name == "della":
        chain = DELLA.for_corpus(corpus, **SIZE, latent_size=4)
        return chain, DELLAGuide(chain)
    if name == "vae":
        vae = VAE.for_corpus(corpus, **SIZE, base_measure="tokens")
        return vae, VAEGuide(vae)
    nvae = NVAE.for_corpus(corpus, base_measure="gaussian", **SIZE)
    if name == "frozen":
        nvae.decoder.requires_grad_(False)
    return nvae, NVAEGuide(nvae)


def trained(corpus: Corpus, name: str, out: Path, **options: Any) -> Run:
    """A run of four steps; two micro-batches of four texts in each."""
    options = {"steps": 4, "batch_size": 4, "validations": 1, "learning_rate": 0.02, "objective": "elbo", **options}
    return fit(*pair(corpus, name), corpus, out=out, **options)


def insensitive(self: Training, make: Any = Training.configure_optimizers) -> torch.optim.Optimizer:
    """The optimizer of ``fit``, without the step of full size that Adam makes of a gradient of mere rounding."""
    optimizer: torch.optim.Optimizer = make(self)
    for group in optimizer.param_groups:
        group["eps"] = 1e-2
    return optimizer


Training.configure_optimizers = insensitive  # type: ignore[method-assign]


class Noisy(LocalModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, batch: Batch) -> None:
        with pyro.plate("texts", len(batch.weight), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            mean = (batch.tokens * batch.mask).sum(-1) / 1000
            pyro.sample("text", dist.Normal(self.scale * z, 1.0), obs=mean)


class NoisyGuide(LocalModule):
    """The noise of a text is a function of the text, so that it does not matter which process draws it."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1))
        self.log_scale = nn.Parameter(torch.tensor(-0.5))

    def forward(self, batch: Batch) -> None:
        noise = torch.sin((batch.tokens * batch.mask).sum(-1).float())
        with pyro.plate("texts", len(batch.weight), dim=-1):
            pyro.sample("z", dist.Delta(self.loc * batch.lengths + self.log_scale.exp() * noise))


def gradient(corpus: Corpus, rank: int, world: int) -> list[float]:
    """The gradient of a whole epoch: of the joint batches, or of this process's parts of them."""
    objective = ELBO()(Noisy(), NoisyGuide())
    wrapped = DistributedDataParallel(objective) if world > 1 else objective
    stream = TrainingStream(corpus.train, 16 // world, seed=1, rank=rank, world=world)
    for step in range(stream.steps_per_epoch):
        [batch] = stream.step(step)
        wrapped(batch).backward()
    return [float(p.grad) for p in objective.parameters() if p.grad is not None]


def commanded(folder: Path, out: str, *options: str) -> None:
    """A run of four steps by the command line."""
    options = ("--steps", "4", "--batch_size", "4", "--validations", "1", *options)
    size = ("--model.width", "16", "--model.layers", "1", "--model.heads", "2")
    arguments = ("--data", str(folder / "texts.txt"), "--vocabulary", "270", "--out", str(folder / out))
    code = command(["fit", "lm", *arguments, *options, *size])
    if code:
        raise SystemExit(code)


def main(folder: Path) -> None:
    commanded(folder, "launched", "--devices", "2")  # Lightning starts this script again, for the second process
    rank = int(os.environ["LOCAL_RANK"])
    os.environ |= {
        **{"RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"TORCHELASTIC_RUN_ID": "none"},  # from here on as by torchrun
    }
    corpus = Corpus.load(folder / "corpus")
    for name in SYSTEMS:
        for strategy in ("ddp", "fsdp"):
            trained(corpus, name, folder / f"{name}-{strategy}", devices=2, strategy=strategy)
    held_back = []
    no_sync = DistributedDataParallel.no_sync
    DistributedDataParallel.no_sync = lambda self: held_back.append(1) or no_sync(self)  # type: ignore[method-assign]
    trained(corpus, "lm", folder / "lm-accumulated", devices=2, accumulate_grad_batches=2, batch_size=2)
    options: dict[str, Any] = {"devices": 2, "strategy": "fsdp", "accumulate_grad_batches": 1}
    setattr(compiled_module, "compile_blocks", partial(compile_blocks, backend="eager"))  # noqa: B010
    compiled: dict[str, Any] = {"compile": "blocks", "activation_checkpointing": True}
    trained(corpus, "short", folder / "short-compiled", **compiled, **SHORT, **options)
    trained(corpus, "nvae", folder / "begun-alone", resume=True, **options)
    begin = Training.on_train_batch_start

    def kill(self: Training, batch: Batch, batch_idx: int) -> None:
        begin(self, batch, batch_idx)
        if rank == 1 and self.trainer.global_step == 1:  # of the other process
            os.kill(os.getpid(), signal.SIGTERM)

    Training.on_train_batch_start = kill  # type: ignore[method-assign]
    ended = 0
    try:
        trained(corpus, "frozen", folder / "begun-together", **options)
    except SystemExit as exit:
        ended = int(exit.code or 0)
    Training.on_train_batch_start = begin  # type: ignore[method-assign]
    ended_together = folder / "begun-and-ended-together"
    if rank == 0:
        shutil.copytree(folder / "begun-together", ended_together)
        killed = ended_together / "checkpoints" / "last-4"  # as of a process that was killed while it wrote step 4
        killed.mkdir()
        (killed / "__0_0.distcp").write_bytes(b"cut")
    torch.distributed.barrier()
    trained(corpus, "frozen", ended_together, resume=True, **options)
    result = {"gradient": gradient(corpus, rank, 2), "held back": len(held_back), "ended": ended}
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
