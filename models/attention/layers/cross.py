r"""Cross-attention as inference in a mixture of Gaussians: queries of one sequence, components of another."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ...utils.tensor_checks import check_types
from ..attend import attend
from ..mixture import Mixture
from .probabilistic import ProbabilisticAttention, ValuePosterior

__all__ = ["ProbabilisticCrossAttention"]


class ProbabilisticCrossAttention(ProbabilisticAttention):
    r"""Multi-head attention of one sequence to another whose keys are Gaussians; at initialization softmax attention.

    .. math::
        p(q) = \sum_n \pi_n \, N(q; k_n, a_n^{-1}), \qquad q = W_q x, \quad k_n, a_n, \pi_n \text{ of memory } n,
        \qquad y = E[v \mid q]

    Arguments, parameters and their names are those of :class:`~pyroformer.ProbabilisticAttention`, whose ``qkv`` has
    the rows of queries first: weights of either load into the other, and
    :meth:`~pyroformer.models.attention.layers.torch_weights.TorchWeights.from_multihead_attention`
    takes those of ``nn.MultiheadAttention``. With ``steps`` keys adapt to all queries of ``x``. Two sequences have no
    common ``positions``.

    Examples:
        >>> x, memory = torch.randn(3, 4, 16), torch.randn(3, 6, 16)
        >>> softmax = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        >>> layer = pf.ProbabilisticCrossAttention.from_multihead_attention(softmax)
        >>> torch.allclose(layer(x, memory), softmax(x, memory, memory)[0], atol=1e-6)
        True
    """

    one_sequence = False

    def forward(  # type: ignore[override]  # the memory is another sequence here
        self,
        x: Float[Tensor, "*batch t p"],
        memory: Float[Tensor, "*batch n p"],
        mask: Bool[Tensor, "*batch n"] | None = None,
        attn_mask: Bool[Tensor, "*#batch t n"] | None = None,
    ) -> Float[Tensor, "*batch t p"]:
        """x after every token has attended to the memory.

        Arguments:
            x: Hidden states, the source of queries.
            memory: Hidden states that keys and values come from.
            mask: True where there is a token of the memory: ``~key_padding_mask`` of ``nn.MultiheadAttention``. All are
                by default.
            attn_mask: True where token t may attend to token n of the memory, as ``scaled_dot_product_attention`` has
                it. A token that may attend to none gets the output projection's bias.

        Raises:
            ValueError: If shapes do not fit.
        """
        _check(x, memory, mask, attn_mask, self.qkv.in_features)
        batch, (t, p) = x.shape[:-2], x.shape[-2:]
        blockwise, visible = self._needs_weights(causal=False), self._attn_mask(attn_mask, batch)
        tilted = not (self.steps or blockwise or self.log_null is not None)
        queries, mixture = self._pair(x, memory, mask, tilted)
        dropout = self.dropout if self.training else 0.0
        if blockwise:
            y = self._blockwise(queries, mixture, None, attn_mask=visible, dropout=dropout)
        else:
            y = attend(queries, self._adapted(queries, mixture, None), attn_mask=visible, dropout=dropout)
        return self.out(y.transpose(-2, -3).reshape(*batch, t, p))

    def posterior(  # type: ignore[override]
        self,
        x: Float[Tensor, "*batch t p"],
        memory: Float[Tensor, "*batch n p"],
        mask: Bool[Tensor, "*batch n"] | None = None,
        attn_mask: Bool[Tensor, "*#batch t n"] | None = None,
    ) -> ValuePosterior:
        """Posterior mean, variance and evidence of every head at every position, before the output projection.

        Raises:
            ValueError: If shapes do not fit.
        """
        _check(x, memory, mask, attn_mask, self.qkv.in_features)
        queries, mixture = self._pair(x, memory, mask, tilted=False)
        visible = self._attn_mask(attn_mask, x.shape[:-2])
        if self._needs_weights(causal=False):
            answers = partial(self._blockwise, queries, mixture, None, attn_mask=visible)
        else:
            answers = partial(attend, queries, self._adapted(queries, mixture, None), attn_mask=visible)
        return self._posterior(answers, mixture, visible, x.shape[:-2])

    def _pair(self, x: Tensor, memory: Tensor, mask: Tensor | None, tilted: bool) -> tuple[Tensor, Mixture]:
        """Queries of x in every head, with shape [b h t e], and the mixture of the memory."""
        b, p = math.prod(x.shape[:-2]), x.shape[-1]
        x, memory = x.reshape(b, *x.shape[-2:]), memory.reshape(b, *memory.shape[-2:])
        weight, bias = self.qkv.weight, self.qkv.bias
        queries = F.linear(x, weight[:p], None if bias is None else bias[:p])
        both = F.linear(memory, weight[p:], None if bias is None else bias[p:])
        keys, values = both.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        queries = self._whitened(queries.unflatten(-1, (self.heads, -1)).transpose(1, 2))
        mask = None if mask is None else mask.reshape(b, -1)
        projected = self._with_readouts(memory, self._whitened(keys))
        return queries, self._mixture(projected, values, mask, tilted)

    def _attn_mask(self, attn_mask: Tensor | None, batch: torch.Size) -> Tensor | None:
        """The components that each query may attend to, of all heads, with shape [b or 1, 1, t, N]."""
        if attn_mask is None:
            return None
        null = int(self.log_null is not None)
        columns = F.pad(attn_mask.repeat_interleave(self.components, -1), (null, 0), value=True)
        if columns.ndim > 2:
            columns = columns.expand(*batch, *columns.shape[-2:]).reshape(-1, *columns.shape[-2:])[:, None]
        return columns


def _check(x: Tensor, memory: Tensor, mask: Tensor | None, attn_mask: Tensor | None, width: int) -> None:
    """Raises unless two sequences fit each other and the layer."""
    check_types(("mask", "attn_mask"), x=x, memory=memory, mask=mask, attn_mask=attn_mask)
    for name, tensor in (("x", x), ("memory", memory)):
        if tensor is None or tensor.ndim < 2:
            shape = None if tensor is None else tuple(tensor.shape)
            raise ValueError(f"{name} has shape {shape}: give a row for each token, (*, tokens, {width}).")
        if tensor.shape[-1] != width:
            raise ValueError(
                f"{name} has width {tensor.shape[-1]} and the layer {width}: project {name} to that width."
            )
    if x.shape[:-2] != memory.shape[:-2]:
        raise ValueError(
            f"x has batch shape {tuple(x.shape[:-2])} and memory {tuple(memory.shape[:-2])}: expand one to the other."
        )
    if memory.shape[-2] == 0:
        raise ValueError("memory has 0 tokens: give at least one, such as a learned one.")
    if mask is not None and mask.shape != memory.shape[:-1]:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}: give that of the memory's tokens, {tuple(memory.shape[:-1])}."
        )
    pairs, leading = (x.shape[-2], memory.shape[-2]), () if attn_mask is None else attn_mask.shape[:-2]
    if attn_mask is not None and attn_mask.shape[-2:] != pairs:
        raise ValueError(
            f"attn_mask has shape {tuple(attn_mask.shape)}: end it in a row for each token of x and a column for "
            f"each of the memory, {pairs}."
        )
    own = x.shape[len(x.shape) - 2 - len(leading) : -2]
    if len(leading) > x.ndim - 2 or any(size not in (1, other) for size, other in zip(leading, own, strict=True)):
        raise ValueError(
            f"attn_mask has batch shape {tuple(leading)} and x {tuple(x.shape[:-2])}: give one mask for all, or one "
            "for each sequence; those of heads are not supported."
        )
