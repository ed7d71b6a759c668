r"""Squared distances of queries to the given means, and to means adapted to the queries up to each one."""

from collections.abc import Callable

import torch
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
    before these. Means are never written out: their products with queries and with themselves are prefix sums of the
    products of queries, :math:`u_m^T a \, u_i`. Where precisions are diagonal, these differ from mean to mean.

    Arguments:
        queries: The queries :math:`u`.
        initial: :math:`\mu^0`.
        precision: Precisions with shape :math:`(*, N, D)`, or :math:`(*, N, 1)`; N may be 1.
        kappa: :math:`\kappa`.
    """
    scaled = precision * initial
    products, lengths = queries @ scaled.mT, (scaled * initial).sum(-1)[..., None, :]
    inner = _isotropic_products if precision.shape[-1] == 1 else _diagonal_products
    own, earlier = inner(queries, precision)

    def distance(weights: Tensor, count: Tensor, total: Tensor) -> Tensor:
        scaled = precision * total
        before = queries @ scaled.mT + earlier(weights)  # products with the sum of the queries before each
        square = (scaled * total).sum(-1)[..., None, :] + (weights * (2 * before + weights * own)).cumsum(-2)
        along = (scaled * initial).sum(-1)[..., None, :] + (weights * products).cumsum(-2)
        strength = kappa + count.mT + weights.cumsum(-2)
        dot = (kappa * products + before + weights * own) / strength
        length = (kappa.square() * lengths + 2 * kappa * along + square) / strength.square()
        return length - 2 * dot + own

    return distance


def _isotropic_products(queries: Tensor, precision: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Squared norm of each query, and a function of weights: its product with the weighted sum of earlier queries."""
    precision, gram = precision[..., 0][..., None, :], (queries @ queries.mT).tril(-1)
    return precision * queries.square().sum(-1, keepdim=True), lambda weights: precision * (gram @ weights)


def _diagonal_products(queries: Tensor, precision: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The same for diagonal precisions, where each mean has its own inner product: a Gram matrix [* M M N]."""
    m = queries.shape[-2]
    pairs = queries[..., :, None, :] * queries[..., None, :, :]
    places = torch.arange(m, device=queries.device)
    gram = (pairs.flatten(-3, -2) @ precision.mT).unflatten(-2, (m, m))
    gram = torch.where((places[:, None] > places)[..., None], gram, 0)
    return queries.square() @ precision.mT, lambda weights: (gram * weights[..., None, :, :]).sum(-2)
