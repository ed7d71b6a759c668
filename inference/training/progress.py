"""The progress bar of a training, and its status line."""

import sys
from collections.abc import Mapping
from typing import Any

from ..utils.progress import tqdm_bar
from .status import Status

__all__ = ["TrainingBar", "TrainingLine", "clock", "quantity"]

PERCENT = "{desc}: {percentage:3.0f}% |{bar}| {postfix}"  # the line has its own estimate of the time left


class TrainingBar:
    """A bar of a training, in Python: a callback of ``fit``.

    The bar appears at the first report, so that nothing is shown of what is refused before.
    """

    def __init__(self) -> None:
        self.line = TrainingLine()
        self.bar: Any = None

    def __call__(self, status: Status) -> None:
        """Shows a :class:`~pyroformer.inference.training.status.Status`."""
        self.line.update(status)
        if self.bar is None:
            self.bar = tqdm_bar(desc="training", total=100, bar_format=PERCENT, dynamic_ncols=True, leave=True)
        self.bar.set_postfix_str(self.line.text(status, with_percentage=False), refresh=False)
        self.bar.n = 100 * status.progress
        self.bar.refresh()

    def say(self, line: str) -> None:
        """Shows a line above the bar."""
        if self.bar is None:
            sys.stderr.write(f"{line}\n")
        else:
            self.bar.write(line, file=sys.stderr)

    def close(self, last: str = "") -> None:
        """Ends the bar, with a last line under it."""
        if self.bar is None:
            return
        self.bar.close()
        if last:
            self.bar.write(last, file=sys.stderr)


class TrainingLine:
    """The status of a training in one line."""

    def __init__(self) -> None:
        self.train: Mapping[str, float] = {}
        self.held_out: float | None = None

    def update(self, status: Status) -> None:
        """Notes the values of a :class:`~pyroformer.inference.training.status.Status`."""
        if status.split == "train":
            self.train = status.values or self.train
        else:
            self.held_out = status.values.get("objective")

    def text(self, status: Status, width: int = 200, with_percentage: bool = True) -> str:
        """The line, shortened to ``width`` characters by leaving out its least important parts."""
        values = self.train
        divergence = [value for name, value in values.items() if name.startswith("kl_")]
        parts = {
            "progress": f"{100 * status.progress:3.0f} %" if with_percentage else "",
            "step": f"step {status.step:,}",
            "objective": f"{status.objective} {values['objective']:.2f}" if "objective" in values else "",
            "held-out": f"held-out {self.held_out:.2f}" if self.held_out is not None else "",
            "reconstruction": f"reconstruction {values['reconstruction']:.2f}" if divergence else "",
            "divergence": f"KL {sum(divergence):z.1f} nats/token" if divergence else "",
            "beta": f"beta {values['beta']:.3g}" if "beta" in values else "",
            "speed": f"{quantity(status.tokens_per_second)} tokens/s",
            "left": f"{clock(status.seconds_left)} left",
        }
        for least in ("speed", "held-out", "step", "reconstruction", "beta", "divergence", "objective"):
            if len(" | ".join(filter(None, parts.values()))) > width:
                parts[least] = ""
        return " | ".join(filter(None, parts.values()))


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours if there are any.

    Examples:
        >>> clock(227.0), clock(3700.0)
        ('3:47', '1:01:40')
    """
    if not seconds < 1e6:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def quantity(number: float) -> str:
    """A number in about three digits: 9.8k, 2.1M.

    Examples:
        >>> [quantity(n) for n in (7.0, 9_800.0, 412_000.0, 2_100_000.0)]
        ['7', '9.8k', '412k', '2.1M']
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}" if number < 100 * size else f"{number / size:.0f}{unit}"
    return f"{number:.0f}"
