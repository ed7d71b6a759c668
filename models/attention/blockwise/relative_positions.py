r"""Relative positions of a query and a key: vectors of each distance for queries, keys and values.

.. math::
    \log \pi_{mn} = \log \pi_n + \frac{q_m \cdot r^q_{m - n} + k_n \cdot r^k_{m - n}}{\sqrt E}, \qquad
    v_{mn} = v_n + r^v_{m - n}

In the mixture of a query, a key's weight depends on how far behind it is, and so does its value.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["RelativePositions", "distances"]


class RelativePositions(NamedTuple):
    r"""Vectors of the distances :math:`-P, \dots, P`; farther ones share those at the ends.

    Arguments:
        queries: :math:`r^q`, with shape :math:`(*, 2 P + 1, E)`.
        keys: :math:`r^k`, with shape :math:`(*, 2 P + 1, E)`.
        values: :math:`r^v`, with shape :math:`(*, 2 P + 1, V)`.

    References:
        Self-Attention with Relative Position Representations (Shaw et al., 2018), for queries and values.
        https://arxiv.org/abs/1803.02155

        Axial-DeepLab (Wang et al., 2020), for all three. https://arxiv.org/abs/2003.07853

    Examples:
        >>> table = torch.zeros(3, 4)  # of the distances -1, 0 and 1
        >>> table[2, 0] = 1.0
        >>> positions, index = RelativePositions(table, table, table), distances(torch.arange(3), torch.arange(3), 1)
        >>> positions.bias(torch.ones(3, 4), torch.zeros(3, 4), index).tolist()
        [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """

    queries: Float[Tensor, "*#batch o e"]
    keys: Float[Tensor, "*#batch o e"]
    values: Float[Tensor, "*#batch o v"]

    @property
    def reach(self) -> int:
        """The largest distance :math:`P` with vectors of its own."""
        return (self.queries.shape[-2] - 1) // 2

    def bias(
        self, queries: Float[Tensor, "*#batch m e"], keys: Float[Tensor, "*#batch n e"], index: Int[Tensor, "m n"]
    ) -> Float[Tensor, "*#batch m n"]:
        """The bias on the log weight of each key for each query; ``index`` comes from :func:`distances`."""
        of_queries = (queries @ self.queries.to(queries.dtype).mT) / queries.shape[-1] ** 0.5
        of_keys = (keys @ self.keys.to(keys.dtype).mT) / keys.shape[-1] ** 0.5
        from_queries = of_queries.gather(-1, index.expand(*of_queries.shape[:-1], -1))
        return from_queries + of_keys.gather(-1, index.mT.expand(*of_keys.shape[:-1], -1)).mT

    def mean_value(
        self, weights: Float[Tensor, "*#batch m n"], index: Int[Tensor, "m n"]
    ) -> Float[Tensor, "*#batch m v"]:
        r""":math:`\sum_n w_{mn} r^v_{m - n}`."""
        total = weights.new_zeros(*weights.shape[:-1], self.values.shape[-2])
        total = total.scatter_add(-1, index.expand(weights.shape), weights)
        return total @ self.values.to(weights.dtype)


def distances(queries: Int[Tensor, " m"], keys: Int[Tensor, " n"], reach: int) -> Int[Tensor, "m n"]:
    """Rows of the tables of :class:`RelativePositions` for the positions of queries and keys.

    Examples:
        >>> distances(torch.tensor([0, 5]), torch.tensor([0, 1, 5]), 2).tolist()
        [[2, 1, 0], [4, 4, 2]]
    """
    return (queries[:, None] - keys).clamp(-reach, reach) + reach
