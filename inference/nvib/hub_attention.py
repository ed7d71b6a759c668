"""Attention layers of the package transformers with a bottleneck: masks, caches and the three families."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.nvib.attention import Packed, Projections
from .wrapped import WrappedAttention, any_query

__all__ = ["BartAttention", "BertCrossAttention", "BertSelfAttention", "GPT2Attention", "HubAttention"]


class HubAttention(WrappedAttention):
    """An attention layer of transformers with a bottleneck.

    The caches of transformers keep its packed keys and values, without the prior's component: a cache belongs to the
    ``tau`` and the mode in which it was filled.
    """

    config: Any
    is_causal: bool
    layer_idx: int
    scaling: float

    def noise_variance(self) -> float:
        return 1 / self.scaling

    def _answer(
        self,
        queries: Tensor,
        source: Callable[[], Tensor],
        mask: object,
        past: Any,
        cross: bool,
        dropout: float,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Answers of all heads side by side, and attention weights where the model is to return them."""
        mask = _checked_mask(mask)
        heads = self.projections().heads
        queries = queries.unflatten(-1, (heads, -1)).transpose(1, 2)

        def make() -> Packed:
            vectors = source()
            return self._packed(vectors, any_query(_expanded(mask, vectors), vectors.shape[1]))

        packed = self._cached(make, past, cross)
        m, n = queries.shape[-2], packed.keys.shape[-2]
        causal = options.get("is_causal")
        causal = (self.is_causal if causal is None else causal) and not cross and mask is None and m > 1
        if causal and n > m:  # an empty static cache: what it holds beyond the queries is not filled yet
            packed = Packed(packed.keys[..., :m, :], packed.values[..., :m, :])
        wanted = bool(options.get("output_attentions")) or self.config._attn_implementation == "eager"
        return self._attend(
            queries, packed, mask, causal, dropout, wanted, lambda: any_query(mask, packed.keys.shape[-2])
        )

    def _cached(self, make: Callable[[], Packed], past: Any, cross: bool) -> Packed:
        """Keys and values of all vectors so far; those of cross-attention are made once."""
        if past is None:
            return make()
        both = hasattr(past, "is_updated")  # an EncoderDecoderCache
        cache = past if not both else past.cross_attention_cache if cross else past.self_attention_cache
        if cross and both and past.is_updated.get(self.layer_idx):
            return Packed(cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values)
        packed = Packed(*cache.update(*make(), self.layer_idx))
        if cross and both:
            past.is_updated[self.layer_idx] = True
        return packed


class BertSelfAttention(HubAttention):
    """BERT's self-attention with a bottleneck."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    dropout: nn.Dropout
    num_attention_heads: int

    def projections(self) -> Projections:
        return Projections(self.key.weight, self.value.weight, self.value.bias, self.num_attention_heads)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: object = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        queries, dropout = self.query(hidden_states), self.dropout.p
        return self._answer(queries, lambda: hidden_states, attention_mask, past_key_values, False, dropout, kwargs)


class BertCrossAttention(BertSelfAttention):
    """BERT's cross-attention with a bottleneck."""

    def forward(  # type: ignore[override]  # as in transformers
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: object = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        def source() -> Tensor:
            assert encoder_hidden_states is not None
            return encoder_hidden_states

        queries, dropout = self.query(hidden_states), self.dropout.p
        return self._answer(queries, source, attention_mask, past_key_values, True, dropout, kwargs)


class GPT2Attention(HubAttention):
    """GPT-2's attention with a bottleneck, also to an encoder."""

    c_attn: nn.Module
    q_attn: nn.Module
    c_proj: nn.Module
    attn_dropout: nn.Dropout
    resid_dropout: nn.Dropout
    is_cross_attention: bool
    num_heads: int
    split_size: int

    def projections(self) -> Projections:
        weight, bias = self._weights()
        key, value = weight.split(self.split_size, 1)[-2:]  # transformers' Conv1D has inputs in rows
        return Projections(key.T, value.T, bias.split(self.split_size)[-1], self.num_heads)

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: object = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: object = None,
        output_attentions: bool | None = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        cross = encoder_hidden_states is not None
        if cross:
            queries, mask = self.q_attn(hidden_states), encoder_attention_mask
        else:
            weight, bias = self._weights()
            queries = F.linear(hidden_states, weight[:, : self.split_size].T, bias[: self.split_size])
            mask = attention_mask
        answers, weights = self._answer(
            queries,
            lambda: hidden_states if encoder_hidden_states is None else encoder_hidden_states,
            mask,
            past_key_values,
            cross,
            self.attn_dropout.p,
            {**kwargs, "output_attentions": output_attentions},
        )
        return self.resid_dropout(self.c_proj(answers)), weights

    def _weights(self) -> tuple[Tensor, Tensor]:
        weight, bias = self.c_attn.weight, self.c_attn.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        return weight, bias


class BartAttention(HubAttention):
    """BART's attention with a bottleneck, in the encoder, in the decoder and between them."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear
    dropout: float
    num_heads: int

    def projections(self) -> Projections:
        return Projections(self.k_proj.weight, self.v_proj.weight, self.v_proj.bias, self.num_heads)

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: object = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        answers, weights = self._answer(
            self.q_proj(hidden_states),
            lambda: hidden_states if key_value_states is None else key_value_states,
            attention_mask,
            past_key_values,
            key_value_states is not None,
            self.dropout,
            kwargs,
        )
        return self.out_proj(answers), weights


def _checked_mask(mask: object) -> Tensor | None:
    """The attention mask, if it is one that attention by softmax gets: [B, 1, M, N], of booleans or floats.

    Raises:
        ValueError: If it is another.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        what = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"type {type(mask).__name__}"
        raise ValueError(
            f"the attention layer gets an attention_mask of {what}, and needs (batch, 1, queries, keys): load the "
            "model with attn_implementation='sdpa' or 'eager'"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        dtype = str(mask.dtype).removeprefix("torch.")
        raise ValueError(f"attention_mask has dtype {dtype}: give booleans, True where attention is allowed, or floats")
    return mask


def _expanded(mask: Tensor | None, vectors: Tensor) -> Tensor | None:
    """The mask for every sequence; None if the mask also covers cached vectors."""
    if mask is None or mask.shape[-1] != vectors.shape[1]:
        return None
    return mask.expand(len(vectors), *mask.shape[1:])
