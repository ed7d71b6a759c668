"""``torch.nn.MultiheadAttention`` with a bottleneck."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.nvib.attention import Projections
from .wrapped import WrappedAttention, any_query

__all__ = ["TorchAttention", "check_torch_attention"]


class TorchAttention(WrappedAttention):
    """``torch.nn.MultiheadAttention`` with a bottleneck: the same arguments and results.

    Keys and values have to be the same vectors. Attention weights leave out that of the prior's component: what is
    missing from a sum of one is its share.
    """

    embed_dim: int
    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool
    in_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    q_proj_weight: Tensor | None
    k_proj_weight: Tensor | None
    v_proj_weight: Tensor | None
    out_proj: nn.Linear

    def projections(self) -> Projections:
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[2]
        if self.in_proj_weight is not None:
            _, key, value = self.in_proj_weight.chunk(3)
            return Projections(key, value, bias, self.num_heads)
        assert self.k_proj_weight is not None and self.v_proj_weight is not None
        return Projections(self.k_proj_weight, self.v_proj_weight, bias, self.num_heads)

    def noise_variance(self) -> float:
        return self.head_dim**0.5

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested:
            raise ValueError("query is a nested tensor: wrap the whole encoder, which then packs no batches any more")
        if key is not value:
            raise ValueError(
                "key and value are different tensors, and NVIB attends to vectors: give one tensor as both"
            )
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, and there is none: give the causal mask as well")
        batched = query.ndim == 3
        if query.ndim not in (2, 3) or key.ndim != query.ndim:
            raise ValueError(
                f"query and key have {query.ndim} and {key.ndim} dimensions: give both 3, or both 2 for one sequence"
            )
        if not batched:
            query, key = query[None], key[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        mask = self._mask(attn_mask, key_padding_mask, (len(query), query.shape[1], key.shape[1]))
        present = _present(key_padding_mask) if attn_mask is None or mask is None else _seen(mask, len(query))
        packed = self._packed(key, present)
        weight = self.q_proj_weight if self.in_proj_weight is None else self.in_proj_weight.chunk(3)[0]
        assert weight is not None
        queries = F.linear(query, weight, None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[0])
        answers, shares = self._attend(
            queries.unflatten(-1, (self.num_heads, -1)).transpose(1, 2),
            packed,
            mask,
            causal=False,
            dropout=self.dropout,
            weights=need_weights,
            present=lambda: present,
        )
        y = self.out_proj(answers)
        shares = shares.mean(1) if shares is not None and average_attn_weights else shares
        if not batched:
            return y[0], None if shares is None else shares[0]
        return y if self.batch_first else y.transpose(0, 1), shares

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, sizes: tuple[int, int, int]) -> Tensor | None:
        """One mask [B, H or 1, M, N]: True where a query may attend, or what is added to a logit."""
        batch, m, n = sizes
        masks = []
        if attn_mask is not None:
            shapes = ((m, n), (batch * self.num_heads, m, n))
            _check_mask("attn_mask", attn_mask, shapes, "(queries, keys) or (batch * heads, queries, keys)")
            masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (batch, self.num_heads)))
        if padding is not None:
            _check_mask("key_padding_mask", padding, ((batch, n),), "(batch, keys)")
            masks.append(padding[:, None, None, :])
        if not masks:
            return None
        if all(mask.dtype == torch.bool for mask in masks):
            blocked = masks[0] if len(masks) == 1 else masks[0] | masks[1]
            return ~blocked.expand(batch, -1, m, n) if blocked.ndim == 4 else ~blocked
        added = [_added(mask) for mask in masks]
        total = added[0] if len(added) == 1 else added[0] + added[1]
        return total.expand(batch, -1, m, n) if total.ndim == 4 else total


def check_torch_attention(layer: nn.MultiheadAttention) -> None:
    """Raises a ValueError unless keys and values of the layer can be those of the same vectors, and nothing more."""
    if layer.kdim != layer.vdim:
        raise ValueError(f"it has kdim={layer.kdim} and vdim={layer.vdim}, and NVIB needs one width for both")
    if layer.bias_k is not None:
        raise ValueError("it has add_bias_kv=True, a key and value that belong to no vector: retrain without it")
    if layer.add_zero_attn:
        raise ValueError("it has add_zero_attn=True, and the prior's component takes that place: retrain without it")


def _present(padding: Tensor | None) -> Tensor | None:
    if padding is None:
        return None
    return ~padding if padding.dtype == torch.bool else padding > torch.finfo(padding.dtype).min / 2


def _seen(mask: Tensor, batch: int) -> Tensor | None:
    """True for the vectors [B, N] that some query may attend to by the mask of a layer."""
    seen = any_query(mask if mask.ndim == 4 else mask[None, None], mask.shape[-1])
    return None if seen is None else seen.expand(batch, -1)


def _added(mask: Tensor) -> Tensor:
    """What a mask adds to logits."""
    return (
        torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
    )


def _check_mask(name: str, mask: Tensor, shapes: tuple[tuple[int, ...], ...], names: str) -> None:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        dtype = str(mask.dtype).removeprefix("torch.")
        raise ValueError(f"{name} has dtype {dtype}: give booleans, True where attention is blocked, or floats to add")
    if tuple(mask.shape) not in shapes:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}: give {names} = {' or '.join(map(str, shapes))}")
