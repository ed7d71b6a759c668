"""An observer of one layer while a model runs."""

from torch import Tensor

__all__ = ["Observer"]


class Observer:
    """An observer of one layer: it is shown what the layer reads and what it attends to.

    Examples:
        >>> from pyroformer.models.nvib.observer import Observer
        >>> Observer.needs_weights
        False
    """

    needs_weights = False

    def vectors(self, x: Tensor, present: Tensor | None) -> None:
        """The vectors of a batch [B, N, P], and which of them are present."""

    def weights(self, weights: Tensor, present: Tensor | None) -> None:
        """Their attention weights [B, H, M, 1 + N], the prior's first; only if it needs them."""
