"""Softmax self-attention, with rotary positions and grouped keys and values where they are asked for."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..attention.kernel.packed import causal_mask
from ..attention.kv_cache import KeyValueCache
from ..attention.layers.torch_weights import TorchWeights
from ..heads import head_width
from .fusion import MemorySlot
from .linear import linear
from .rotary import rotate

__all__ = ["SelfAttention"]


class SelfAttention(TorchWeights):
    r"""Multi-head softmax self-attention.

    Its values can depend on a latent, or a latent can be one more key and value: see
    :mod:`~pyroformer.models.transformer.fusion`.

    Arguments:
        width: The width of the model.
        heads: The number of heads of queries.
        bias: Whether the projections have biases.
        dropout: Probability that an attention weight is dropped in training.
        key_value_heads: The number of heads of keys and values, each for ``heads / key_value_heads`` heads of queries;
            None is ``heads``.
        head_size: The number of dimensions of a head; None is ``width / heads``.
        qkv_bias: Whether queries, keys and values have biases; None is ``bias``.
        norm_eps: The constant of RMS norms of each head's queries and keys, or None for no norms.
        adapter_rank: The rank of the adapters of both projections, 0 for none.

    References:
        GQA: Training Generalized Multi-Query Transformer Models (Ainslie et al., 2023),
        https://arxiv.org/abs/2305.13245, for grouped heads
        Scaling Vision Transformers to 22 Billion Parameters (Dehghani et al., 2023), https://arxiv.org/abs/2302.05442,
        for norms of queries and keys

    Examples:
        >>> layer = SelfAttention(width=16, heads=4, key_value_heads=2)
        >>> layer.qkv
        Linear(in_features=16, out_features=32, bias=True)
    """

    fusion: nn.Module | None  # through which a latent enters

    def __init__(
        self,
        width: int,
        heads: int,
        bias: bool = True,
        dropout: float = 0.0,
        *,
        key_value_heads: int | None = None,
        head_size: int | None = None,
        qkv_bias: bool | None = None,
        norm_eps: float | None = None,
        adapter_rank: int = 0,
    ) -> None:
        super().__init__()
        size = head_width(width, heads) if head_size is None else head_size
        self.heads = heads
        self.key_value_heads = heads if key_value_heads is None else key_value_heads
        self.grouped = self.key_value_heads != heads  # compared here: numbers of a sharded module compile to symbols
        self.dropout = dropout
        self.sizes = [heads * size, self.key_value_heads * size, self.key_value_heads * size]
        self.qkv = linear(width, sum(self.sizes), bias if qkv_bias is None else qkv_bias, adapter_rank)
        self.out = linear(heads * size, width, bias, adapter_rank)
        self.query_norm = None if norm_eps is None else nn.RMSNorm(size, eps=norm_eps)
        self.key_norm = None if norm_eps is None else nn.RMSNorm(size, eps=norm_eps)
        self.fusion = None

    def extra_repr(self) -> str:
        groups = "" if self.key_value_heads == self.heads else f", key_value_heads={self.key_value_heads}"
        return f"heads={self.heads}{groups}, dropout={self.dropout}"

    def forward(
        self,
        x: Float[Tensor, "*batch t p"],
        mask: Bool[Tensor, "*batch t"] | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        latent: Float[Tensor, "*batch k"] | None = None,
        rotation: Float[Tensor, "*#batch t d"] | None = None,
    ) -> Float[Tensor, "*batch t p"]:
        """x after every token has attended to those that ``mask`` marks and, if causal, to none after itself.

        Arguments:
            x: Hidden states.
            mask: True where there is a token.
            causal: Whether a token attends to those before it only.
            cache: Keys and values of the tokens before, to which those of x are added.
            latent: A latent that the values depend on, or that is one more key and value.
            rotation: The rotation of queries and keys, if positions are rotary; see :mod:`~.rotary`.
        """
        batch, t = x.shape[:-2], x.shape[-2]
        b = math.prod(batch)
        both, values = self.qkv(x).reshape(b, t, sum(self.sizes)).split([sum(self.sizes[:2]), self.sizes[2]], -1)
        mask = None if mask is None else mask.reshape(b, t)
        slot = None
        if latent is not None:
            values, slot = self._fused(values, latent, begins=cache is None or cache.length == 0)
        queries, keys = self._queries_and_keys(both, rotation)
        values = self._key_heads(values)
        if slot is not None:  # not rotated: it stands where texts begin, at position 0
            key, value = _normed(self._key_heads(slot[0]), self.key_norm), self._key_heads(slot[1])
            keys, values = torch.cat([key.to(keys.dtype), keys], 2), torch.cat([value.to(values.dtype), values], 2)
            mask = None if mask is None else F.pad(mask, (1, 0), value=True)
        if cache is not None:
            keys, values, mask = cache.append(keys, values, mask)
        n = keys.shape[-2]
        if mask is not None:
            values = torch.where(mask[:, None, :, None], values, 0)
        # Without a cache and a slot t equals n; a comparison of t and n would not compile to a bool.
        plain = mask is None and cache is None and slot is None
        y = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if plain else _bias(mask, t, n, causal, queries),
            is_causal=causal and plain,
            dropout_p=self.dropout if self.training else 0.0,
            enable_gqa=self.grouped,
        )
        return self.out(y.transpose(1, 2).reshape(*batch, t, self.sizes[0]))

    def _queries_and_keys(
        self, x: Float[Tensor, "b t w"], rotation: Float[Tensor, "*#batch t r"] | None
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        """The queries and keys of all heads, after their norms and rotated; at once, if there are no norms."""
        sizes = [self.heads, self.key_value_heads]
        heads = x.unflatten(-1, (sum(sizes), -1)).transpose(1, 2)
        if rotation is not None and self.query_norm is None:
            heads = rotate(heads, rotation)
        queries, keys = heads.split(sizes, 1)
        if self.query_norm is None:
            return queries, keys
        queries, keys = _normed(queries, self.query_norm), _normed(keys, self.key_norm)
        return (queries, keys) if rotation is None else (rotate(queries, rotation), rotate(keys, rotation))

    def _key_heads(self, x: Float[Tensor, "b t w"]) -> Float[Tensor, "b h t d"]:
        return x.unflatten(-1, (self.key_value_heads, -1)).transpose(1, 2)

    def _fused(self, values: Tensor, latent: Tensor, begins: bool) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Values that depend on a latent, and one more key and value, before the first token, if there is one."""
        if self.fusion is None:
            raise ValueError("this layer takes no latent: give the decoder a fusion, or no latents.")
        if not isinstance(self.fusion, MemorySlot):
            return self.fusion(values, latent), None
        return values, self.fusion(latent) if begins else None  # later it is in the cache already


def _normed(x: Tensor, norm: nn.RMSNorm | None) -> Tensor:
    """Queries or keys after their norm, which computes in the precision of its weights."""
    return x if norm is None else norm(x.to(norm.weight.dtype)).to(x.dtype)


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
        future = like.new_zeros(t, n).masked_fill(~causal_mask(t, n, like.device), 2 * masked)
        bias = future if bias is None else bias + future
    return bias
