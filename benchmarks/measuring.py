"""Times, memory and batches of the cost benchmarks."""

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from pyroformer.models.batch import EOS, Batch

__all__ = ["milliseconds", "peak_memory", "place", "profiled_peak", "random_batch", "seconds", "synchronize"]

Name = TypeVar("Name")


def seconds(
    ways: Mapping[Name, Callable[[], object]],
    rounds: int,
    device: str = "cpu",
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, float]:
    """Times of the fastest round of each way, in turns: other load on the machine can only increase a time."""
    best = dict.fromkeys(ways, math.inf)
    for number in range(-warm_ups, rounds):
        for name, way in ways.items():
            synchronize(device)
            start = clock()
            way()
            synchronize(device)
            if number >= 0:
                best[name] = min(best[name], clock() - start)
    return best


def milliseconds(
    ways: Mapping[Name, Callable[[], object]], rounds: int, device: str = "cpu", warm_ups: int = 1
) -> dict[Name, float]:
    return {name: 1e3 * best for name, best in seconds(ways, rounds, device, warm_ups).items()}


def place(device: str) -> str:
    """Where times are measured."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(step: Callable[[], object], device: str) -> int:
    """Peak memory of a step in bytes, beyond what was allocated before it; a first step warms up."""
    step()
    if device != "cuda":
        return profiled_peak(step)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def profiled_peak(step: Callable[[], object]) -> int:
    """Peak memory of a step on the CPU in bytes, beyond what was allocated before it, by the profiler."""
    with torch.autograd.profiler.profile(profile_memory=True) as record:
        step()
    assert record.kineto_results is not None
    events = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def random_batch(vocabulary: int, texts: int, longest: int, shortest: int | None = None, device: str = "cpu") -> Batch:
    """Texts of random tokens and of random lengths, ends included; all are of the largest unless told otherwise."""
    lengths = texts * [longest - 1] if shortest is None else torch.randint(shortest, longest, (texts,)).tolist()
    rows = [[*torch.randint(3, vocabulary, (n,)).tolist(), EOS] for n in lengths]
    return Batch.pad(rows, padded_length=longest).to(device)
