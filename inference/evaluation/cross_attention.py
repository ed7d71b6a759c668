"""Cross-attention of a decoder under teacher forcing."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...models.attention.layers.denoising import DenoisingAttention
from ...models.attention.mixture import Mixture
from ...models.transformer.stacks import Decoder

__all__ = ["attention_shares", "cross_attention"]


@torch.no_grad()
def cross_attention(
    decoder: Decoder, tokens: Int[Tensor, "B T"], memory: Mixture
) -> Float[Tensor, "layers B heads T N"]:
    """The attention of each head of each layer to each component at each token.

    Where a :class:`~pyroformer.models.transformer.place_reader.PlaceReader` finds the vector of each token, its
    attention alone, as one layer of one head: it is what decides.
    """
    if decoder.reader is not None:
        place = torch.arange(tokens.shape[-1], device=tokens.device).expand(tokens.shape)
        return decoder.reader.weights(place, memory)[None, :, None]
    cache = decoder.cache(tokens.shape[:1], tokens.shape[-1], memory)
    with _inputs(block.cross for block in decoder.blocks) as inputs:
        # step() and not forward(): it runs blocks as they are, where a compiled one would not call a hook
        decoder.step(F.pad(tokens[:, :-1], (1, 0), value=decoder.config.bos), cache)
    return torch.stack([cross.attention_weights(x, memory) for cross, x in inputs])


def attention_shares(
    decoder: Decoder, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], memory: Mixture
) -> Float[Tensor, "B N"]:
    """Each component's share of the attention of a text: the mean over layers, heads and tokens."""
    weights = cross_attention(decoder, tokens, memory).mean((0, 2))
    return torch.where(mask[..., None], weights, 0).sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)


@contextmanager
def _inputs(modules: Iterable[Any]) -> Iterator[list[tuple[DenoisingAttention, Tensor]]]:
    """Collects the first argument of every call of the modules."""
    calls: list[tuple[DenoisingAttention, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs[0])))
        for module in modules
        if module is not None
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
