"""A normalizing flow as the prior of a latent of a layer."""

from typing import Any

import torch
from jaxtyping import Float
from pyro import distributions as dist
from pyro.distributions import transforms
from pyro.nn import ConditionalDenseNN
from torch import Tensor, nn
from torch.distributions import Distribution

from ..utils.numbers import check_at_least
from ..utils.precision import at_least_float32
from .latents import First, LinearGaussian

__all__ = ["LinearFlow"]


class LinearFlow(LinearGaussian):
    r"""A Gaussian that is linear in the summary, bent by affine couplings that see the summary too.

    .. math:: z_l = (f_1 \circ \dots \circ f_J)(u), \quad u \sim \mathcal N(\mu_l, \operatorname{diag} \sigma_l^2),
        \quad f_j(a, b) = (a, \; m_{lj}(a, s_l) + e^{c_{lj}(a, s_l)} b)

    Each coupling moves one half of the entries by functions of the other half, networks with one hidden layer; the next
    one swaps the halves. At the start all are the identity, so that the prior is the :class:`LinearGaussian`. Draws and
    densities take one pass each. The couplings are Pyro's ``ConditionalAffineCoupling``.

    Arguments:
        latent_size: :math:`p`, at least 2.
        summary_size: :math:`S`; 0 where the latents are independent.
        layers: Number of latents.
        first: Prior of the first latent: ``"standard"`` normal, a ``"learned"`` flow that does not depend on anything,
            or ``"linear"`` like the others, where there is a condition.
        couplings: :math:`J`.
        hidden: The number of hidden units of a coupling's network.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Density estimation using Real NVP (Dinh et al., 2017). https://arxiv.org/abs/1605.08803

    Examples:
        >>> prior = LinearFlow(latent_size=4, summary_size=6, layers=3)
        >>> prior(torch.randn(5, 6), index=2).sample().shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        latent_size: int,
        summary_size: int,
        layers: int,
        first: First = "learned",
        couplings: int = 4,
        hidden: int = 32,
    ) -> None:
        check_at_least(2, latent_size=latent_size)
        check_at_least(1, couplings=couplings, hidden=hidden)
        super().__init__(latent_size, summary_size, layers, first)
        self.networks = nn.ModuleDict()
        for name in self.biases:
            context = summary_size if name in self.weights else 0
            self.networks[name] = nn.ModuleList(_network(latent_size, j, context, hidden) for j in range(couplings))

    def forward(self, summary: Float[Tensor, "*batch p"], index: int) -> Distribution:
        base, name = super().forward(summary, index), str(index)
        if name not in self.networks:
            return base
        context = at_least_float32(summary if name in self.weights else summary[..., :0])
        swap = torch.arange(self.latent_size - 1, -1, -1, device=summary.device)
        parts: list[transforms.Transform] = []
        networks: Any = self.networks[name]
        for network in networks:
            coupling = transforms.ConditionalAffineCoupling(network.input_dim, network)
            parts += [coupling.condition(context), transforms.Permute(swap)]
        flow: Distribution = dist.TransformedDistribution(base, parts)
        return flow


def _network(latent_size: int, place: int, context: int, hidden: int) -> ConditionalDenseNN:
    """The shift and the log scale of one half, functions of the other; zero at initialization."""
    seen = (latent_size + 1) // 2 if place % 2 == 0 else latent_size // 2
    moved = latent_size - seen
    network = ConditionalDenseNN(seen, context, [hidden], [moved, moved], nn.SiLU())
    for parameter in network.layers[-1].parameters():
        nn.init.zeros_(parameter)
    return network
