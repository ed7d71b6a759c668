"""Embeddings of tokens, and their positions: added, or as the rotation of queries and keys."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .config import TransformerConfig
from .rotary import rotation

__all__ = ["Embedding", "sinusoids"]


class Embedding(nn.Module):
    r"""Vectors of tokens, with those of their positions added unless these are rotary."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = 1.0
        longest = config.max_condition_length + config.max_length
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(longest, config.width))
        elif config.positions == "rotary":
            self.register_parameter("positions", None)
        else:
            self.scale = math.sqrt(config.width)
            self.register_buffer("positions", sinusoids(torch.arange(longest), config.width), persistent=False)

    def forward(
        self, tokens: Int[Tensor, "*batch T"], position: Int[Tensor, "*#batch T"] | None = None
    ) -> Float[Tensor, "*batch T P"]:
        """Embeddings of tokens at these positions; None is 0, 1, ..., T - 1."""
        return self.placed(self.tokens(tokens), position)

    def placed(
        self, vectors: Float[Tensor, "*batch T P"], position: Int[Tensor, "*#batch T"] | None = None
    ) -> Float[Tensor, "*batch T P"]:
        """The rows of tokens, or vectors in their place, at these positions."""
        x = vectors * self.scale
        if self.positions is not None:
            x = x + (self.positions[: vectors.shape[-2]] if position is None else self.positions[position])
        return self.dropout(x)

    def rotation(
        self, tokens: Int[Tensor, "*batch T"], position: Int[Tensor, "*#batch T"] | None = None
    ) -> Float[Tensor, "*#batch T d"] | None:
        """The rotation of the queries and keys of tokens at these positions; None if positions are not rotary."""
        if self.positions is not None:
            return None
        return rotation(
            torch.arange(tokens.shape[-1], device=tokens.device) if position is None else position, self.config
        )


def sinusoids(positions: Int[Tensor, "*batch"], width: int) -> Float[Tensor, "*batch width"]:
    """Sines in the even dimensions and cosines in the odd ones, of wavelengths from 2 pi to 20000 pi."""
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10000.0) / width))
    angles = positions[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
