r"""Attention of a sequence to itself, and the cache that lets it grow one token at a time."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["KeyValueCache", "SelfAttention"]



class KeyValueCache:
    r"""Keys and values of the tokens read so far, in memory that is allocated once.

    For inference only: appending writes in place. Rows stay aligned; prompts of different lengths are padded on the
    left and ``mask`` says where.

    Arguments:
        batch: The number of texts :math:`B`.
        heads: The number of heads :math:`H`.
        capacity: The largest number of tokens.
        width: The width :math:`E` of a head.
    """

    def __init__(
        self,
        batch: int,
        heads: int,
        capacity: int,
        width: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.keys = torch.zeros(batch, heads, capacity, width, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.mask: Tensor | None = None
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[-2]

    def append(
        self,
        keys: Float[Tensor, "b h t e"],
        values: Float[Tensor, "b h t e"],
        mask: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[Float[Tensor, "b h n e"], Float[Tensor, "b h n e"], Bool[Tensor, "b n"] | None]:
        """Keeps the keys and values of t more tokens; returns those of all tokens so far and their mask.

        Raises:
            ValueError: If the cache is full.
        """
        start, end = self.length, self.length + keys.shape[-2]
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit a cache of {self.capacity}; make it larger or generate fewer")
        self.keys[..., start:end, :] = keys
        self.values[..., start:end, :] = values
        if mask is not None and self.mask is None:
            self.mask = mask.new_ones(len(mask), self.capacity)
        if self.mask is not None:
            self.mask[:, start:end] = True if mask is None else mask
        self.length = end
        return self.keys[..., :end, :], self.values[..., :end, :], None if self.mask is None else self.mask[:, :end]


class SelfAttention(nn.Module):
    r"""Multi-head softmax attention of a sequence to itself."""

    def __init__(self, width: int, heads: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads; choose a width that is")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.dropout}"

    def cache(self, batch: int, capacity: int, dtype: torch.dtype | None = None) -> KeyValueCache:
        """An empty cache for this layer, on its device."""
        weight = self.out.weight
        return KeyValueCache(
            batch, self.heads, capacity, len(weight) // self.heads, weight.device, dtype or weight.dtype
        )

    def forward(
        self,
        x: Float[Tensor, "*batch t p"],
        mask: Bool[Tensor, "*batch t"] | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "*batch t p"]:
        """x after every token has attended to those that ``mask`` marks and, if causal, to none after itself."""
        batch, (t, p) = x.shape[:-2], x.shape[-2:]
        qkv = self.qkv(x).reshape(-1, t, 3, self.heads, p // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if mask is None else mask.reshape(-1, t)
        if cache is not None:
            keys, values, mask = cache.append(keys, values, mask)
        n = keys.shape[-2]
        if mask is not None:
            values = torch.where(mask[:, None, :, None], values, 0)
        y = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=_bias(mask, t, n, causal, queries),
            is_causal=causal and t == n and mask is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(y.transpose(1, 2).reshape(*batch, t, p))


def _bias(mask: Tensor | None, t: int, n: int, causal: bool, like: Tensor) -> Tensor | None:
    """What is added to the logits where a token must not look, or None.

    Twice as much for the future as for padding: a query that may only look at padding then looks at no future, and as
    the padding's values are zero it gets zero.
    """
    masked = -3e4 if like.dtype == torch.float16 else -1e30
    bias = None
    if mask is not None:
        bias = like.new_zeros(len(mask), 1, 1, n).masked_fill(~mask[:, None, None, :], masked)
    if causal and t > 1 and (mask is not None or t != n):
        hidden = torch.ones(t, n, dtype=torch.bool, device=like.device).tril(n - t).logical_not()
        future = like.new_zeros(t, n).masked_fill(hidden, 2 * masked)
        bias = future if bias is None else bias + future
    return bias
