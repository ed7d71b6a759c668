"""Variances of components: shared by groups of them, and full covariances."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Covariances", "SharedVariances", "nonnegative_entries"]


class SharedVariances(NamedTuple):
    r"""Variances that groups of components have in common.

        variance of component n = table[group[n]]

    With few rows in ``table``, attention over Gaussian components costs what plain attention does.

    Arguments:
        table: One variance vector for each group, with shape :math:`(R, D)`.
        group: The group of each component, with shape :math:`(*, N)`.

    Examples:
        >>> prior_and_tokens = SharedVariances(torch.tensor([[1.0, 1.0], [0.1, 0.2]]), torch.tensor([0, 1, 1]))
        >>> prior_and_tokens.dense().shape
        torch.Size([3, 2])
    """

    table: Float[Tensor, "r d"]
    group: Int[Tensor, "*batch n"]

    def dense(self) -> Float[Tensor, "*batch n d"]:
        """The variances of every component, written out."""
        return self.table[self.group]

    def membership(self) -> Float[Tensor, "*batch n r"]:
        """One-hot groups: ``dense() == membership() @ table``."""
        groups = torch.arange(len(self.table), device=self.group.device)
        return (self.group[..., None] == groups).to(self.table.dtype)


class Covariances(NamedTuple):
    r"""Full covariance matrices; only :mod:`~.bayes_rule` and EM take them, no attention kernel does.

    Arguments:
        matrices: One symmetric, positive semi-definite matrix for each component, with shape :math:`(*, N, D, D)`.

    Examples:
        >>> Covariances(torch.eye(2).expand(3, 2, 2)).matrices.shape
        torch.Size([3, 2, 2])
    """

    matrices: Float[Tensor, "*batch n d d"]


def nonnegative_entries(variances: Tensor | SharedVariances | Covariances | None) -> Tensor | None:
    """The numbers that must not be negative: variances of dimensions, of groups or on the diagonal."""
    if isinstance(variances, Covariances):
        return variances.matrices.diagonal(dim1=-2, dim2=-1)
    return variances.table[None] if isinstance(variances, SharedVariances) else variances
