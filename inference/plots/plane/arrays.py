"""A mixture over vectors of the plane as arrays, and its extent."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....models.attention.mixture import Covariances, Mixture

__all__ = ["Plane", "in_plane"]

REACH = 2.2  # standard deviations of a component that are inside the axes
LEAST = 0.08  # of the extent of the means and points, as a margin


class Plane(NamedTuple):
    """Weights, means and covariances of the components that are present, as arrays."""

    weights: Float[np.ndarray, " n"]
    means: Float[np.ndarray, "n 2"]
    covariances: Float[np.ndarray, "n 2 2"]

    def extent(self, points: Float[np.ndarray, "m 2"]) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of axes in which components and points have room."""
        reach = REACH * np.sqrt(self.covariances.diagonal(axis1=1, axis2=2))
        corners = np.concatenate([self.means - reach, self.means + reach, points])
        low, high = corners.min(0), corners.max(0)
        margin = LEAST * np.maximum(high - low, 1e-6)
        (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
        return left, right, bottom, top


def in_plane(mixture: Mixture) -> Plane:
    """The components of a mixture of the plane that are present; point masses have covariance 0.

    Raises:
        ValueError: If vectors do not have two dimensions, or the mixture has batch dimensions or values.

    Examples:
        >>> in_plane(pf.Mixture(torch.zeros(3), torch.randn(3, 2), torch.ones(3, 1))).covariances.shape
        (3, 2, 2)
    """
    if mixture.means.ndim != 2 or mixture.width != 2:
        raise ValueError(f"means have shape {tuple(mixture.means.shape)}: a plane is drawn, so give (N, 2).")
    if mixture.values is not None:
        raise ValueError("the mixture has values, which are in no plane with its vectors: give a Mixture without.")
    if isinstance(mixture.variances, Covariances):
        matrices = mixture.variances.matrices.expand(mixture.components, 2, 2)
    else:
        dense = mixture.dense_variances()
        variances = torch.zeros_like(mixture.means) if dense is None else dense.expand_as(mixture.means)
        matrices = torch.diag_embed(variances)
    present = mixture.present
    weights = mixture.log_weights.masked_fill(~present, -torch.inf).softmax(-1)
    return Plane(*(_array(values[present]) for values in (weights, mixture.means, matrices)))


def _array(values: Tensor) -> Float[np.ndarray, "..."]:
    array: np.ndarray = values.detach().cpu().double().numpy()
    return array
