r"""Squared distances of queries to means, as they are and after they have adapted to the queries up to each one."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

__all__ = ["distances_after", "squared_distances"]

After = Callable[[Tensor, Tensor, Tensor], Tensor]


def squared_distances(
    queries: Float[Tensor, "*#batch m d"],
    means: Float[Tensor, "*#batch n d"],
    precision: Float[Tensor, "..."],
) -> Float[Tensor, "*#batch m n"]:
    """Squared distances in units of each mean's standard deviations, as products of matrices.

    Examples:
        >>> squared_distances(torch.zeros(1, 2), torch.ones(3, 2), torch.full((1, 1), 0.5)).tolist()
        [[1.0, 1.0, 1.0]]
    """
    scaled = precision * means
    lengths = (scaled * means).sum(-1)[..., None, :]
    if precision.shape[-1] == 1:
        own = queries.square().sum(-1, keepdim=True) * precision[..., 0][..., None, :]
    else:
        own = queries.square() @ precision.mT
    return own - 2 * (queries @ scaled.mT) + lengths


def distances_after(
    queries: Float[Tensor, "*#batch m d"],
    initial: Float[Tensor, "*#batch n d"],
    precision: Float[Tensor, "..."],
    kappa: Float[Tensor, ""],
) -> After:
    r"""Distances of query m to means that have adapted to the queries up to it.

    .. math::
        \mu_n^{(m)} = \frac{\kappa \mu_n^0 + S_n + \sum_{i \le m} w_{in} u_i}{\kappa + C_n + \sum_{i \le m} w_{in}}

    The result is a function of :math:`w`, and of the counts :math:`C` [* N 1] and sums :math:`S` [* N D] of queries
    before these. Means of one precision are never written out: their products with queries and with themselves are
    prefix sums.

    Arguments:
        queries: The queries :math:`u`.
        initial: :math:`\mu^0`.
        precision: Precisions with shape :math:`(*, N, D)`, or :math:`(*, N, 1)`; N may be 1.
        kappa: :math:`\kappa`.
    """
    return (_isotropic if precision.shape[-1] == 1 else _diagonal)(queries, initial, precision, kappa)


def _isotropic(queries: Tensor, initial: Tensor, precision: Tensor, kappa: Tensor) -> After:
    products, lengths = queries @ initial.mT, initial.square().sum(-1)[..., None, :]
    own = queries.square().sum(-1, keepdim=True)
    gram = (queries @ queries.mT).tril(-1)

    def distance(weights: Tensor, count: Tensor, total: Tensor) -> Tensor:
        before = queries @ total.mT + gram @ weights  # products with the sum of the queries before each
        length_before, along_before = total.square().sum(-1), (total * initial).sum(-1)
        square = length_before[..., None, :] + (weights * (2 * before + weights * own)).cumsum(-2)
        along = along_before[..., None, :] + (weights * products).cumsum(-2)
        strength = kappa + count.mT + weights.cumsum(-2)
        dot = (kappa * products + before + weights * own) / strength
        length = (kappa.square() * lengths + 2 * kappa * along + square) / strength.square()
        return precision[..., 0][..., None, :] * (length - 2 * dot + own)

    return distance


def _diagonal(queries: Tensor, initial: Tensor, precision: Tensor, kappa: Tensor) -> After:
    each, start, precision = queries[..., :, None, :], initial[..., None, :, :], precision[..., None, :, :]

    def distance(weights: Tensor, count: Tensor, total: Tensor) -> Tensor:
        shares = weights[..., None]
        sums = kappa * start + total[..., None, :, :] + (shares * each).cumsum(-3)
        means = sums / (kappa + count[..., None, :, :] + shares.cumsum(-3))
        return (precision * (each - means).square()).sum(-1)

    return distance
