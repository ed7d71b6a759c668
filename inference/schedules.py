"""Schedules of the learning rate and of the KL weight: functions of a run's progress, from 0 to 1."""

import math
from collections.abc import Callable, Sequence
from functools import partial

__all__ = [
    "RUNGS",
    "SCHEDULES",
    "Schedule",
    "constant",
    "cyclical",
    "geometric",
    "kl_schedule",
    "ladder",
    "linear",
    "warmup_cosine",
]

Schedule = Callable[[float], float]
RUNGS = (0.001, 0.01, 0.1, 0.5, 1.0)


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def linear(progress: float) -> float:
    """Linear growth from 0 to 1 over the first quarter of the run, then 1.

    Examples:
        >>> linear(0.0), linear(0.125), linear(0.6)
        (0.0, 0.5, 1.0)
    """
    return min(1.0, progress / 0.25)


def geometric(progress: float) -> float:
    """Exponential growth from a thousandth to 1 over three quarters of the run, then 1.

    With a small KL weight at first, a model learns to reconstruct before it learns to compress.

    Examples:
        >>> [round(geometric(progress), 4) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.001, 0.01, 0.1, 1.0, 1.0]
    """
    return min(1.0, 1e-3 ** (1 - progress / 0.75))


def cyclical(progress: float) -> float:
    """Four cycles: in each, linear growth from 0 to 1 over its first half, then 1.

    References:
        Cyclical Annealing Schedule (Fu et al., 2019), https://arxiv.org/abs/1903.10145

    Examples:
        >>> cyclical(0.0), cyclical(0.0625), cyclical(0.2), cyclical(0.25), cyclical(1.0)
        (0.0, 0.5, 1.0, 0.0, 1.0)
    """
    if progress >= 1:
        return 1.0
    return min(1.0, (progress * 4 % 1.0) / 0.5)


def ladder(progress: float, rungs: Sequence[float] = RUNGS) -> float:
    """A few weights, each for an equal share of the run: a model learns to copy, then to compress what it copies.

    Unlike growth to 1 in one go, each rung gives encoder, decoder and prior the time to adapt to it.

    Examples:
        >>> [ladder(progress) for progress in (0.0, 0.19, 0.2, 0.99, 1.0)]
        [0.001, 0.001, 0.01, 1.0, 1.0]
    """
    return rungs[min(int(progress * len(rungs) + 1e-9), len(rungs) - 1)]


def kl_schedule(name: str, rungs: Sequence[float] | None = None) -> Schedule:
    """The schedule of the KL weight with this name; ``rungs`` are those of a ladder, :data:`RUNGS` by default.

    Examples:
        >>> kl_schedule("ladder", rungs=[0.1, 1.0])(0.5)
        1.0
    """
    return partial(ladder, rungs=rungs) if name == "ladder" and rungs else SCHEDULES[name]


def warmup_cosine(progress: float) -> float:
    """Learning rate: linear warm-up to 1 over the first twentieth, then a cosine decay to a tenth.

    Examples:
        >>> round(warmup_cosine(0.025), 3), round(warmup_cosine(0.05), 3), round(warmup_cosine(1.0), 3)
        (0.5, 1.0, 0.1)
    """
    warmup, final = 0.05, 0.1
    if progress < warmup:
        return progress / warmup
    phase = min(1.0, (progress - warmup) / (1 - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * phase))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "geometric": geometric,
    "cyclical": cyclical,
    "ladder": ladder,
}
