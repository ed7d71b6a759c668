"""Schedules of the learning rate and of the KL weight: functions of a run's progress, from 0 to 1."""

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "Schedule", "constant", "cyclical", "geometric", "linear", "warmup_cosine"]

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def linear(progress: float, until: float = 0.25) -> float:
    """Linear growth from 0 to 1 over the first quarter of the run, then 1.

    Examples:
        >>> linear(0.0), linear(0.125), linear(0.6)
        (0.0, 0.5, 1.0)
    """
    return min(1.0, progress / until)


def geometric(progress: float, start: float = 1e-3, until: float = 0.75) -> float:
    """Exponential growth from a thousandth to 1 over three quarters of the run, then 1.

    With a small KL weight at first, a model learns to reconstruct before it learns to compress.

    Examples:
        >>> [round(geometric(progress), 4) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.001, 0.01, 0.1, 1.0, 1.0]
    """
    return min(1.0, start ** (1 - progress / until))


def cyclical(progress: float, cycles: int = 4, ramp: float = 0.5) -> float:
    """Four cycles: in each, linear growth from 0 to 1 over its first half, then 1.

    References:
        Cyclical Annealing Schedule (Fu et al., 2019), https://arxiv.org/abs/1903.10145

    Examples:
        >>> cyclical(0.0), cyclical(0.0625), cyclical(0.2), cyclical(0.25), cyclical(1.0)
        (0.0, 0.5, 1.0, 0.0, 1.0)
    """
    if progress >= 1:
        return 1.0
    return min(1.0, (progress * cycles % 1.0) / ramp)


def warmup_cosine(progress: float, warmup: float = 0.05, final: float = 0.1) -> float:
    """Learning rate: linear warm-up to 1 over the first twentieth, then a cosine decay to a tenth.

    Examples:
        >>> round(warmup_cosine(0.025), 3), round(warmup_cosine(0.05), 3), round(warmup_cosine(1.0), 3)
        (0.5, 1.0, 0.1)
    """
    if progress < warmup:
        return progress / warmup
    phase = min(1.0, (progress - warmup) / (1 - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * phase))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "geometric": geometric,
    "cyclical": cyclical,
}
