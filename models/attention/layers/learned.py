r"""Attention to a learned memory, and of learned queries to a sequence."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...utils.numbers import check_at_least
from .cross import ProbabilisticCrossAttention

__all__ = ["ProbabilisticMemory", "ProbabilisticPooling"]


class ProbabilisticPooling(nn.Module):
    """A sequence summed up in a few vectors: learned queries attend to its tokens, which are Gaussians.

    At initialization it is softmax attention of the learned queries.

    Arguments:
        width: The width of the model.
        heads: The number of heads.
        queries: The number of learned queries, and of vectors that a sequence becomes.
        options: Further arguments of :class:`~pyroformer.ProbabilisticAttention`.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> pooling = ProbabilisticPooling(16, heads=2, queries=3, precision="diagonal")
        >>> pooling(torch.randn(5, 9, 16)).shape
        torch.Size([5, 3, 16])
    """

    def __init__(self, width: int, heads: int, queries: int = 1, **options: Any) -> None:
        super().__init__()
        check_at_least(1, queries=queries)
        self.attention = ProbabilisticCrossAttention(width, heads, **options)
        self.queries = nn.Parameter(torch.randn(queries, width))

    def forward(
        self, x: Float[Tensor, "*batch t p"], mask: Bool[Tensor, "*batch t"] | None = None
    ) -> Float[Tensor, "*batch k p"]:
        """The vectors of a sequence, of the tokens that ``mask`` marks."""
        queries = self.queries.to(x.dtype).expand(*x.shape[:-2], -1, -1)
        return self.attention(queries, x, mask)


class ProbabilisticMemory(nn.Module):
    """Tokens that attend to a learned memory of Gaussians, the same for all sequences.

    At initialization it is softmax attention to the learned memory.

    Arguments:
        width: The width of the model.
        heads: The number of heads.
        tokens: The number of learned tokens in the memory.
        options: Further arguments of :class:`~pyroformer.ProbabilisticAttention`.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> memory = ProbabilisticMemory(16, heads=2, tokens=32)
        >>> memory(torch.randn(5, 9, 16)).shape
        torch.Size([5, 9, 16])
    """

    def __init__(self, width: int, heads: int, tokens: int, **options: Any) -> None:
        super().__init__()
        check_at_least(1, tokens=tokens)
        self.attention = ProbabilisticCrossAttention(width, heads, **options)
        self.memory = nn.Parameter(torch.randn(tokens, width))

    def forward(self, x: Float[Tensor, "*batch t p"]) -> Float[Tensor, "*batch t p"]:
        """x after every token has attended to the memory."""
        return self.attention(x, self.memory.to(x.dtype).expand(*x.shape[:-2], -1, -1))
