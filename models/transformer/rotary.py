r"""Rotary positions: queries and keys turn by angles that are proportional to their position."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .config import TransformerConfig

__all__ = ["rotary_rates", "rotate", "rotation"]


def rotary_rates(config: TransformerConfig, device: torch.device | None = None) -> Float[Tensor, " half"]:
    r"""The angle of each pair of dimensions by which one position differs from the next.

    .. math:: \omega_i = \text{base}^{-2i / d}

    With a scaling :math:`f`, the model reads long texts as if they were shorter, :math:`\omega_i / f`. Llama 3's spares
    the wavelengths :math:`\lambda = 2 \pi / \omega` of which the first texts, of :math:`L` tokens, held many:

    .. math::
        \omega_i \left( s + \frac{1 - s}{f} \right), \qquad
        s = \operatorname{clip}_{[0, 1]} \frac{L / \lambda_i - \text{low}}{\text{high} - \text{low}}

    In float32 whatever the model's precision, as in ``transformers``.

    Arguments:
        config: The base of the wavelengths, the size of a head, and the scaling.
        device: The device of the result.

    References:
        RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), https://arxiv.org/abs/2104.09864
        The Llama 3 Herd of Models (2024), https://arxiv.org/abs/2407.21783

    Examples:
        >>> config = TransformerConfig(vocabulary=20, max_length=8, width=16, heads=2, positions="rotary")
        >>> rotary_rates(config)
        tensor([1.0000, 0.1000, 0.0100, 0.0010])
    """
    d = config.head_width
    rates = 1.0 / config.rotary_base ** (torch.arange(0, d, 2, dtype=torch.float32, device=device) / d)
    if config.rotary_scaling == "linear":
        rates = rates / config.rotary_factor
    if config.rotary_scaling == "llama3":
        turns = config.rotary_length * rates / (2 * math.pi)
        spared = ((turns - config.rotary_low) / (config.rotary_high - config.rotary_low)).clamp(0, 1)
        rates = (1 - spared) * rates / config.rotary_factor + spared * rates
    return rates


def rotation(positions: Int[Tensor, "*batch t"], config: TransformerConfig) -> Float[Tensor, "*batch t r"]:
    """The factors by which :func:`rotate` turns the d dimensions of a head at these positions.

    Of each pair, the cosine of its angle for both dimensions, then minus its sine for the first and its sine for the
    second: :math:`r = 2 d`.

    Examples:
        >>> config = TransformerConfig(vocabulary=20, max_length=8, width=16, heads=2, positions="rotary")
        >>> rotation(torch.arange(8), config).shape
        torch.Size([8, 16])
    """
    angles = positions[..., None].to(torch.float32) * rotary_rates(config, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos, -sin, sin], -1)


def rotate(x: Float[Tensor, "b h t d"], rotation: Float[Tensor, "*rows t r"]) -> Float[Tensor, "b h t d"]:
    r"""Queries or keys, each pair :math:`(x_i, x_{i + d/2})` turned by its angle.

    The product of a query and a key then depends on the difference of their positions only.

    Arguments:
        x: Queries or keys of all heads.
        rotation: What :func:`rotation` returns, for all texts together or each of them.

    Examples:
        >>> config = TransformerConfig(vocabulary=20, max_length=99, width=8, heads=1, positions="rotary")
        >>> query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.double)
        >>> at = lambda x, position: rotate(x, rotation(torch.tensor([position]), config))
        >>> torch.allclose((at(query, 7) * at(key, 4)).sum(), (at(query, 53) * at(key, 50)).sum(), atol=1e-5)
        True
    """
    cos, sin = rotation.to(x.dtype).reshape(-1, 1, *rotation.shape[-2:]).chunk(2, -1)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
