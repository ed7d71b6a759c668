"""Independent draws of which components of a text are present, and distributions masked by them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pyro.distributions import MaskedDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl

from .expandable import Expandable

__all__ = ["Presence", "WherePresent"]


class Presence(Expandable):
    r"""Which components of a text are present, 1, or absent, 0: independent draws.

    .. math:: p(b) = \prod_i g_i^{b_i} (1 - g_i)^{1 - b_i}, \qquad g_i = \frac1{1 + e^{-\ell_i}}

    The divergence of two is exact and registered. Draws are discrete and have no pathwise gradient.

    Arguments:
        logits: :math:`\ell`, log odds of presence, with shape :math:`(*, N)`.
        mask: True where a text has a component, with shape :math:`(*, N)`; all others are absent for certain.
        always: The number of components at the front that are present for certain: the prior's own.

    Raises:
        ValueError: If ``always`` is less than 1 or more than there are components, or the mask has another shape.

    Examples:
        >>> presence = Presence(torch.zeros(4), torch.tensor([True, True, True, False]))
        >>> presence.mean
        tensor([1.0000, 0.5000, 0.5000, 0.0000])
        >>> presence.log_prob(torch.tensor([1.0, 0.0, 1.0, 0.0])).exp()
        tensor(0.2500)
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}
    parameter_dims = {"logits": 1, "present": 1}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        logits: Float[Tensor, "*#batch n"],
        mask: Bool[Tensor, "*#batch m"],  # m = n, which a message says better
        always: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        if logits.shape[-1] != mask.shape[-1]:
            raise ValueError(f"logits are of {logits.shape[-1]} components and mask of {mask.shape[-1]}: give as many.")
        if not 1 <= always <= mask.shape[-1]:
            raise ValueError(f"always is {always}: give a number of components from 1 to {mask.shape[-1]}.")
        shape = torch.broadcast_shapes(logits.shape, mask.shape)
        self.logits, self.present, self.always = logits.expand(shape), mask.expand(shape), always
        super().__init__(shape[:-1], shape[-1:], validate_args)

    @property
    def uncertain(self) -> Bool[Tensor, "*batch n"]:
        """True for the components that may be present or absent."""
        return self.present & (torch.arange(self.event_shape[0], device=self.present.device) >= self.always)

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """The probability that each component is present."""
        return torch.where(self.uncertain, self.logits.sigmoid(), self.present.to(self.logits.dtype))

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*shape n"]:
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(self._extended_shape(Size(sample_shape))))

    def log_prob(self, value: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape"]:
        if self._validate_args:
            self._validate_sample(value)
        each = value * self.logits - F.softplus(self.logits)
        impossible = (value > 0.5) != self.present
        return torch.where(self.uncertain, each, torch.where(impossible, -torch.inf, 0.0)).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        each = F.softplus(self.logits) - self.logits.sigmoid() * self.logits
        return torch.where(self.uncertain, each, 0.0).sum(-1)


class WherePresent(MaskedDistribution):
    r"""Independent draws for the components of a text, which count only where a component is present.

    Densities are those of the components that are present in a draw of :class:`Presence`. The divergence from another
    masked distribution is its mean over such draws,

    .. math:: \sum_i g_i \, \mathrm{KL}_i

    so that it is exact, with an exact gradient in :math:`g`, and does not depend on the draw.

    Arguments:
        base_dist: The distribution of each component, with components as the last batch dimension.
        mask: True for the components that are present, with shape :math:`(*, N)`.
        probability: :math:`g_i`, the probability that a component is present, with the same shape.

    Examples:
        >>> normal = pyro.distributions.Normal(torch.tensor([0.0, 2.0]), 1.0)
        >>> posterior = WherePresent(normal, torch.tensor([True, False]), torch.tensor([1.0, 0.25]))
        >>> prior = pyro.distributions.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False]))
        >>> torch.distributions.kl_divergence(posterior, prior)
        tensor([0.0000, 0.5000])
    """

    def __init__(
        self, base_dist: Distribution, mask: Bool[Tensor, "*#batch n"], probability: Float[Tensor, "*#batch n"]
    ) -> None:
        super().__init__(base_dist, mask)
        self.probability = probability.expand(self.batch_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "WherePresent":
        new: WherePresent = super().expand(batch_shape, self._get_checked_instance(WherePresent, _instance))
        new.probability = self.probability.expand(Size(batch_shape))
        return new


@register_kl(Presence, Presence)  # type: ignore[untyped-decorator]
def _kl_of_presences(p: Any, q: Any) -> Tensor:
    each = p.logits.sigmoid() * (p.logits - q.logits) - F.softplus(p.logits) + F.softplus(q.logits)
    certain = F.softplus(torch.where(p.present, -q.logits, q.logits))  # in p, but not in q
    impossible = torch.where(p.uncertain | (p.present != q.present), torch.inf, 0.0)
    return torch.where(q.uncertain, torch.where(p.uncertain, each, certain), impossible).sum(-1)


@register_kl(WherePresent, MaskedDistribution)  # type: ignore[untyped-decorator]
def _kl_where_present(p: Any, q: Any) -> Tensor:
    each = kl_divergence(p.base_dist, q.base_dist)
    return torch.where(p.probability > 0, p.probability.to(each.dtype) * each, 0.0)
