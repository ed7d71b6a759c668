r"""Control of the KL term: free bits, and a weight that keeps the KL at a target.

Both change the training objective and neither the model nor its bound: a reported bound has every weight 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent

from ...models.utils.choices import check_choice
from ..options import FreeBitsPer
from .pi_controller import PIController

__all__ = ["FreeBits", "KLController", "by_dimension"]


@dataclass(frozen=True)
class FreeBits:
    r"""Free bits: a divergence below an allowance :math:`\lambda` is charged as the allowance.

    .. math::

        \sum_g \max\!\Big(\lambda, \sum_i \bar w_i \, \mathrm{KL}_{i,g}\Big), \qquad \bar w_i = w_i \big/ \sum_j w_j

    with :math:`w_i` the weight of text :math:`i`. A group :math:`g` is one dimension of a latent site, one site (a
    layer, where each layer has its own), or all of them together. The mean over texts comes before the maximum, so
    that a text may use more than the allowance where another one uses less. Above it the gradient is exactly that of
    the divergence, the prior's parameters included; below it is zero.

    The mean is over the texts of one call: in training and validation one batch on one device, even where the gradients
    of several batches are accumulated; in :func:`~pyroformer.inference.evaluation.evaluate.evaluate` all texts. The
    loss is not called a bound, since that of a single text is none.

    Arguments:
        nats: The allowance :math:`\lambda` of a group.
        sites: The latent sites with an allowance.
        per: The kind of group: a ``dimension``, a ``layer`` (each site), or the ``total``.

    Raises:
        ValueError: If ``nats`` or ``per`` is out of range; at the call, if a site is missing.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934

    Examples:
        >>> kl = {"z_1": torch.tensor([0.0, 1.0]), "z_2": torch.tensor([3.0, 5.0])}
        >>> charged = FreeBits(2.0, ("z_1", "z_2"))(kl, torch.tensor([0.5, 0.5]))
        >>> {site: values.tolist() for site, values in charged.items()}  # means 2 = max(2, 0.5) and 4 = max(2, 4)
        {'z_1': [2.0, 2.0], 'z_2': [3.0, 5.0]}
    """

    nats: float
    sites: tuple[str, ...]
    per: FreeBitsPer = "layer"

    def __post_init__(self) -> None:
        if not 0 <= self.nats < math.inf:
            raise ValueError(f"nats is {self.nats}: give zero or a positive number of free nats.")
        check_choice("per", self.per, get_args(FreeBitsPer))

    def __call__(
        self, kl: Mapping[str, Float[Tensor, "B ..."]], weight: Float[Tensor, " B"]
    ) -> dict[str, Float[Tensor, " B"]]:
        """The penalty of each text for each site, whose weighted mean is the formula above.

        Arguments:
            kl: The divergences of each text, by site; with dimensions if each dimension is a group.
            weight: The weight of each text.
        """
        for site in self.sites:
            if site not in kl:
                raise ValueError(
                    f"free bits name the site {site!r}, but the model has only {', '.join(kl) or 'none'}: "
                    "name its latent sites."
                )
        share = weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
        mean = {site: torch.tensordot(share, kl[site].to(share.dtype), 1) for site in self.sites}
        floor = self.nats
        if self.per == "total":
            total = torch.stack(list(mean.values())).sum(0)
            mean, floor = dict.fromkeys(self.sites, total), self.nats / len(self.sites)
        charged = {site: torch.where(mean[site] > self.nats, kl[site], floor) for site in self.sites}
        return {site: charged.get(site, value).reshape(len(value), -1).sum(-1) for site, value in kl.items()}


def by_dimension(site: Mapping[str, Any]) -> dict[str, Any]:
    """A site of a trace with each of its dimensions as a separate draw.

    Raises:
        ValueError: If its dimensions are not independent, as those of ``Normal(...).to_event(1)`` are.

    Examples:
        >>> normal = pyro.distributions.Normal(torch.zeros(3, 4), 1.0).to_event(1)
        >>> by_dimension({"name": "z", "fn": normal, "scale": 1.0, "mask": None})["fn"].batch_shape
        torch.Size([3, 4])
    """
    fn, dimensions = site["fn"], len(site["fn"].event_shape)
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if fn.event_shape:
        raise ValueError(
            f"free bits per dimension need independent dimensions, and those of the site {site['name']!r} "
            f"({type(fn).__name__}) are not: give them per layer, or in total."
        )
    per_draw = {key: _unsqueeze_right(site[key], dimensions) for key in ("scale", "mask")}
    return {**site, **per_draw, "fn": fn}


def _unsqueeze_right(value: Any, dimensions: int) -> Any:
    """A tensor with dimensions of size 1 appended; any other value unchanged."""
    return value.reshape(value.shape + (1,) * dimensions) if isinstance(value, Tensor) else value


class KLController(PIController):
    r"""A KL weight that keeps the KL at a target, by a :class:`~.pi_controller.PIController`.

    While the KL is above its target the weight grows; below, it falls. At rest it is the Lagrange multiplier of the
    constraint KL = target, so the objective is the reconstruction loss at that KL. It starts at 1.

    Arguments:
        target: The target of the KL, in nats per text.
        proportional: :math:`K_P`.
        integral: :math:`K_I`.
        memory: Decay of the moving average at a step.
        least: The smallest weight.
        largest: The largest weight.

    References:
        ControlVAE: Controllable Variational Autoencoder (Shao et al., 2020), https://arxiv.org/abs/2004.05988, for a PI
        controller; Taming VAEs (Rezende & Viola, 2018), https://arxiv.org/abs/1810.00597, for multiplicative steps on a
        moving average and for the constraint.

    Examples:
        >>> controller = KLController(target=4.0)
        >>> for _ in range(10):
        ...     controller.update(torch.tensor(0.5))
        >>> float(controller.value) < 1
        True
    """

    def __init__(
        self,
        target: float,
        proportional: float = 1.0,
        integral: float = 0.02,
        memory: float = 0.95,
        least: float = 1e-6,
        largest: float = 100.0,
    ) -> None:
        super().__init__(target, torch.zeros(()), proportional, integral, memory, least, largest)

    def update(self, kl: Float[Tensor, ""]) -> None:
        """Update the weight from the KL of a step, in nats per text."""
        self.move(kl)
