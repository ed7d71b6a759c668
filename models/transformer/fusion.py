r"""Fusion of latents with a decoder: the low-rank tensor product on the values of a layer, and alternatives.

The fusion of a layer turns the values :math:`v_i` of its self-attention into :math:`\tilde v_i = f(v_i, z)`, with one
:math:`z` for all positions; queries and keys stay, and a cache keeps the fused values. All but ``memory`` start as the
identity, so that a pretrained decoder with latents starts as the language model that it was.

========== ============================================================================ ===============================
kind       formula                                                                      reference
========== ============================================================================ ===============================
product    :math:`\tilde v = \sum_j (W_j v + b_j) \circ (U_j z + c_j)`                  low-rank tensor product, true
collapsed  :math:`\tilde v = (\sum_j W_j v + b_j) \circ (\sum_j U_j z + c_j)`           DELLA as published: rank 1
add        :math:`\tilde v = v + U z`                                                   shift
film       :math:`\tilde v = v \circ (1 + U z) + U' z`                                  FiLM
memory     one more key and value for each layer to attend to                           Optimus, "memory"
embedding  :math:`x_i + U z` for the token embeddings :math:`x_i`                       Optimus, "embedding"
softmax    :math:`h_i + U z` for the hidden states :math:`h_i` that give the logits     "softmax"
========== ============================================================================ ===============================

References:
    Fuse It More Deeply! (Hu et al., 2022), Eq. 9, https://arxiv.org/abs/2207.06130
    Efficient Low-rank Multimodal Fusion with Modality-Specific Factors (Liu et al., 2018),
    https://arxiv.org/abs/1806.00064
    FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), https://arxiv.org/abs/1709.07871
    Optimus (Li et al., 2020), https://arxiv.org/abs/2004.04092: one latent, an encoder of its own and both of its ways
    are ``DELLA(structure="single", fusion="memory")`` or ``"embedding"`` with ``DELLAGuide(encoder="separate")``
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..utils.choices import check_choice
from ..utils.numbers import check_at_least
from .config import TransformerConfig

__all__ = [
    "FiLM",
    "Fusion",
    "FusionKind",
    "LowRankProduct",
    "MemorySlot",
    "Shift",
    "collapsed_product",
    "layer_fusion",
    "low_rank_product",
]

FusionKind = Literal["product", "collapsed", "add", "film", "memory", "embedding", "softmax"]


def low_rank_product(
    values: Float[Tensor, "*batch t p"],
    latent: Float[Tensor, "*batch k"],
    value_weight: Float[Tensor, "r q p"],
    value_bias: Float[Tensor, "r q"],
    latent_weight: Float[Tensor, "r q k"],
    latent_bias: Float[Tensor, "r q"],
) -> Float[Tensor, "*batch t q"]:
    r"""The tensor product of a value and a latent, cut to rank r.

    .. math:: \tilde v_i = \sum_{j \le r} (W_j v_i + b_j) \circ (U_j z + c_j)

    With all ones appended to :math:`v` and :math:`z`, this is a bilinear form of both whose tensor has rank r.

    Arguments:
        values: :math:`v_i`, one for each position.
        latent: :math:`z`, one for all positions.
        value_weight: :math:`W_j`.
        value_bias: :math:`b_j`.
        latent_weight: :math:`U_j`.
        latent_bias: :math:`c_j`.

    Examples:
        >>> v, z, eye = torch.randn(3, 5, 4), torch.randn(3, 2), torch.eye(4)[None]
        >>> one, zero = torch.ones(1, 4), torch.zeros(1, 4)
        >>> torch.equal(low_rank_product(v, z, eye, zero, torch.zeros(1, 4, 2), one), v)
        True
    """
    shape = value_bias.shape
    gates = F.linear(latent, latent_weight.flatten(0, 1), latent_bias.flatten()).unflatten(-1, shape)
    factors = F.linear(values, value_weight.flatten(0, 1), value_bias.flatten()).unflatten(-1, shape)
    return (factors * gates.unsqueeze(-3).to(values.dtype)).sum(-2)


def collapsed_product(
    values: Float[Tensor, "*batch t p"],
    latent: Float[Tensor, "*batch k"],
    value_weight: Float[Tensor, "r q p"],
    value_bias: Float[Tensor, "r q"],
    latent_weight: Float[Tensor, "r q k"],
    latent_bias: Float[Tensor, "r q"],
) -> Float[Tensor, "*batch t q"]:
    r"""The product as published for DELLA, which sums the ranks before it multiplies: rank 1 for every r.

    .. math:: \tilde v_i = \Big( \sum_j W_j v_i + b_j \Big) \circ \Big( \sum_j U_j z + c_j \Big)

    Arguments: as in :func:`low_rank_product`.

    Examples:
        >>> shapes = (3, 5, 4), (3, 2), (6, 4, 4), (6, 4), (6, 4, 2), (6, 4)
        >>> v, z, *weights = [torch.randn(*shape, dtype=torch.double) for shape in shapes]
        >>> summed = [weight.sum(0, keepdim=True) for weight in weights]
        >>> torch.allclose(collapsed_product(v, z, *weights), low_rank_product(v, z, *summed))
        True
    """
    gate = F.linear(latent, latent_weight.sum(0), latent_bias.sum(0))
    return F.linear(values, value_weight.sum(0), value_bias.sum(0)) * gate.unsqueeze(-2).to(values.dtype)


class LowRankProduct(nn.Module):
    r"""Values times a latent, :func:`low_rank_product` or :func:`collapsed_product`, with the same parameters.

    It starts as the identity: :math:`W_1 = I`, :math:`c_1 = 1`, and every other :math:`U_j, b_j, c_j` is zero. With
    true ranks the other :math:`W_j` are random: were they zero too, no gradient would ever reach a rank above 1.

    Arguments:
        width: The size of a value.
        latent: The size of a latent.
        rank: The number of products in the sum.
        collapsed: Whether ranks are summed before the product, as published.

    Raises:
        ValueError: If ``rank`` is not positive.
    """

    def __init__(self, width: int, latent: int, rank: int = 4, collapsed: bool = False) -> None:
        super().__init__()
        check_at_least(1, rank=rank)
        self.collapsed = collapsed
        self.value_weight = nn.Parameter(torch.zeros(rank, width, width))
        self.value_bias = nn.Parameter(torch.zeros(rank, width))
        self.latent_weight = nn.Parameter(torch.zeros(rank, width, latent))
        self.latent_bias = nn.Parameter(torch.zeros(rank, width))
        with torch.no_grad():
            self.value_weight[0].fill_diagonal_(1.0)
            self.latent_bias[0].fill_(1.0)
            if not collapsed:
                self.value_weight[1:].normal_(std=1 / math.sqrt(width))

    def extra_repr(self) -> str:
        rank, width, latent = self.latent_weight.shape
        return f"width={width}, latent={latent}, rank={rank}, collapsed={self.collapsed}"

    def forward(self, values: Float[Tensor, "*batch t p"], latent: Float[Tensor, "*batch k"]) -> Tensor:
        product = collapsed_product if self.collapsed else low_rank_product
        return product(values, latent, self.value_weight, self.value_bias, self.latent_weight, self.latent_bias)


class Shift(nn.Module):
    r"""The same vector :math:`U z` added to every position; zero at the start."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.shift = _zero_linear(width, latent)

    def forward(self, values: Float[Tensor, "*batch t p"], latent: Float[Tensor, "*batch k"]) -> Tensor:
        return values + self.shift(latent).unsqueeze(-2).to(values.dtype)


class FiLM(nn.Module):
    r"""Feature-wise linear modulation, :math:`v \circ (1 + U z) + U' z`; the identity at the start."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.scale, self.shift = _zero_linear(width, latent), _zero_linear(width, latent)

    def forward(self, values: Float[Tensor, "*batch t p"], latent: Float[Tensor, "*batch k"]) -> Tensor:
        scale, shift = self.scale(latent).unsqueeze(-2), self.shift(latent).unsqueeze(-2)
        return values * (1 + scale.to(values.dtype)) + shift.to(values.dtype)


class MemorySlot(nn.Module):
    """A key and a value as linear functions of a latent, for a layer to attend to beside those of the tokens.

    It takes attention from the tokens from the start: it is the one fusion that does not start as the identity.
    """

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(latent, width), nn.Linear(latent, width)

    def forward(self, latent: Float[Tensor, "*batch k"]) -> tuple[Tensor, Tensor]:
        return self.key(latent).unsqueeze(-2), self.value(latent).unsqueeze(-2)


@dataclass(frozen=True)
class Fusion:
    r"""The fusion of a decoder: its kind, its layers and the size of the latents.

    Arguments:
        kind: See the table above.
        latent: The size :math:`p` of a latent.
        layers: The indices of the blocks that take a latent, from 0, ascending.
        rank: The rank of a tensor product.
        single: Whether one latent enters all these layers, instead of one each.

    Raises:
        ValueError: If the kind is unknown, or a size is not positive.

    Examples:
        >>> Fusion("product", latent=8, layers=(2, 3), rank=2).count
        2
    """

    kind: FusionKind
    latent: int
    layers: tuple[int, ...]
    rank: int = 4
    single: bool = False

    def __post_init__(self) -> None:
        check_choice("fusion", self.kind, get_args(FusionKind))
        check_at_least(1, latent=self.latent, rank=self.rank)

    @property
    def count(self) -> int:
        """The number of latents of a text."""
        return 1 if self.single else len(self.layers)

    def check(self, config: TransformerConfig) -> None:
        """Raises a ValueError unless a decoder has these layers, in this order, and attention that takes latents."""
        layers = ", ".join(str(layer + 1) for layer in self.layers) or "none"
        if not self.layers or not 0 <= min(self.layers) <= max(self.layers) < config.layers:
            raise ValueError(f"latents enter layers {layers}, but the decoder has layers 1 to {config.layers}.")
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"latents enter layers {layers}: name each layer once, in ascending order.")
        if config.attention != "softmax" and self.kind not in ("embedding", "softmax"):
            raise ValueError(
                f"fusion {self.kind!r} changes what softmax attention attends to, and attention is "
                f"{config.attention!r}: choose fusion 'embedding' or 'softmax', or attention 'softmax'."
            )

    def checked(self, latents: Tensor) -> Tensor:
        """The latents, or a ValueError if their number or size does not fit."""
        if latents.shape[-2:] != (self.count, self.latent):
            raise ValueError(
                f"the latents have shape {tuple(latents.shape)}: their last dimensions must be {self.count} latents of "
                f"size {self.latent}."
            )
        return latents

    def each(self, latents: Float[Tensor, "*batch K p"]) -> list[Tensor]:
        """The latent of each layer in ``layers``."""
        return list(latents.unbind(-2)) * (len(self.layers) if self.single else 1)


def layer_fusion(kind: FusionKind, width: int, latent: int, rank: int = 4) -> nn.Module | None:
    """The fusion module of one layer, or None for a fusion before the first layer or after the last.

    Examples:
        >>> layer_fusion("product", width=16, latent=4, rank=2)
        LowRankProduct(width=16, latent=4, rank=2, collapsed=False)
    """
    if kind in ("product", "collapsed"):
        return LowRankProduct(width, latent, rank, collapsed=kind == "collapsed")
    if kind in ("embedding", "softmax"):
        return None
    return {"add": Shift, "film": FiLM, "memory": MemorySlot}[kind](width, latent)


def _zero_linear(width: int, latent: int) -> nn.Linear:
    """A linear map without bias whose weights start at zero."""
    linear = nn.Linear(latent, width, bias=False)
    nn.init.zeros_(linear.weight)
    return linear
