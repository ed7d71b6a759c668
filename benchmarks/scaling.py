r"""Time of a training step on many GPUs, computed from three rates; and the same formula against two real processes.

    python benchmarks/scaling.py [--rate 4e14] [--node 3e11] [--network 4e10] [--measure] [--out FILE]

For W processes, N parameters of 4 bytes and T tokens a process in a step:

    compute        c = 6 N T / rate                                  forward and backward, at the rate that is reached
    communication  m = bytes / bandwidth + messages 2 log2(W) delay
    step           c + max(0, m - h c)                               what the backward pass hides is not waited for

``ddp`` averages gradients: bytes = 2 (W - 1) / W 4 N, while the backward pass goes on, h = 2/3. ``fsdp`` gathers the
weights twice and scatters the gradients: half as many bytes again, during the whole step, h = 1, for 16 N / W bytes of
weights, gradients and optimizer state in place of 16 N. The bandwidth is that inside a node for up to 8 processes, and
that of each process's share of the network beyond.

``--measure`` trains language models alone and as two processes (gloo) on this machine, and puts the formula, with the
rates that each part has alone here, beside the step of both: from many tokens and few weights to the reverse. Where
the cores that compute also exchange, nothing is hidden.
"""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from measuring import random_batch
from reporting import argument_parser, markdown, show
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pyroformer as pf
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.transformer.config import TransformerConfig

NODE = 8  # processes
BUCKET = 25e6  # bytes of gradients that DistributedDataParallel sends at a time
STATE = 16  # bytes a parameter: weight, gradient and two moments in float32
SIZES = {"135 M": 135e6, "1.3 B": 1.3e9, "8 B": 8e9}


class Machine(NamedTuple):
    """Rates: of arithmetic in FLOP/s, of a process's traffic in bytes/s; seconds for a message; bytes of a device."""

    rate: float = 4e14
    node: float = 3e11
    network: float = 4e10
    delay: float = 1e-5
    memory: float = 139.0 * 2**30

    def bandwidth(self, processes: int) -> float:
        return self.node if processes <= NODE else self.network


def sent(processes: int, parameters: float, sharded: bool = False) -> float:
    """Bytes that each process sends in a step."""
    return (3 if sharded else 2) * (processes - 1) / processes * 4 * parameters


def step(machine: Machine, processes: int, parameters: float, tokens: float, sharded: bool = False) -> float:
    """Seconds of a step."""
    compute = 6 * parameters * tokens / machine.rate
    if processes == 1:
        return compute
    messages = math.ceil(4 * parameters / BUCKET)
    communication = sent(processes, parameters, sharded) / machine.bandwidth(processes)
    communication += messages * 2 * math.log2(processes) * machine.delay
    return compute + max(0.0, communication - (1 if sharded else 2 / 3) * compute)


def hiding_tokens(machine: Machine, processes: int, parameters: float) -> float:
    """The fewest tokens of a process with which a step of ``ddp`` waits for nothing."""
    alone = 6 * parameters / machine.rate  # seconds a token
    waiting = step(machine, processes, parameters, 0.0)
    return waiting / (2 / 3 * alone)


def largest(machine: Machine, processes: int, spare: float = 0.3) -> float:
    """The largest number of parameters whose state fits, with a share of the memory spared for activations."""
    return (1 - spare) * machine.memory / STATE * processes


def table(machine: Machine, counts: tuple[int, ...] = (8, 64, 256, 1024)) -> str:
    """Bytes, the batch that hides them, and the share of the time that is arithmetic."""
    rows = []
    for name, parameters in SIZES.items():
        for processes in counts:
            alone = [step(machine, 1, parameters, tokens) for tokens in (4096, 16384)]
            shares = [
                alone[0] / step(machine, processes, parameters, 4096),
                alone[1] / step(machine, processes, parameters, 16384),
                alone[1] / step(machine, processes, parameters, 16384, sharded=True),
            ]
            traffic = [f"{sent(processes, parameters) / 1e9:.2f} GB"]
            traffic += [f"{hiding_tokens(machine, processes, parameters):,.0f}"]
            rows.append([f"{processes:,}", name, *traffic, *(f"{100 * share:.0f} %" for share in shares)])
    head = ["processes", "parameters", "sent by each in a step", "hidden from, tokens", "arithmetic at 4,096"]
    return markdown([*head, "at 16,384", "fsdp, at 16,384"], rows, left=0)


class Case(NamedTuple):
    """A language model of four layers, and the texts of each of two processes."""

    width: int
    texts: int
    length: int


CASES = (Case(128, 32, 32), Case(256, 8, 32), Case(384, 4, 16), Case(512, 2, 16), Case(512, 1, 8))


def measured(cases: tuple[Case, ...] = CASES, rounds: int = 8) -> str:
    """The formula and the clock, for two processes with one thread each on this machine."""
    rows = []
    for case in cases:
        alone, exchange, both, parameters = _in_two_processes(case, rounds)
        predicted = alone + max(0.0, exchange - 2 / 3 * alone)
        times = [f"{1e3 * seconds:.0f} ms" for seconds in (alone, exchange, predicted, alone + exchange, both)]
        rows.append([f"{parameters / 1e6:.1f} M", f"{case.texts * case.length:,}", *times])
    head = ["parameters", "tokens of each", "step without exchange", "exchange alone", "formula", "nothing hidden"]
    return markdown([*head, "two processes"], rows, left=0)


def _in_two_processes(case: Case, rounds: int) -> tuple[float, float, float, float]:
    """Seconds of a step without exchange, of the exchange, and of both; the number of parameters."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=_worker, args=(rank, f"{folder}/meeting", case, rounds, f"{folder}/result"))
            for rank in (0, 1)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        result = torch.load(f"{folder}/result", weights_only=True)
    return result["alone"], result["exchange"], result["both"], result["parameters"]


def _worker(rank: int, meeting: str, case: Case, rounds: int, file: str) -> None:
    """Fastest rounds of a step without exchange, of the exchange, and of both; all in both processes at once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.manual_seed(0)
    config = TransformerConfig(vocabulary=2000, max_length=case.length, width=case.width, layers=4, heads=4)
    objective = ELBO()(pf.LanguageModel(config), None)
    batch = random_batch(2000, case.texts, case.length)
    gradients = torch.zeros(sum(p.numel() for p in objective.parameters()))
    wrapped = DistributedDataParallel(objective, gradient_as_bucket_view=True)

    def train(module: nn.Module) -> None:
        objective.zero_grad()
        module(batch).backward()

    ways: dict[str, Callable[[], Any]] = {
        "alone": lambda: train(objective),
        "exchange": lambda: dist.all_reduce(gradients),
        "both": lambda: train(wrapped),
    }
    best = dict.fromkeys(ways, math.inf)
    for _ in range(rounds):
        for name, run in ways.items():
            dist.barrier()
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    if rank == 0:
        torch.save(best | {"parameters": float(len(gradients))}, file)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argument_parser(__doc__, **Machine()._asdict())
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--out", type=Path)
    options = vars(parser.parse_args())
    out, measure = options.pop("out"), options.pop("measure")
    machine = Machine(**options)
    text = table(machine) + f"\nState of up to {largest(machine, 1) / 1e9:.1f} B parameters fits a device with ddp.\n"
    if measure:
        text += "\n" + measured()
    show(text, out)


if __name__ == "__main__":
    main()
