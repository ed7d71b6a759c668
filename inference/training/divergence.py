"""Losses and weights that are no longer finite, with which a training ends."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..runs.folder import RunFolder
from .distributed.peers import NEVER, Peers

__all__ = ["DivergenceError", "LossWatch", "weights_are_finite"]


class DivergenceError(ValueError):
    """A training diverged; the last finite weights are kept.

    Arguments:
        step: The first step whose loss or weights were not finite.
        learning_rate: The learning rate of the run.
        folder: Its folder, as long as the error lives also a temporary one.

    Attributes:
        step: The first step whose loss or weights were not finite.
        folder: The folder with the weights that are kept, for :func:`~pyroformer.load`.
    """

    def __init__(self, step: int, learning_rate: float, folder: RunFolder) -> None:
        self.step, self.folder = step, folder
        kept = folder.best if folder.best.exists() else folder.last
        weights = (
            f"the weights of step {folder.step(kept):,} are kept" if kept.exists() else "no weights were saved yet"
        )
        anew = "fit anew" if folder.owner is not None else "fit anew with another out"  # its own is in use
        rate = f"lower learning_rate, now {learning_rate:g}"
        super().__init__(f"diverged at step {step:,}: {rate}, and {anew}; {weights}.")


class LossWatch:
    """The first step whose loss was not finite, noted on the device without waiting for it.

    Attributes:
        noted: That step, or ``NEVER``; None before the first loss.

    Examples:
        >>> watch = LossWatch()
        >>> for step, loss in enumerate([2.0, float("inf"), float("nan")], start=1):
        ...     watch.note(torch.tensor(loss), step)
        >>> watch.first_step(wait=True)
        2
    """

    def __init__(self) -> None:
        self.noted: Tensor | None = None

    def note(self, loss: Float[Tensor, ""], step: int) -> None:
        """Note whether the loss of a step is finite."""
        noted = torch.where(loss.isfinite(), NEVER, step)
        self.noted = noted if self.noted is None else torch.minimum(self.noted, noted)

    def first_step(self, wait: bool, peers: Peers | None = None) -> int:
        """The first step whose loss was not finite, in any process, or ``NEVER``.

        Arguments:
            wait: Whether to read it also where that waits for a device or for other processes.
            peers: The other processes.
        """
        if peers is not None:
            return (peers.latest() if wait else peers.status).not_finite
        if self.noted is None or not (wait or self.noted.device.type == "cpu"):
            return NEVER
        return int(self.noted)


def weights_are_finite(module: nn.Module) -> bool:
    """Whether all parameters are finite; of sharded ones, the share of this process.

    Examples:
        >>> weights_are_finite(nn.Linear(2, 2))
        True
    """
    shares = [p.to_local() if hasattr(p, "to_local") else p for p in module.parameters()]
    checks = [share.detach().isfinite().all() for share in shares]
    return not checks or bool(torch.stack(checks).all())
