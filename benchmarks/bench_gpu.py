"""One table of ratios on a GPU, in at most eight minutes: ``make bench-gpu``. It needs nobody who watches it.

    python benchmarks/bench_gpu.py [--write] [--minutes 8] [--only NAME ...]

Models have GPT-2 small's size (width 768, 12 layers, 50,257 tokens), texts 128 tokens; networks compute in bfloat16.
Both sides of a row take turns in one process, and a ratio is one of fastest rounds. It has been tested on a CPU, at a
tiny size; what it prints on a GPU nobody had seen when it was written.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import attention
import bench
import della
import elbo
import pyro
import torch
from bench import Row, Section
from measuring import milliseconds, peak_memory, random_batch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import pyroformer as pf
from pyroformer.inference.objectives.elbo import ELBO, Objective
from pyroformer.inference.training.compiled import NO_VALIDATION, CompiledObjective
from pyroformer.models.batch import Batch
from pyroformer.models.transformer.blocks import compile_blocks, recompute_blocks
from pyroformer.models.transformer.config import TransformerConfig

WAITS = ("aten::_local_scalar_dense", "aten::is_nonzero", "cudaStreamSynchronize", "cudaDeviceSynchronize")


class Size(NamedTuple):
    """The size of all models, and how often a step is taken."""

    width: int = 768
    layers: int = 12
    vocabulary: int = 50_257
    texts: int = 64
    length: int = 128
    rounds: int = 10
    components: int = 1024
    backend: str = "inductor"

    @property
    def config(self) -> TransformerConfig:
        return TransformerConfig(
            self.vocabulary,
            max_length=self.length,
            width=self.width,
            layers=self.layers,
            heads=max(1, self.width // 64),
            positions="learned",
            dropout=0.0,
        )

    def batch(self, device: str) -> Batch:
        torch.manual_seed(1)
        return random_batch(self.vocabulary, self.texts, self.length, device=device)


SIZE = Size()


def system(name: str, size: Size, device: str) -> Objective:
    """A model and its guide, with the objective that is a bound."""
    torch.manual_seed(0)
    if name == "lm":
        return ELBO()(pf.LanguageModel(size.config), None).to(device)
    if name == "della":
        chain = pf.DELLA(size.config, latent_size=32)
        return ELBO()(chain, pf.DELLAGuide(chain)).to(device)
    model = pf.NVAE(size.config)
    return ELBO()(model, pf.NVAEGuide(model)).to(device)


def stepper(network: nn.Module, loss: Callable[[], Tensor], device: str) -> Callable[[], object]:
    """A step of training in bfloat16."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with _bf16(device):
            value = loss()
        value.backward()
        optimizer.step()

    return step


def compilations(device: str, size: Size = SIZE) -> list[Row]:
    """Each system eager, with compiled blocks, captured, and captured with CUDA graphs."""
    rows, batch = [], size.batch(device)
    for name in ("lm", "della", "nvae"):
        steps: dict[str, Callable[[], object]] = {}
        eager = system(name, size, device)
        steps["eager"] = stepper(eager, _loss(eager, batch), device)
        blocks = system(name, size, device)
        compile_blocks(blocks, backend=size.backend)
        steps["blocks"] = stepper(blocks, _loss(blocks, batch), device)
        full = system(name, size, device)
        captured = CompiledObjective(full, backend=size.backend)
        steps["full"] = stepper(full, _loss(captured, batch), device)
        if device == "cuda":
            graphs = system(name, size, device)
            replayed = CompiledObjective(graphs, mode="reduce-overhead")
            steps["full, CUDA graphs"] = stepper(graphs, _loss(replayed, batch), device)
        times = _turns(steps, size.rounds, device)
        rows += [
            Row(f"step of {name}, {way}", "eager", times[way], times["eager"], asked=0.71 if way == "blocks" else None)
            for way in steps
            if way in times and way != "eager"
        ]
    return rows


def by_hand(device: str, size: Size = SIZE) -> list[Row]:
    """The step of each system beside PyTorch by hand on the same compiled blocks."""
    rows, batch = [], size.batch(device)
    model = pf.NVAE(size.config).to(device)
    guide = pf.NVAEGuide(model).to(device)
    hand = nn.ModuleList([model, guide])
    ours = system("nvae", size, device)
    for network in (hand, ours):
        compile_blocks(network, backend=size.backend)
    times = _turns(
        {
            "hand": stepper(hand, lambda: elbo.by_hand(model, guide, batch), device),
            "ours": stepper(ours, _loss(ours, batch), device),
        },
        size.rounds,
        device,
    )
    rows.append(Row("step of nvae, blocks", "PyTorch by hand", times["ours"], times["hand"], asked=1.25))
    ways = della.ways(size.config, batch, device)
    times = _turns({name: stepper(*way, device) for name, way in ways.items()}, size.rounds, device)
    rows += [
        Row(f"step of della, {name}", "PyTorch by hand", times[name], times["by hand"], asked=1.15)
        for name in ("collapsed", "product")
    ]
    return rows


def rates(device: str, size: Size = SIZE) -> list[Row]:
    """The share of the measured rate of matrices that a step of DELLA reaches, at the best of several batches."""
    n = 8192 if device == "cuda" else 256
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16).unbind(0)
    seconds = _turns({"product": lambda: a @ b}, size.rounds, device)["product"] / 1e3
    matrices = 2 * n**3 / seconds
    best = 0.0
    for texts in (size.texts // 2, size.texts, 2 * size.texts, 4 * size.texts):
        batch = size._replace(texts=max(1, texts)).batch(device)
        objective = system("della", size, device)
        compile_blocks(objective, backend=size.backend)
        step = stepper(objective, _loss(objective, batch), device)
        try:
            milliseconds = _turns({"step": step}, size.rounds, device)["step"]
        except torch.OutOfMemoryError:
            break
        best = max(best, _operations(objective, size, max(1, texts)) / (milliseconds / 1e3))
    return [
        Row("rate of matrices in bfloat16", "", matrices / 1e12, unit="TFLOP/s"),
        Row("matrices, of the rate of a step of DELLA", "step of DELLA", matrices / 1e12, best / 1e12, "TFLOP/s", 2.5),
    ]


def kernels(device: str, size: Size = SIZE) -> list[Row]:
    """Attention to a mixture in training beside softmax attention, and the kernel that each runs."""
    problem = attention.Problem.draw(4, size.components, size.width, max(1, size.width // 64), device)
    forms = {
        name: partial(_under_bf16, form, device)
        for name, form in attention.layers(problem).items()
        if name in ("plain", "training")
    }
    costs = attention.measure(forms, problem.leaves, size.rounds, device)
    ours, theirs = (1e3 * costs[name].both for name in ("training", "plain"))
    used = {name: _kernel(form) for name, form in forms.items()}
    return [
        Row(
            f"attention to {size.components} vectors, forward and backward ({used['training']})",
            f"softmax attention ({used['plain']})",
            ours,
            theirs,
            asked=1.15,
        )
    ]


def waits(device: str, size: Size = SIZE) -> list[Row]:
    """How often the host waits for the device in a step, by the profiler."""
    rows, batch = [], size.batch(device)
    for name in ("lm", "della", "nvae"):
        objective = system(name, size, device)
        step = stepper(objective, _loss(objective, batch), device)
        with pyro.settings.context(**NO_VALIDATION):
            step()
            rows.append(Row(f"waits in a step of {name}", "", float(count_waits(step)), unit="", asked=0))
    return rows


def memory(device: str, size: Size = SIZE) -> list[Row]:
    """Peak memory of a step, with all activations kept and with those of blocks computed again."""
    rows, batch = [], size.batch(device)
    for name in ("lm", "della", "nvae"):
        peaks = {}
        for again in (False, True):
            objective = system(name, size, device)
            recompute_blocks(objective, again)
            with pyro.settings.context(**NO_VALIDATION):
                peaks[again] = peak_memory(stepper(objective, _loss(objective, batch), device), device) / 2**20
        rows.append(Row(f"memory of a step of {name}, activations again", "kept", peaks[True], peaks[False], "MiB"))
    return rows


SECTIONS: dict[str, Section] = {
    "kernels": kernels,
    "waits": waits,
    "hand": by_hand,
    "rate": rates,
    "memory": memory,
    "likelihood": lambda device: bench.vocabularies(device, 8192, 49_152, 768, 10),
    "generate": lambda device: bench.writing(device, 768, 3, 128, 64),
    "compile": compilations,
}


def count_waits(step: Callable[[], object]) -> int:
    """The calls in a step that wait for the device."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities, acc_events=True) as record:
        step()
    return sum(event.name in WAITS and not _within_adam(event) for event in record.events() or ())


def _within_adam(event: Any) -> bool:
    """Whether an operation is part of Adam's, which reads its counts of steps on a CPU but not on a GPU."""
    while event is not None and event.name != "aten::_fused_adamw_":
        event = event.cpu_parent
    return event is not None


def _turns(steps: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Milliseconds of the fastest round; a way that fails is left out, and said."""
    with pyro.settings.context(**NO_VALIDATION):
        working = {}
        for name, step in steps.items():
            try:
                step()
                working[name] = step
            except Exception as error:  # one way less must not cost the others' numbers
                print(f"{name} failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
                if isinstance(error, torch.OutOfMemoryError):
                    raise
        return milliseconds(working, rounds, device)


def _operations(objective: Objective, size: Size, texts: int) -> float:
    """Floating-point operations of a step: six for each weight of a matrix and each token that it is applied to."""
    blocks = sum(
        p.numel() for module in objective.modules() if type(module).__name__ == "Block" for p in module.parameters()
    )
    passes = 2 if objective.guide is not None else 1  # blocks that encoder and decoder share are applied twice
    readout = size.width * size.vocabulary
    return 6.0 * texts * size.length * (passes * blocks + readout)


def _kernel(form: attention.Layer) -> str:
    """The operation by which attention was computed."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as record, torch.no_grad():
        form()
    names = [event.key.removeprefix("aten::") for event in record.key_averages()]
    found = [name for name in names if "scaled_dot_product" in name and name != "scaled_dot_product_attention"]
    return ", ".join(sorted(found)) or "no fused kernel"


def _loss(objective: Objective | CompiledObjective, batch: Batch) -> Callable[[], Tensor]:
    return lambda: objective.losses(batch)["objective"]


def _under_bf16(form: attention.Layer, device: str) -> Tensor:
    with _bf16(device):
        return form()


def _bf16(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, torch.bfloat16)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("bench_gpu.py needs a GPU, which torch does not see here: take bench.py.")
    began = time.monotonic()
    bench.command_line("bench-gpu", SECTIONS, "cuda", __doc__)
    print(f"{time.monotonic() - began:.0f} seconds")
