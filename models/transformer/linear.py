r"""Linear layers, with a low-rank adapter beside the matrix or without."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["AdaptedLinear", "linear", "merged_weights"]


class AdaptedLinear(nn.Linear):
    r"""A linear layer with a low-rank adapter, :math:`y = W x + b + U D x`.

    :math:`U` is zero at the start, so that the adapter changes nothing until it is trained.

    Arguments:
        inputs: The size of :math:`x`.
        outputs: The size of :math:`y`.
        bias: Whether there is a bias :math:`b`.
        rank: The rank of the adapter.

    References:
        LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021), https://arxiv.org/abs/2106.09685

    Examples:
        >>> layer, x = AdaptedLinear(8, 4, bias=True, rank=2), torch.randn(3, 8)
        >>> torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
        True
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, rank: int) -> None:
        super().__init__(inputs, outputs, bias)
        self.adapter_down = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.adapter_up = nn.Parameter(torch.zeros(outputs, rank))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={len(self.adapter_down)}"

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        return super().forward(x) + F.linear(F.linear(x, self.adapter_down), self.adapter_up)


@torch.no_grad()
def merged_weights(module: nn.Module) -> dict[str, Tensor]:
    r"""Copies of the weights of a module by name, each adapter added to its matrix, :math:`W + U D`.

    Examples:
        >>> layer = AdaptedLinear(8, 4, bias=False, rank=2)
        >>> _ = nn.init.normal_(layer.adapter_up)
        >>> plain = linear(8, 4, bias=False)
        >>> _ = plain.load_state_dict(merged_weights(layer))
        >>> x = torch.randn(3, 8)
        >>> torch.allclose(plain(x), layer(x), atol=1e-5)
        True
    """
    weights = {name: value.detach().clone() for name, value in module.named_parameters()}
    for prefix, part in module.named_modules():
        if isinstance(part, AdaptedLinear):
            path = f"{prefix}." if prefix else ""
            weights[f"{path}weight"] += weights.pop(f"{path}adapter_up") @ weights.pop(f"{path}adapter_down")
    return weights


def linear(inputs: int, outputs: int, bias: bool, rank: int = 0) -> nn.Linear:
    """A linear layer, with an adapter if its rank is not 0.

    Examples:
        >>> linear(8, 4, bias=False)
        Linear(in_features=8, out_features=4, bias=False)
    """
    return AdaptedLinear(inputs, outputs, bias, rank) if rank else nn.Linear(inputs, outputs, bias)
