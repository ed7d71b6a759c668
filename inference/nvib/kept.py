"""The share of the vectors of a wrapped model that stay."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...models.nvib.observer import Observer
from ...models.utils.numbers import declared_number
from .layers import layers
from .observe import run_batches

__all__ = ["Kept", "kept"]


class Kept(NamedTuple):
    """Shares of the attention of one layer.

    Arguments:
        prior: The share of the attention that the prior's component has, a mean over heads, queries and texts.
        vectors: The share of vectors to which some query of some head gives at least ``above`` of its attention.
    """

    prior: float
    vectors: float


def kept(model: nn.Module, batches: object, *, above: float = 0.01) -> dict[str, Kept]:
    r"""The share of vectors that stay, and that of the attention which the prior's component has, by layer.

    A vector stays if some query of some head gives it at least ``above`` of its attention. To remove one that does not
    changes no answer by more than about that share of its length, wherever it stands.

    Arguments:
        model: A wrapped model; it runs in evaluation mode.
        batches: As for :func:`~pyroformer.nvib.fit_priors`.
        above: The attention at which a vector stays, from above 0 to 1.

    Raises:
        ValueError: If the model is not wrapped, there are no batches, or ``above`` is out of its range.

    Examples:
        >>> model, x = pf.nvib.wrap(torch.nn.TransformerEncoderLayer(16, 2, batch_first=True)), torch.randn(3, 5, 16)
        >>> pf.nvib.kept(model, [x])
        {'self_attn': Kept(prior=0.0, vectors=1.0)}
    """
    if not 0 < declared_number("above", above, float) <= 1:
        raise ValueError(f"above is {above}: give a share of the attention, from above 0 to 1")
    wrapped = layers(model)
    counts = {name: _Counts(above, layer.group) for name, layer in wrapped.items()}
    run_batches(model, batches, wrapped, counts)
    return {name: count.result() for name, count in counts.items()}


class _Counts(Observer):
    """Sums over batches, on the model's device."""

    needs_weights = True

    def __init__(self, above: float, group: str) -> None:
        self.above, self.group = above, group
        self.prior = self.queries = self.kept = self.count = 0.0

    def weights(self, weights: Tensor, present: Tensor | None) -> None:
        """Weights [B, H, M, 1 + N], the prior's first; in self-attention, padded queries do not count."""
        prior, own = weights[..., 0].mean(1), weights[..., 1:]
        if present is None:
            present = own.new_ones(own.shape[0], own.shape[-1], dtype=torch.bool)
        present = present.expand(own.shape[0], own.shape[-1])
        if self.group != "cross" and own.shape[-1] == own.shape[-2]:
            own = own.masked_fill(~present[:, None, :, None], 0)
            self.prior += float(prior[present].sum())
            self.queries += int(present.sum())
        else:
            self.prior += float(prior.sum())
            self.queries += prior.numel()
        largest = own.amax((1, 2))
        self.kept += int(((largest >= self.above) & present).sum())
        self.count += int(present.sum())

    def result(self) -> Kept:
        return Kept(self.prior / max(self.queries, 1), self.kept / max(self.count, 1))
