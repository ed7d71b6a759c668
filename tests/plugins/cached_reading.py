"""Reading on from a cache, for layers of self-attention."""

import torch
from torch import Tensor

from pyroformer.models.attention.kv_cache import KeyValueCache

__all__ = ["in_parts_and_at_once"]


def in_parts_and_at_once(layer: torch.nn.Module, x: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    """The output at all tokens of three texts, of three tokens and then one by one, and all at once.

    If ``padded``, the first tokens of two texts are padding, whose output is left out.
    """
    present = torch.arange(x.shape[1]) >= torch.tensor([[0], [1], [2]])
    sizes, cache = [3, *[1] * (x.shape[1] - 3)], KeyValueCache(x.shape[1])
    masks = present.split(sizes, 1) if padded else [None] * len(sizes)
    parts = [layer(part, mask, True, cache) for part, mask in zip(x.split(sizes, 1), masks, strict=True)]
    whole: Tensor = layer(x, present if padded else None, True)
    shown = present if padded else torch.ones_like(present)
    return torch.cat(parts, 1)[shown], whole[shown]
