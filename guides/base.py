"""What every guide here shares: parameters of its own, and the model it belongs to."""

from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import nn

from ..models.base import LocalModule, Model
from ..models.batch import Batch
from ..models.recipe import Recorded

__all__ = ["Guide"]


class Guide(Recorded, LocalModule):
    r"""Base class of the amortised posteriors.

    A guide is called like its model and samples the same latent sites. It may read the model (its sizes, its priors)
    but does not own it: of the model's parameters, only those of a network that both use are the guide's too.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._owner = (model,)  # a tuple keeps the model from being registered as a child

    @property
    def model(self) -> Any:  # the subclass knows which
        return self._owner[0]

    def texts(self, batch: Batch) -> pyro.plate:
        """The plate over the texts of ``batch``."""
        return self.model.texts(batch)

    @property
    def networks(self) -> list[nn.Module]:
        """The plain networks in it: what is compiled block by block."""
        return [child for child in self.children() if not isinstance(child, PyroModule)]
