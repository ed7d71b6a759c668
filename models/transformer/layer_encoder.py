"""An encoder with one vector of a text for each layer: pooled hidden states of a bidirectional stack."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..utils.choices import check_choice
from .blocks import Block, applied, initialize
from .config import TransformerConfig
from .stacks import Decoder, are_copies

__all__ = ["LayerEncoder", "Pool", "PoolKind"]

PoolKind = Literal["attention", "mean", "first", "last"]


class Pool(nn.Module):
    r"""Pooling of the hidden states of a text to one vector.

    .. math:: r = \sum_t \alpha_t h_t, \qquad \alpha = \operatorname{softmax}_t (w \cdot h_t)

    over the tokens that the mask marks; or their ``mean``, which is where ``attention`` starts; or the ``first`` one,
    or the ``last``, which alone has read the whole text where attention is causal.

    Arguments:
        width: The size of a hidden state.
        kind: ``attention``, ``mean``, ``first`` or ``last``.

    Raises:
        ValueError: If there is no such kind.

    Examples:
        >>> states, mask = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> Pool(1, "attention")(states, mask)
        tensor([[2.]], grad_fn=<SqueezeBackward1>)
    """

    def __init__(self, width: int, kind: PoolKind = "attention") -> None:
        super().__init__()
        check_choice("pool", kind, get_args(PoolKind))
        self.kind = kind
        self.weight = nn.Parameter(torch.zeros(width)) if kind == "attention" else None

    def extra_repr(self) -> str:
        return f"kind={self.kind}"

    def forward(self, states: Float[Tensor, "*batch t p"], mask: Bool[Tensor, "*batch t"]) -> Float[Tensor, "*batch p"]:
        if self.kind == "first":
            return states[..., 0, :]
        if self.kind == "last":
            places = torch.arange(mask.shape[-1], device=mask.device)
            last = torch.where(mask, places, 0).amax(-1, keepdim=True)[..., None]
            return states.take_along_dim(last, -2).squeeze(-2)
        states = torch.where(mask[..., None], states, 0)  # no value and no gradient of padding
        scores = states.new_zeros(states.shape[:-1]) if self.weight is None else states @ self.weight
        shares = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return (shares.unsqueeze(-2) @ states).squeeze(-2)


class LayerEncoder(nn.Module):
    r"""Encodes a text with the blocks of a decoder, or with its own, and pools the hidden states of each layer.

    Attention is bidirectional, or causal, which is how a decoder's blocks were trained, and without latents. The states
    of a layer are normalized, without weights, before they are pooled, because the residual stream grows from layer to
    layer.

    Arguments:
        decoder: The decoder whose embedding is shared.
        layers: The layers to pool, from 0, ascending.
        shared: Whether the decoder's blocks are shared too.
        pool: See :class:`Pool`.
        causal: Whether a token attends to those before it only.

    Examples:
        >>> decoder = Decoder(TransformerConfig(vocabulary=20, max_length=8, width=16))
        >>> encoder = LayerEncoder(decoder, layers=(0, 1))
        >>> [layer.shape for layer in encoder(torch.ones(3, 5, dtype=torch.long), torch.ones(3, 5, dtype=torch.bool))]
        [torch.Size([3, 16]), torch.Size([3, 16])]
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Sequence[int],
        shared: bool = True,
        pool: PoolKind = "attention",
        causal: bool = False,
    ) -> None:
        super().__init__()
        config: TransformerConfig = decoder.config
        self.layers = tuple(layers)
        self.width, self.causal = config.width, causal
        self.embedding = decoder.embedding
        used = range(max(self.layers) + 1)
        if shared:
            self.blocks = nn.ModuleList(decoder.blocks[layer] for layer in used)
        else:
            self.blocks = nn.ModuleList(Block(config) for _ in used)
            initialize(self.blocks, config)
        self.pools = nn.ModuleList(Pool(config.width, pool) for _ in self.layers)

    def forward(
        self,
        tokens: Int[Tensor, "*batch t"],
        mask: Bool[Tensor, "*batch t"],
        position: Int[Tensor, "*batch t"] | None = None,
    ) -> list[Float[Tensor, "*batch p"]]:
        """The vectors of all layers in ``layers``."""
        if not self.training and are_copies(tokens, mask, position):  # draws of one text, which is then read once
            once = self(tokens[:1], mask[:1], None if position is None else position[:1])
            return [vector.expand(len(tokens), -1) for vector in once]
        return self.read(self.embedding(tokens, position), mask, self.embedding.rotation(tokens, position))

    def read(
        self, x: Float[Tensor, "*batch t p"], mask: Bool[Tensor, "*batch t"], rotation: Tensor | None
    ) -> list[Float[Tensor, "*batch p"]]:
        """The vectors of all layers, from embeddings of tokens with their positions."""
        vectors = []
        for layer, block in enumerate(self.blocks):
            x = applied(block, x, mask, self.causal, rotation=rotation)
            if layer in self.layers:
                pool = self.pools[self.layers.index(layer)]
                vectors.append(pool(F.layer_norm(x, x.shape[-1:]), mask))
        return vectors
