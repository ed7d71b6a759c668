"""Progress of a training: a line that rewrites itself, or one line per validation in a pipe."""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """Shows the progress of a training in one line that rewrites itself; in a pipe, in one line per validation.

    Arguments:
        objective: Name of the objective; it should say whether it is a bound.
        stream: The stream to write to; standard output by default.

    Examples:
        >>> Progress.clock(227.0), Progress.clock(3700.0)
        ('3:47', '1:01:40')
    """

    def __init__(self, objective: str = "objective", stream: TextIO | None = None) -> None:
        self.objective = objective
        self.stream = stream or sys.stdout
        self.rewrites = self.stream.isatty()
        self.done, self.step = 0.0, 0
        self.train: Mapping[str, float] = {}
        self.held_out: float | None = None
        self.drawn = 0.0

    def __call__(self, status: Any) -> None:
        """Shows a :class:`~pyroformer.inference.training.lightning_module.Status`."""
        self.done, self.step = status.progress, status.step
        is_validation = status.split != "train"
        if is_validation:
            self.held_out = status.values.get("objective")
        else:
            self.train = status.values or self.train
        if self.rewrites and (is_validation or time.monotonic() - self.drawn > 0.1):
            self.drawn = time.monotonic()
            self.stream.write(f"\r\x1b[K{self.line(status, shutil.get_terminal_size().columns - 1)}")
        elif is_validation and not self.rewrites:
            self.stream.write(self.line(status) + "\n")
        self.stream.flush()

    def line(self, status: Any, width: int = 200) -> str:
        """The line, shortened to ``width`` characters by leaving out its least important parts."""
        values = self.train
        divergence = [value for name, value in values.items() if name.startswith("kl_")]
        parts = {
            "progress": f"{100 * status.progress:3.0f} %",
            "step": f"step {status.step:,}",
            "objective": f"{self.objective} {values['objective']:.2f}" if "objective" in values else "",
            "held-out": f"held-out {self.held_out:.2f}" if self.held_out is not None else "",
            "reconstruction": f"reconstruction {values['reconstruction']:.2f}" if divergence else "",
            "divergence": f"KL {sum(divergence):.1f} nats/token" if divergence else "",
            "beta": f"beta {values['beta']:.3g}" if "beta" in values else "",
            "speed": f"{self.quantity(status.tokens_per_second)} tokens/s",
            "left": f"{self.clock(status.seconds_left)} left",
        }
        for least in ("speed", "held-out", "step", "reconstruction", "beta", "divergence", "objective"):
            if len(" | ".join(filter(None, parts.values()))) > width:
                parts[least] = ""
        return " | ".join(filter(None, parts.values()))

    def close(self) -> None:
        """Ends the line."""
        if self.rewrites and self.drawn:
            self.stream.write("\n")
            self.stream.flush()

    @staticmethod
    def clock(seconds: float) -> str:
        """Seconds as minutes and seconds, with hours if there are any."""
        if not seconds < 1e6:
            return "?"
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

    @staticmethod
    def quantity(number: float) -> str:
        """A number in about three digits: 9.8k, 2.1M.

        Examples:
            >>> [Progress.quantity(n) for n in (7.0, 9_800.0, 412_000.0, 2_100_000.0)]
            ['7', '9.8k', '412k', '2.1M']
        """
        for size, unit in ((1e6, "M"), (1e3, "k")):
            if number >= size:
                return f"{number / size:.1f}{unit}" if number < 100 * size else f"{number / size:.0f}{unit}"
        return f"{number:.0f}"
