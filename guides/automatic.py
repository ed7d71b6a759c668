r"""Pyro's automatic guides, with parameters of their own and without the sites that are enumerated."""

from typing import Any

import pyro
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuide
from torch import Tensor, nn

from ..models.base import LocalModule

__all__ = ["Automatic"]


class Automatic(LocalModule):
    r"""An automatic guide of a model's latent sites, except those that are enumerated.

    Pyro's own keep their parameters in the global store, where two guides share them. The parameters of this one are
    created at its first call; :class:`~pyroformer.SVI` makes that call before it collects them.

    Arguments:
        model: The model.
        kind: One of Pyro's classes: ``AutoDelta`` for point masses, ``AutoNormal``, ...
        options: Arguments of its constructor, for example ``init_loc_fn``.

    Examples:
        >>> from pyro.infer import TraceEnum_ELBO
        >>> from pyroformer.models.mixture_attention.model import MixtureAttention
        >>> mixture = pf.Mixture(torch.zeros(5).log_softmax(-1), torch.randn(5, 2), noise_variance=1.0)
        >>> model = MixtureAttention.conjugate(mixture)
        >>> guide = Automatic(model)
        >>> svi = pf.SVI(model, guide, torch.optim.Adam, loss=TraceEnum_ELBO(max_plate_nesting=1), lr=0.1)
        >>> losses = [svi.step(torch.randn(20, 2)) for _ in range(5)]
        >>> guide.median()["keys"].shape, len(pyro.get_param_store())
        (torch.Size([5, 2]), 0)
    """

    def __init__(self, model: nn.Module, kind: type[AutoGuide] = AutoDelta, **options: Any) -> None:
        super().__init__()
        with pyro.settings.context(module_local_params=True):
            self.guide = kind(poutine.block(model, hide_fn=_enumerated), **options)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        draws: dict[str, Tensor] = self.guide(*args, **kwargs)
        return draws

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The median of each site, with no gradient."""
        with pyro.settings.context(module_local_params=True):
            medians = self.guide.median(*args, **kwargs)
        return {name: value.detach() for name, value in medians.items()}


def _enumerated(message: Any) -> bool:
    return message["type"] == "sample" and message["infer"].get("enumerate") == "parallel"
