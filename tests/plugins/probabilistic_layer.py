"""A layer of probabilistic attention away from its start, its padding and the check of its gradients."""

from typing import Any

import torch
from torch import Tensor

from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.transformer.self_attention import SelfAttention

__all__ = ["HEADS", "TOKENS", "WIDTH", "check_gradients", "draw", "padding"]

WIDTH, HEADS, TOKENS = 16, 2, 6


def draw(options: dict[str, Any], moved: bool = True) -> tuple[ProbabilisticAttention, SelfAttention, Tensor]:
    """The layer, the softmax attention that it starts as, and three texts; if ``moved``, away from that start."""
    softmax = SelfAttention(WIDTH, HEADS).double()
    layer = ProbabilisticAttention(WIDTH, HEADS, **options).double()
    assert not layer.load_state_dict(softmax.state_dict(), strict=False).unexpected_keys
    if moved:
        for parameter in layer.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return layer, softmax, torch.randn(3, TOKENS, WIDTH, dtype=torch.double)


def padding() -> Tensor:
    """The second text is padded at its end, the third at its beginning."""
    mask = torch.ones(3, TOKENS, dtype=torch.bool)
    mask[1, 4:] = mask[2, :2] = False
    return mask


def check_gradients(layer: ProbabilisticAttention, x: Tensor) -> None:
    """Every parameter has a finite gradient that is not zero."""
    loss = layer(x, padding()).square().sum() + layer(x, padding(), True).square().sum()
    for name, gradient in zip(
        dict(layer.named_parameters()), torch.autograd.grad(loss, layer.parameters()), strict=True
    ):
        assert gradient.isfinite().all() and (gradient != 0).any(), name
