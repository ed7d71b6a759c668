"""The progress of a training, as callbacks receive it."""

from typing import NamedTuple

__all__ = ["Status"]


class Status(NamedTuple):
    """Progress of a run; ``values`` are means in nats per token since the last callback, or over held-out texts.

    If the weight of the KL terms moves, ``values["beta"]`` is that of the last batch. ``objective`` is the name of the
    objective in words, such as "objective (nvib, not a bound)", and "objective" alone for the ELBO.
    """

    step: int
    progress: float
    seconds: float
    seconds_left: float
    tokens_per_second: float
    split: str
    values: dict[str, float]
    objective: str = "objective"
