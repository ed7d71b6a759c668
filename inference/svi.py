"""Stochastic variational inference for people who write their own loop."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import nn

from .objectives.elbo import ELBO

__all__ = ["SVI"]


class SVI:
    r"""Pyro's ``SVI`` for modules: ``step`` and ``evaluate_loss``, with a torch optimizer and no parameter store.

    Parameters that only the first call makes, as of :class:`~pyroformer.guides.automatic.Automatic`, are trained too.

    Arguments:
        model: The generative model.
        guide: Its posterior, or None where nothing is latent.
        optimizer: A torch optimizer class, or a function that makes one from parameters.
        loss: The objective: the ELBO by default, or any of Pyro's, such as ``TraceEnum_ELBO`` for a mixture.
        options: What the optimizer is made with, for example ``lr``.

    Examples:
        >>> from pyroformer.models.batch import Batch
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer.stacks import TransformerConfig
        >>> model = LanguageModel(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2, dropout=0.0))
        >>> svi = SVI(model, None, torch.optim.AdamW, lr=1e-2)
        >>> batch = Batch.pad([[5, 6, 2], [7, 2]])
        >>> losses = [svi.step(batch) for _ in range(20)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module | None,
        optimizer: Callable[..., torch.optim.Optimizer],
        loss: pyro.infer.ELBO | None = None,
        **options: Any,
    ) -> None:
        loss = ELBO() if loss is None else loss
        latent = guide if guide is not None or isinstance(loss, ELBO) else _Nothing()
        self.objective: nn.Module = loss(model, latent)  # type: ignore[arg-type]  # ours takes None
        self._make = lambda parameters: optimizer(parameters, **options)
        self.optimizer: torch.optim.Optimizer | None = None  # made at the first step, when all parameters exist

    def step(self, *args: Any, **kwargs: Any) -> float:
        """One gradient step on a batch; the loss before it, in nats per text."""
        loss = self.objective(*args, **kwargs)
        if self.optimizer is None:
            self.optimizer = self._make(self.objective.parameters())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss of a batch, with nothing learned from it."""
        return float(self.objective(*args, **kwargs))


class _Nothing(nn.Module):
    """The guide of a model in which nothing is latent."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        return None
