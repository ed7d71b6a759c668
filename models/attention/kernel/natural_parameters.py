r"""Natural parameters of a mixture: the terms of its logits, as an attention kernel can add them up.

With :math:`V_n = \sigma_n^2 + s` the logit of component n for a query u, up to terms that are the same for every n, is

.. math::
    u \cdot \frac{\mu_n}{V_n} + b_n + u^2 \cdot c_n, \qquad
    b_n = \log \pi_n - \frac12 \sum \frac{\mu_n^2}{V_n} - \frac12 \sum \log V_n, \qquad
    c_n = \frac12 \left( \max_k \frac{1}{V_k} - \frac{1}{V_n} \right)

and the answer of component n is :math:`(1 - r_n) \mu_n + r_n u` with :math:`r_n = \sigma_n^2 / V_n`.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...utils.precision import at_least_float32, without_autocast
from ..log_space import finite_max
from ..mixture import Mixture
from ..query_variances import own_variances
from ..variances import SharedVariances
from .packed import side_by_side

__all__ = ["Basis", "Form", "LowRank", "Natural", "has_curvature", "natural"]

Form = Literal["exact", "published"]


class Basis(NamedTuple):
    r"""A basis of R vectors in D dimensions.

    Arguments:
        vectors: The basis, with shape :math:`(R, D)`; None is the identity.
    """

    vectors: Float[Tensor, "r d"] | None = None

    def squares(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch r"]:
        """Inner products of x squared with the basis, in float32 at least, because sums of squares need it."""
        squared = at_least_float32(x).square()
        if self.vectors is None:
            return squared
        with without_autocast(x.device):
            return squared @ self.vectors.to(squared.dtype).mT

    def combine(self, coefficients: Float[Tensor, "*batch r"]) -> Float[Tensor, "*batch d"]:
        """The vectors with these coefficients."""
        return coefficients if self.vectors is None else coefficients @ self.vectors.to(coefficients.dtype)


class LowRank(NamedTuple):
    r"""A vector for every component in a basis: ``basis.combine(coefficients[n])`` for component n.

    Isotropic variances need one coefficient each, R groups with shared variances R, diagonal ones all D.
    """

    coefficients: Float[Tensor, "*batch n r"]
    basis: Basis

    @property
    def rank(self) -> int:
        return self.coefficients.shape[-1]


class Natural(NamedTuple):
    r"""The terms of a mixture's logits and answers; masked components are zero in all of them.

    Arguments:
        slope: :math:`\mu_n / V_n` minus ``center``, with shape :math:`(*, N, D)`.
        bias: :math:`b_n` minus ``peak``: finite, at most 0, with shape :math:`(*, N)`.
        values: Answers of the components without the term in the query, with shape :math:`(*, N, V)`.
        present: True for the components that have any weight, with shape :math:`(*, N)`.
        center: The mean slope, with shape :math:`(*, 1, D)`. It cancels; without it half precision rounds off less.
        peak: The largest bias of each row, with shape :math:`(*, 1)`. It cancels too.
        reference: :math:`\min_k V_k`, which broadcasts to :math:`(*, 1, D)`.
        curvature: :math:`c_n`, or None where it cancels or is left out.
        response: :math:`r_n`, or None where it is zero.
    """

    slope: Float[Tensor, "*batch n d"]
    bias: Float[Tensor, "*batch n"]
    values: Float[Tensor, "*batch n v"]
    present: Bool[Tensor, "*batch n"]
    center: Float[Tensor, "*batch 1 d"]
    peak: Float[Tensor, "*batch 1"]
    reference: Float[Tensor, "..."]
    curvature: LowRank | None
    response: LowRank | None

    def joint(
        self, queries: Float[Tensor, "*#batch m d"]
    ) -> tuple[Float[Tensor, "*batch m n"], Float[Tensor, "*batch m"]]:
        r"""The log joint as one matrix product: logits, and a term of each query that all components share.

        .. math:: \ell_{mn} = \text{logit}_{mn} + \text{own}_m

        Masked components are :math:`-\infty`.
        """
        bias = torch.where(self.present, self.bias, -torch.inf)[..., None]
        features, keys = [queries, torch.ones_like(queries[..., :1])], [self.slope, bias]
        if self.curvature is not None:
            features.append(self.curvature.basis.squares(queries))
            keys.append(self.curvature.coefficients)
        logits = torch.cat(features, -1) @ side_by_side(keys).mT
        precision = (1 / self.reference).expand(*self.reference.shape[:-1], queries.shape[-1])
        own = queries @ self.center.mT - 0.5 * (queries.square() @ precision.mT)
        return logits, self.peak + own[..., 0] - 0.5 * (2 * math.pi / precision).log().sum(-1)


def natural(mixture: Mixture, noise_variance: float | Tensor, form: Form = "exact", local: bool = False) -> Natural:
    r"""The natural parameters of a mixture, in float32 at least.

    Arguments:
        mixture: The mixture.
        noise_variance: The variance :math:`s` of a query around its vector.
        form: ``"published"`` leaves out the query's squared norm (Henderson and Fehr, 2023), ``"exact"`` does not.
        local: Whether the terms of a component depend on no other. Otherwise center, peak and reference are those of
            all components: they cancel, but rounding would leak later components to a causal query.
    """
    log_weights, present = at_least_float32(mixture.log_weights), mixture.present
    vectors = torch.where(present[..., None], at_least_float32(mixture.means), 0)
    variances = _own_rows(mixture)
    total = variances + noise_variance
    together = None if isinstance(mixture.variances, SharedVariances) else present
    alone = local and total.shape[-2] > 1
    reference = total.new_ones(1, 1) if alone else _smallest(total, together)
    response = variances / total
    log_det = (total / reference).log().sum(-1, keepdim=True) * (mixture.width / total.shape[-1])

    slope = vectors / _rows(total, mixture)
    bias = log_weights - 0.5 * (vectors * slope).sum(-1) - 0.5 * _rows(log_det, mixture).squeeze(-1)
    slope, center = _centered(slope, present, local)
    bias, peak = _recentered(torch.where(present, bias, -torch.inf), local)
    if mixture.values is None:
        values = (1 - _rows(response, mixture)) * vectors
    else:
        values = torch.where(present[..., None], at_least_float32(mixture.values), 0)
    curved = form == "exact" and total.shape[-2] > 1
    responds = mixture.values is None and mixture.variances is not None
    return Natural(
        slope,
        bias,
        values,
        present,
        center,
        peak,
        reference,
        curvature=_low_rank(0.5 * (1 / reference - 1 / total), mixture, present) if curved else None,
        response=_low_rank(response, mixture, present) if responds else None,
    )


def has_curvature(mixture: Mixture) -> bool:
    """Whether variances may differ between components, so that the query's square enters the logits."""
    if isinstance(mixture.variances, SharedVariances):
        return len(mixture.variances.table) > 1
    variances = mixture.dense_variances()
    return variances is not None and variances.shape[-2] > 1


def _own_rows(mixture: Mixture) -> Tensor:
    """The variances, not expanded to all rows and columns, in float32 at least."""
    own = mixture.variances
    return at_least_float32(own.table if isinstance(own, SharedVariances) else own_variances(mixture))


def _rows(own: Tensor, mixture: Mixture) -> Tensor:
    """A function of the variances as one row for each component, from the rows of the variances."""
    return own[mixture.variances.group] if isinstance(mixture.variances, SharedVariances) else own


def _low_rank(own: Tensor, mixture: Mixture, present: Tensor) -> LowRank:
    """A function of the variances in the smallest basis for their shape."""
    coefficients, basis = own, None
    if isinstance(mixture.variances, SharedVariances):
        coefficients, basis = mixture.variances.membership().to(own.dtype), own
    elif own.ndim == 2 and len(own) == 1:
        coefficients, basis = own.new_ones(1, 1), own.expand(1, mixture.width)
    elif own.shape[-1] == 1:
        basis = own.new_ones(1, mixture.width)
    return LowRank(torch.where(present[..., None], coefficients, 0), Basis(basis))


def _smallest(total: Tensor, present: Tensor | None) -> Tensor:
    """The smallest total variance of each dimension; without gradient where there are several, as it cancels."""
    if total.shape[-2] == 1:
        return total
    total = total.detach()
    if not total.shape[-2]:
        return total.new_ones(1, total.shape[-1])
    if present is not None:
        total = torch.where(present[..., None], total, torch.inf)
    smallest = total.amin(-2, keepdim=True)
    return torch.where(smallest.isfinite(), smallest, 1)


def _centered(slope: Tensor, present: Tensor, local: bool) -> tuple[Tensor, Tensor]:
    """The slope minus its mean over the present components, and that mean, without gradient as it cancels."""
    if local:
        return torch.where(present[..., None], slope, 0), slope.new_zeros(1, slope.shape[-1])
    count = present.sum(-1, keepdim=True).clamp_min(1)[..., None]
    center = slope.detach().sum(-2, keepdim=True) / count
    return torch.where(present[..., None], slope - center, 0), center


def _recentered(bias: Tensor, local: bool) -> tuple[Tensor, Tensor]:
    """The bias minus its largest entry, which cancels too, and that entry; -inf becomes finite, as do its gradients."""
    if local:
        return bias.clamp_min(-1e30), bias.new_zeros(1)
    peak = finite_max(bias)
    return (bias - peak).clamp_min(-1e30), peak
