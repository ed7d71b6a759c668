"""Progress of a training: a line that rewrites itself, or one line per validation in a pipe."""

import shutil
import sys
import time
from typing import TextIO

from ..training.progress import TrainingLine
from ..training.status import Status
from .output import printable

__all__ = ["Progress"]


class Progress:
    """Shows the progress of a training in one line that rewrites itself; in a pipe, in one line per validation.

    Arguments:
        stream: The stream to write to; standard output by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.line = TrainingLine()
        self.stream = stream or sys.stdout
        self.rewrites = self.stream.isatty()
        self.done, self.drawn = 0.0, 0.0

    def __call__(self, status: Status) -> None:
        """Shows a :class:`~pyroformer.inference.training.status.Status`."""
        self.done = status.progress
        self.line.update(status)
        is_validation = status.split != "train"
        if self.rewrites and (is_validation or time.monotonic() - self.drawn > 0.1):
            self.drawn = time.monotonic()
            line = self.line.text(status, shutil.get_terminal_size().columns - 1)
            self.stream.write(f"\r\x1b[K{printable(line, self.stream.encoding)}")
        elif is_validation and not self.rewrites:
            self.stream.write(printable(self.line.text(status), self.stream.encoding) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Ends the line."""
        if self.rewrites and self.drawn:
            self.stream.write("\n")
            self.stream.flush()
