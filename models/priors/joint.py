"""Joint distributions of all vectors of a text: in order, each given those before it, and in independent parts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from .roles import SequencePrior

__all__ = ["InOrder", "Stacked", "checked_samples", "independent", "with_own"]

_ONCE = Size()


class InOrder(TorchDistribution):
    r"""Vectors that follow one another, each given those before it.

    .. math:: \log p(z_1, \dots, z_n) = \sum_{i=1}^n \log p(z_i \mid z_1, \dots, z_{i-1})

    A density takes one call of ``conditional``, for all vectors at once.

    Arguments:
        conditional: Takes the first :math:`m` vectors, with shape :math:`(*, m, P)`, and their total number, with shape
            :math:`(*)`; returns the distribution of each given those before it, with batch shape :math:`(*, m)`.
        draw: Takes the total number, with shape :math:`(*)`, and :math:`M`; draws the first :math:`M`.
        present: True where a vector exists, with shape :math:`(*, M)`; the others come last, without a density.
        width: :math:`P`.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(
        self,
        conditional: Callable[[Tensor, Tensor], Distribution],
        draw: Callable[[Tensor, int], Tensor],
        present: Bool[Tensor, "*batch m"],
        width: int,
        validate_args: bool | None = None,
    ) -> None:
        self.conditional, self.draw, self.present = conditional, draw, present
        super().__init__(present.shape[:-1], Size((present.shape[-1], width)), validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "InOrder":
        new: InOrder = self._get_checked_instance(InOrder, _instance)
        new.conditional, new.draw = self.conditional, self.draw
        new.present = self.present.expand(*batch_shape, self.present.shape[-1])
        super(InOrder, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = _ONCE) -> Float[Tensor, "*batch m p"]:
        present = self.present.expand(*sample_shape, *self.present.shape)
        return torch.where(present[..., None], self.draw(present.sum(-1), present.shape[-1]), 0)

    def log_prob(self, value: Float[Tensor, "*batch m p"]) -> Float[Tensor, "*batch"]:
        if self._validate_args:
            self._validate_sample(value)
        value = torch.where(self.present[..., None], value, 0)
        each = self.conditional(value, self.present.sum(-1)).log_prob(value)
        return torch.where(self.present, each, 0).sum(-1)


class Stacked(TorchDistribution):
    r"""Independent parts as one distribution: their draws one below the other.

    Arguments:
        parts: Distributions with the same batch shape, whose event shapes :math:`(N_j, P)` add up to :math:`(N, P)`.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, parts: Sequence[Distribution], validate_args: bool | None = None) -> None:
        self.parts = list(parts)
        rows = sum(part.event_shape[0] for part in parts)
        super().__init__(parts[0].batch_shape, Size((rows, parts[0].event_shape[1])), validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Stacked":
        new: Stacked = self._get_checked_instance(Stacked, _instance)
        new.parts = [part.expand(Size(batch_shape)) for part in self.parts]
        super(Stacked, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Sequence[int] = _ONCE) -> Float[Tensor, "*batch n p"]:
        return torch.cat([part.sample(Size(sample_shape)) for part in self.parts], -2)

    def log_prob(self, value: Float[Tensor, "*batch n p"]) -> Float[Tensor, "*batch"]:
        if self._validate_args:
            self._validate_sample(value)
        rows = value.split([part.event_shape[0] for part in self.parts], -2)
        densities = [part.log_prob(row) for part, row in zip(self.parts, rows, strict=True)]
        return torch.stack(torch.broadcast_tensors(*densities)).sum(0)


def independent(distribution: Any, mask: Bool[Tensor, "*batch n"]) -> Distribution:
    """The distribution of independent draws of a vector, one for each component of the mask."""
    rows: Distribution = distribution.expand(mask.shape).mask(mask).to_event(1)
    return rows


def with_own(
    prior: SequencePrior, samples_per_component: int, mask: Bool[Tensor, "*batch n"], tokens: Distribution
) -> Distribution:
    """The distribution of the prior's own vectors, if there are any, followed by the tokens'."""
    return (
        Stacked([independent(prior.first(), mask[..., :samples_per_component]), tokens])
        if samples_per_component
        else tokens
    )


def checked_samples(samples_per_component: int) -> int:
    """The number of the prior's own components, or a ValueError if it is negative."""
    if samples_per_component < 0:
        raise ValueError(
            f"samples_per_component {samples_per_component}: must not be negative; 0 is for models without a component "
            "of the prior's own"
        )
    return samples_per_component
