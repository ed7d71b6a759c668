"""Softmax self-attention."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..attention.kv_cache import KeyValueCache
from ..attention.torch_weights import TorchWeights
from ..heads import head_width
from .fusion import MemorySlot

__all__ = ["SelfAttention"]


class SelfAttention(TorchWeights):
    r"""Multi-head softmax self-attention.

    Its values can depend on a latent, or a latent can be one more key and value: see
    :mod:`~pyroformer.models.transformer.fusion`.
    """

    fusion: nn.Module | None  # through which a latent enters

    def __init__(self, width: int, heads: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        head_width(width, heads)  # raises unless heads divide the width
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.fusion = None

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.dropout}"

    def forward(
        self,
        x: Float[Tensor, "*batch t p"],
        mask: Bool[Tensor, "*batch t"] | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        latent: Float[Tensor, "*batch k"] | None = None,
    ) -> Float[Tensor, "*batch t p"]:
        """x after every token has attended to those that ``mask`` marks and, if causal, to none after itself."""
        batch, (t, p) = x.shape[:-2], x.shape[-2:]
        b = math.prod(batch)
        queries, keys, values = self.qkv(x).reshape(b, t, 3, p).unbind(2)
        mask = None if mask is None else mask.reshape(b, t)
        slot = False
        if latent is not None:
            keys, values, slot = self._fused(keys, values, latent, begins=cache is None or cache.length == 0)
            mask = F.pad(mask, (1, 0), value=True) if slot and mask is not None else mask
        queries, keys, values = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (queries, keys, values))
        if cache is not None:
            keys, values, mask = cache.append(keys, values, mask)
        n = keys.shape[-2]
        if mask is not None:
            values = torch.where(mask[:, None, :, None], values, 0)
        # Without a cache and a slot t equals n; a comparison of t and n would not compile to a bool.
        plain = mask is None and cache is None and not slot
        y = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if plain else _bias(mask, t, n, causal, queries),
            is_causal=causal and plain,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(y.transpose(1, 2).reshape(*batch, t, p))

    def _fused(self, keys: Tensor, values: Tensor, latent: Tensor, begins: bool) -> tuple[Tensor, Tensor, bool]:
        """Keys and values that depend on a latent, and whether there is one more, before the first token."""
        if self.fusion is None:
            raise ValueError("this layer takes no latent: give the decoder a fusion, or no latents")
        if not isinstance(self.fusion, MemorySlot):
            return keys, self.fusion(values, latent), False
        if not begins:
            return keys, values, False  # the slot is in the cache already
        key, value = self.fusion(latent)
        return torch.cat([key.to(keys.dtype), keys], 1), torch.cat([value.to(values.dtype), values], 1), True


def _bias(mask: Tensor | None, t: int, n: int, causal: bool, like: Tensor) -> Tensor | None:
    """The bias of masked logits, or None.

    It is twice as large for the future as for padding: a query that may attend to padding only then does not attend to
    the future, and gets zero, because the values of padding are zero.
    """
    masked = -1e4 if like.dtype == torch.float16 else -1e30
    bias = None
    if mask is not None:
        bias = like.new_zeros(len(mask), 1, 1, n).masked_fill(~mask[:, None, None, :], masked)
    if causal and t > 1:
        later = torch.ones(t, n, dtype=torch.bool, device=like.device).tril(n - t).logical_not()
        future = like.new_zeros(t, n).masked_fill(later, 2 * masked)
        bias = future if bias is None else bias + future
    return bias
