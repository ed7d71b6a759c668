"""A categorical distribution over text lengths."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Size, Tensor
from torch.distributions import constraints

from .expandable import Expandable

__all__ = ["Lengths"]


class Lengths(Expandable):
    r"""A categorical distribution over the lengths :math:`1, \dots, W`.

    Arguments:
        logits: Log probabilities up to a constant, of length 1 first, with shape :math:`(*, W)`.

    Examples:
        >>> Lengths(torch.zeros(4)).log_prob(torch.tensor(4)).exp()
        tensor(0.2500)
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    parameter_dims = {"logits": 1}
    has_enumerate_support = True

    def __init__(self, logits: Float[Tensor, "*batch w"], validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        super().__init__(logits.shape[:-1], Size(), validate_args)

    @property
    def max_length(self) -> int:
        """The largest length."""
        return self.logits.shape[-1]

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(1, self.max_length)

    @property
    def probs(self) -> Tensor:
        return self.logits.exp()

    def sample(self, sample_shape: Sequence[int] = ()) -> Int[Tensor, "..."]:
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            flat = self.logits.exp().reshape(-1, self.max_length)
            draws = torch.multinomial(flat, math.prod(sample_shape), replacement=True).T
            return (draws + 1).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self.logits.expand(shape + (self.max_length,))
        return logits.gather(-1, value.long().expand(shape)[..., None] - 1).squeeze(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = torch.arange(1, self.max_length + 1, device=self.logits.device)
        values = values.reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1,) + self.batch_shape) if expand else values

    def entropy(self) -> Tensor:
        least = torch.finfo(self.logits.dtype).min  # a length of probability 0 adds nothing
        return -(self.probs * self.logits.clamp_min(least)).sum(-1)

    @property
    def mean(self) -> Tensor:
        return (self.probs * self.enumerate_support(expand=False).reshape(-1)).sum(-1)
