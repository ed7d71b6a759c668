"""Joint distributions of all vectors of a text: in order, each given those before it, and in independent parts."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from ...distributions.expandable import Expandable
from ..roles import SequencePrior
from ..vectors import over_components
from .last import Last

__all__ = ["InOrder", "Stacked", "of_tokens", "with_own"]


class InOrder(Expandable):
    r"""Vectors that follow one another, each given those before it.

    .. math:: \log p(z_1, \dots, z_n) = \sum_{i=1}^n \log p(z_i \mid z_1, \dots, z_{i-1})

    A density takes one call of ``conditional``, for all vectors at once. That of the value asked for last is kept, as
    the distribution of a length may ask for it again.

    Arguments:
        conditional: Takes the first :math:`m` vectors, with shape :math:`(*, m, P)`, and their total number, with shape
            :math:`(*)`; returns the distribution of each given those before it, with batch shape :math:`(*, m)`.
        draw: Takes the total number, with shape :math:`(*)`, and :math:`M`; draws the first :math:`M`.
        present: True where a vector exists, with shape :math:`(*, M)`; the others come last, without a density.
        width: :math:`P`.
    """

    arg_constraints = {}
    parameter_dims = {"present": 1}
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
        self._last: Last[Each] = Last()
        super().__init__(present.shape[:-1], Size((present.shape[-1], width)), validate_args)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*batch m p"]:
        present = self.present.expand(*sample_shape, *self.present.shape)
        return torch.where(present[..., None], self.draw(present.sum(-1), present.shape[-1]), 0)

    def log_prob(self, value: Float[Tensor, "*batch m p"]) -> Float[Tensor, "*batch"]:
        if self._validate_args:
            self._validate_sample(value)
        return torch.where(self.present, self.each(value).log_prob, 0).sum(-1)

    def each(self, value: Float[Tensor, "*batch m p"]) -> "Each":
        """The distribution of each vector given those before it."""
        return self._last(self._each, value)

    def _each(self, value: Float[Tensor, "*batch m p"]) -> "Each":
        value = torch.where(self.present[..., None], value, 0)
        conditional = self.conditional(value, self.present.sum(-1))
        return Each(conditional, value, conditional.log_prob(value))


class Each(NamedTuple):
    """The distribution of each vector given those before it, the vectors, and their log densities."""

    distribution: Distribution
    value: Float[Tensor, "*batch m p"]
    log_prob: Float[Tensor, "*batch m"]


class Stacked(Expandable):
    r"""Independent parts as one distribution: their draws one below the other.

    Arguments:
        parts: Distributions with the same batch shape, whose event shapes :math:`(N_j, P)` add up to :math:`(N, P)`.
    """

    arg_constraints = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, parts: Sequence[Distribution], validate_args: bool | None = None) -> None:
        self.parts = list(parts)
        self._last: Last[Sequence[Tensor]] = Last()
        rows = sum(part.event_shape[0] for part in parts)
        super().__init__(parts[0].batch_shape, Size((rows, parts[0].event_shape[1])), validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Stacked":
        new = super().expand(batch_shape, _instance)
        new.parts = [part.expand(Size(batch_shape)) for part in self.parts]
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*batch n p"]:
        return torch.cat([part.sample(Size(sample_shape)) for part in self.parts], -2)

    def log_prob(self, value: Float[Tensor, "*batch n p"]) -> Float[Tensor, "*batch"]:
        if self._validate_args:
            self._validate_sample(value)
        densities = [part.log_prob(row) for part, row in zip(self.parts, self.rows(value), strict=True)]
        return torch.stack(torch.broadcast_tensors(*densities)).sum(0)

    def rows(self, value: Float[Tensor, "*batch n p"]) -> Sequence[Float[Tensor, "*batch m p"]]:
        """The rows of each part."""
        return self._last(self._rows, value)

    def _rows(self, value: Float[Tensor, "*batch n p"]) -> Sequence[Tensor]:
        return value.split([part.event_shape[0] for part in self.parts], -2)


def with_own(
    prior: SequencePrior, samples_per_component: int, mask: Bool[Tensor, "*batch n"], tokens: Distribution
) -> Distribution:
    """The distribution of the prior's own vectors, if there are any, followed by the tokens'."""
    return (
        Stacked([over_components(prior.first, mask[..., :samples_per_component]), tokens])
        if samples_per_component
        else tokens
    )


def of_tokens(distribution: Distribution, vectors: Float[Tensor, "*batch n p"]) -> "Each":
    """The tokens' part of the distribution that :func:`with_own` made, at these vectors."""
    if isinstance(distribution, Stacked):
        vectors = distribution.rows(vectors)[-1]
        distribution = distribution.parts[-1]
    assert isinstance(distribution, InOrder), "vectors that tell where a text ends are in order"
    return distribution.each(vectors)
