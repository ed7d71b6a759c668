"""Conjugate priors of a mixture's means, precisions and weights."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...utils.numbers import check_not_negative, declared_number
from ..mixture import Mixture

__all__ = ["ConjugatePriors", "checked_priors", "rate_of_variances"]


@dataclass(frozen=True)
class ConjugatePriors:
    r"""Conjugate priors of a mixture's parameters, for which M-steps have a closed form.

    .. math::
        \mu_n \sim N\left(\mu_n^0, \frac{\sigma_n^2 + s}{\kappa}\right), \qquad
        \frac{1}{\sigma_n^2 + s} \sim \text{Gamma}(a, b), \qquad \pi \sim \text{Dirichlet}(c)

    and likewise for values. The first two together are the Normal-Gamma prior. By default the initial means and
    variances are worth one query, and the prior of the weights is flat.

    Arguments:
        pseudo_counts: :math:`\kappa`, the number of queries that the initial mean is worth: a number, or one for each
            component with shape :math:`(*, N)`. A fixed prior precision :math:`\theta` is
            :math:`\kappa_n = \theta (\sigma_n^2 + s)`. With 0 the means are those of maximum likelihood.
        value_pseudo_counts: The same for values: the number of known values that the initial one is worth.
        shape: :math:`a \ge 1`, the shape of the Gamma prior of each precision :math:`1 / (\sigma_n^2 + s)`.
        rate: :math:`b \ge 0`, its rate. For full covariances the density is
            :math:`|\Lambda|^{a - 1} \exp(-b \, \text{tr} \Lambda)`. With None the
            initial variance :math:`V^0` is worth one query where :math:`\kappa > 0`, so that with :math:`a = 1` a
            component without queries keeps it: :math:`b` is :math:`D V^0 / 2`, for diagonal variances
            :math:`V^0 / 2` in each dimension, and for full ones :math:`b I` is :math:`V^0 / 2`. With 0 a component
            that shrinks onto equal queries ends at the floor.
        concentration: :math:`c \ge 1`, of the Dirichlet prior of the weights.

    Raises:
        ValueError: If one of them is out of range.

    Examples:
        >>> ConjugatePriors(pseudo_counts=-1.0)
        Traceback (most recent call last):
        ValueError: pseudo_counts is -1.0: give a finite number of at least 0, or one for each component.
    """

    pseudo_counts: float | Float[Tensor, "*batch n"] = 1.0
    value_pseudo_counts: float | Float[Tensor, "*batch n"] = 1.0
    shape: float = 1.0
    rate: float | None = None
    concentration: float = 1.0

    def __post_init__(self) -> None:
        _check_counts("pseudo_counts", self.pseudo_counts)
        _check_counts("value_pseudo_counts", self.value_pseudo_counts)
        for name in ("shape", "concentration"):
            number = declared_number(name, getattr(self, name), float)
            if not 1 <= number < math.inf:
                raise ValueError(f"{name} is {number}: give a finite number of at least 1.")
        self._check_rate()

    def _check_rate(self) -> None:
        if self.rate is not None:
            check_not_negative(rate=self.rate)

    @property
    def batch(self) -> torch.Size:
        """The leading dimensions of the pseudo-counts."""
        counts = (torch.as_tensor(each) for each in (self.pseudo_counts, self.value_pseudo_counts))
        return torch.broadcast_shapes(*(each.shape[:-1] for each in counts))


def checked_priors(priors: object, mixture: Mixture) -> ConjugatePriors:
    """The priors of a mixture, those by default if they are None.

    Raises:
        ValueError: If they are none, or their pseudo-counts are neither numbers nor one for each component.
    """
    if priors is None:
        return ConjugatePriors()
    if not isinstance(priors, ConjugatePriors):
        raise ValueError(f"priors has type {type(priors).__name__}: give pf.em.ConjugatePriors(...), or None.")
    for name in ("pseudo_counts", "value_pseudo_counts"):
        shape = torch.as_tensor(getattr(priors, name)).shape
        if shape[-1:] not in ((), (1,), (mixture.components,)):
            raise ValueError(
                f"{name} has shape {tuple(shape)}: give a number, or one for each of the {mixture.components} "
                "components."
            )
    return priors


def rate_of_variances(
    priors: ConjugatePriors, means: Float[Tensor, "*batch n d"], initial: Float[Tensor, "..."] | None, full: bool
) -> Float[Tensor, "..."]:
    """The rate :math:`b` of the prior over precisions, of a shape that broadcasts to the variances."""
    identity = torch.eye(means.shape[-1], dtype=means.dtype, device=means.device) if full else means.new_ones(1)
    if priors.rate is not None:
        return priors.rate * identity
    if initial is None:
        return 0 * identity
    # one query, as the density of the means under their prior is one more factor of the variances, whatever kappa
    informed = (torch.as_tensor(priors.pseudo_counts, device=means.device) > 0)[..., None]
    dimensions = means.shape[-1] if not full and initial.shape[-1] == 1 else 1
    return 0.5 * dimensions * (informed[..., None] if full else informed) * initial


def _check_counts(name: str, value: object) -> None:
    """Raises a ValueError unless pseudo-counts are finite and not negative."""
    way_out = "give a finite number of at least 0, or one for each component."
    try:
        numbers = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is {value!r}: {way_out}") from None
    if numbers.dtype == torch.bool:
        raise ValueError(f"{name} is {value!r}: {way_out}")
    allowed = (numbers >= 0) & numbers.isfinite()
    if not bool(allowed.all()):
        raise ValueError(f"{name} is {float(numbers[~allowed].flatten()[0])}: {way_out}")
