"""Messages of processes that train together, after each step."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["NEVER", "Peers", "SharedStatus"]

NEVER = 1 << 62  # a step that does not come


class SharedStatus(NamedTuple):
    """The combined status of all processes.

    Arguments:
        signal: The number of the signal that has asked one of them to end, or 0.
        not_finite: The first step whose loss was not finite in one of them, or ``NEVER``.
        seconds: The clock of the first process.
    """

    signal: int
    not_finite: int
    seconds: float


class Peers:
    """An exchange of the processes' status with each step, which no process waits for.

    A step's status is read with the next step, when it has long arrived, so that every device has a step to compute
    meanwhile. All processes read the same status at the same step, and therefore decide the same.

    Arguments:
        device: The device of this process.
        seconds: The clock before the first status.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device = device
        self.status = SharedStatus(0, NEVER, seconds)
        self._sent: Callable[[], list[int]] | None = None

    def exchange(self, signal: int, not_finite: Tensor | None, seconds: float) -> None:
        """Sends this process's status at a step, and reads that of the step before."""
        before = self._sent
        if not_finite is None:
            not_finite = self._number(NEVER)
        clock = round(1e6 * seconds) if dist.get_rank() == 0 else 0
        status = torch.stack([self._number(signal), -not_finite, self._number(clock)])
        work = dist.all_reduce(status, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._sent = _arrival(status, work)
        if before is not None:
            self._read(before)

    def latest(self) -> SharedStatus:
        """The status of this step; waits for all processes."""
        if self._sent is not None:
            self._read(self._sent)
        return self.status

    def _read(self, arrival: Callable[[], list[int]]) -> None:
        signal, not_finite, clock = arrival()
        self.status = SharedStatus(signal, -not_finite, max(clock / 1e6, self.status.seconds))

    def _number(self, value: int) -> Tensor:
        return torch.full((), value, dtype=torch.int64, device=self.device)  # a copy from the host might wait


def _arrival(status: Tensor, work: dist.Work) -> Callable[[], list[int]]:
    """A function that waits for the status and returns it; on a GPU, the copy to the host is queued now."""
    if status.device.type == "cpu":
        return lambda: status.tolist() if work.wait() else []
    work.wait()  # the stream waits, not the host
    on_host = torch.empty(status.shape, dtype=status.dtype, pin_memory=True).copy_(status, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def read() -> list[int]:
        event.synchronize()
        return on_host.tolist()

    return read
