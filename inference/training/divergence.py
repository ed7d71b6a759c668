"""The end of a training whose loss or weights are no longer finite."""

from ..runs.folder import RunFolder

__all__ = ["DivergenceError"]


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
        super().__init__(
            f"diverged at step {step:,}: lower learning_rate, now {learning_rate:g}, and fit anew; {weights}."
        )
