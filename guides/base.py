"""What every guide here shares: parameters of its own, the model it belongs to, and a posterior of its hyper-priors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import nn

from ..models.base import LocalModule, Model
from ..models.batch import Batch
from ..models.priors.hyperpriors import hyperpriors
from ..models.serialization import Configurable
from .hyperpriors import HyperPosterior

__all__ = ["Guide"]


class Guide(Configurable, LocalModule):
    r"""Base class of the amortized posteriors.

    A guide is called like its model and samples the same latent sites. It may read the model (its sizes, its priors)
    but does not own it: of the model's parameters, only those of a network that both use are the guide's too. The
    model's hyper-priors are drawn before ``forward``, from posteriors of their own, so that what a guide reads of a
    prior is what the model will find.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._owner = (model,)  # a tuple keeps the model from being registered as a child
        self.hyperpriors = HyperPosterior(model) if any(hyperpriors(model)) else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.set_hyperparameters(drawn=True):
            return super().__call__(*args, **kwargs)

    @contextmanager
    def set_hyperparameters(self, drawn: bool = False) -> Iterator[None]:
        """Inside, the model's priors know their hyper-priors: draws of the posterior, or else its medians.

        What is known already stays.
        """
        context = self.model._pyro_context
        if self.hyperpriors is None or context.active:
            yield
            return
        values = self.hyperpriors() if drawn else self.hyperpriors.medians()
        with pyro.settings.context(module_local_params=True), context:
            for site, value in values.items():
                context.set(site, value)
            yield

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
