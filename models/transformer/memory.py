"""Conditioning information for the decoder: a mixture to attend to; or latents, and a condition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..attention.components import concatenated, padded
from ..attention.mixture import Mixture
from ..attention.variances import SharedVariances

__all__ = ["Context", "Memory", "batch_shape", "check_context", "check_mixture", "check_pair", "flat", "stacked"]


@dataclass(frozen=True)
class Context:
    r"""Latents that enter the layers of a decoder, and a condition that stands before the text.

    Arguments:
        latents: One latent for each layer that takes one, from below, with shape :math:`(*, K, p)`; or None.
        condition_tokens: Token ids with shape :math:`(*, C)`, or None.
        condition_mask: True where the condition has a token, with the same shape, or None for everywhere.

    Raises:
        ValueError: If it is empty.

    Examples:
        >>> batch_shape(Context(torch.zeros(5, 1, 4, 8), torch.ones(3, 2, dtype=torch.long)))
        torch.Size([5, 3])
    """

    latents: Float[Tensor, "*#batch K p"] | None = None
    condition_tokens: Int[Tensor, "*#batch C"] | None = None
    condition_mask: Bool[Tensor, "*#batch C"] | None = None

    def __post_init__(self) -> None:
        if self.latents is None and self.condition_tokens is None:
            raise ValueError("the context is empty: give latents or a condition, or no context at all.")

    @property
    def present(self) -> Bool[Tensor, "*#batch C"]:
        """True where the condition has a token."""
        assert self.condition_tokens is not None, "there is no condition"
        if self.condition_mask is not None:
            return self.condition_mask
        return torch.ones_like(self.condition_tokens, dtype=torch.bool)


Memory: TypeAlias = Mixture | Context


def batch_shape(memory: Memory) -> torch.Size:
    """The batch shape of a memory: that of its texts."""
    if isinstance(memory, Mixture):
        return torch.broadcast_shapes(memory.means.shape[:-2], memory.log_weights.shape[:-1])
    shapes = [] if memory.latents is None else [memory.latents.shape[:-2]]
    shapes += [] if memory.condition_tokens is None else [memory.condition_tokens.shape[:-1]]
    return torch.broadcast_shapes(*shapes)


def check_mixture(memory: Memory, width: int) -> Mixture:
    """The memory, or a ValueError if it is no mixture over vectors of this width.

    Examples:
        >>> check_mixture(Mixture(torch.zeros(3), torch.zeros(3, 2)), 2).components
        3
    """
    if not isinstance(memory, Mixture):
        raise ValueError(f"the memory is a {type(memory).__name__}, but the decoder attends to a Mixture: give one.")
    if memory.width != width:
        raise ValueError(
            f"the mixture has vectors of {memory.width} dimensions, the model of {width}: give vectors of {width}."
        )
    return memory


def check_context(memory: Memory, latents: int, size: int) -> Context:
    """The memory, or a ValueError if it is no context with this number of latents of this size.

    Examples:
        >>> check_context(Context(torch.zeros(1, 4, 8)), 4, 8).latents.shape
        torch.Size([1, 4, 8])
    """
    if not isinstance(memory, Context):
        raise ValueError(f"the memory is a {type(memory).__name__}, but the decoder takes latents: give a Context.")
    shape = None if memory.latents is None else tuple(memory.latents.shape[-2:])
    if shape != (latents, size):
        own = "no latents" if shape is None else f"{shape[0]} latents of {shape[1]} dimensions"
        raise ValueError(f"the context has {own}, the model {latents} of {size}: give as many and as wide ones.")
    return memory


def check_pair(first: Memory, second: Memory) -> None:
    """Raises a ValueError unless both have the same batch shape."""
    one, other = (tuple(batch_shape(memory)) for memory in (first, second))
    if one != other:
        raise ValueError(f"the memories are of batch shapes {one} and {other}: give as many texts of each.")


def flat(memory: Memory, batch: Sequence[int]) -> Memory:
    """The memory with its leading dimensions expanded to ``batch`` and flattened to one.

    Examples:
        >>> flat(Context(torch.zeros(5, 1, 4, 8)), (5, 3)).latents.shape
        torch.Size([15, 4, 8])
    """

    def rows(x: Tensor, trailing: int) -> Tensor:
        return x.expand(*batch, *x.shape[x.ndim - trailing :]).reshape(math.prod(batch), *x.shape[x.ndim - trailing :])

    if isinstance(memory, Context):
        return Context(
            None if memory.latents is None else rows(memory.latents, 2),
            None if memory.condition_tokens is None else rows(memory.condition_tokens, 1),
            None if memory.condition_mask is None else rows(memory.condition_mask, 1),
        )
    if memory.means.ndim == 3 and memory.means.shape[:1] == tuple(batch) == memory.log_weights.shape[:-1]:
        return memory
    variances: Tensor | SharedVariances | None
    if isinstance(memory.variances, SharedVariances):
        variances = SharedVariances(memory.variances.table, rows(memory.variances.group, 1))
    else:
        variances = memory.dense_variances()
        variances = rows(variances, 2) if variances is not None and variances.ndim > 2 else variances
    return replace(
        memory,
        log_weights=rows(memory.log_weights, 1),
        means=rows(memory.means, 2),
        variances=variances,
        mask=None if memory.mask is None else rows(memory.mask, 1),
        values=None if memory.values is None else rows(memory.values, 2),
        value_variances=None,  # decoders use posterior means only
    )


def stacked(memories: Sequence[Memory]) -> Memory:
    """Memories of one text each, of one kind, as one batch; shorter ones are padded and masked.

    Examples:
        >>> stacked([Context(torch.zeros(1, 4, 8)), Context(torch.ones(1, 4, 8))]).latents.shape
        torch.Size([2, 4, 8])
    """
    mixtures = [memory for memory in memories if isinstance(memory, Mixture)]
    return _mixtures(mixtures) if mixtures else _contexts([one for one in memories if isinstance(one, Context)])


def _mixtures(mixtures: list[Mixture]) -> Mixture:
    widest = max(mixture.components for mixture in mixtures)
    return concatenated([padded(mixture, widest) for mixture in mixtures], along="texts")


def _contexts(contexts: list[Context]) -> Context:
    latents = [context.latents for context in contexts if context.latents is not None]
    own = [one for one in contexts if one.condition_tokens is not None]
    return Context(
        torch.cat(latents) if latents else None,
        _padded_rows([one.condition_tokens for one in own]),
        _padded_rows([one.present for one in own]),
    )


def _padded_rows(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The rows of all parts below each other, padded with zeros, which are padding and False; None if there is none."""
    rows = [row for part in parts if part is not None for row in part]
    return pad_sequence(rows, batch_first=True) if rows else None
