"""Stochastic variational inference for people who write their own loop."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .elbo import ELBO, Objective

__all__ = ["SVI"]


class SVI:
    r"""Pyro's ``SVI`` for modules: ``step`` and ``evaluate_loss``, with a torch optimiser and no parameter store.

    Arguments:
        model: The generative model.
        guide: Its posterior, or None where nothing is latent.
        optimiser: A torch optimiser class, or a function that makes one from parameters.
        loss: The objective; the ELBO by default.
        options: What the optimiser is made with, for example ``lr``.

    Examples:
        >>> from pyroformer.models.batch import Batch
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer import TransformerConfig
        >>> model = LanguageModel(TransformerConfig(vocabulary=20, window=8, width=16, layers=1, heads=2, dropout=0.0))
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
        optimiser: Callable[..., torch.optim.Optimizer],
        loss: ELBO | None = None,
        **options: Any,
    ) -> None:
        self.objective: Objective = (loss or ELBO())(model, guide)
        self.optimiser = optimiser(self.objective.parameters(), **options)

    def step(self, *args: Any) -> float:
        """One gradient step on a batch; the loss before it, in nats per text."""
        self.optimiser.zero_grad()
        loss = self.objective(*args)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate_loss(self, *args: Any) -> float:
        """The loss of a batch, with nothing learnt from it."""
        return float(self.objective(*args))
