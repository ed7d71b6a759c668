"""Numbers and mixtures of the plane as arrays."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....models.attention.mixture import Mixture
from ....models.attention.variances import Covariances
from ....models.utils.tensor_checks import check_types

__all__ = ["Plane", "as_array", "check_queries", "in_plane", "numbers"]

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


def as_array(name: str, values: object, *shape: int | None) -> Float[np.ndarray, "..."]:
    """Finite numbers as an array of a shape, in which None is any size.

    Raises:
        ValueError: If these are no finite numbers, or of another shape.

    Examples:
        >>> as_array("mean", torch.tensor([1.0, 2.0]), 2)
        array([1., 2.])
        >>> as_array("mean", [1.0, float("nan")], 2)
        Traceback (most recent call last):
        ValueError: mean has numbers that are not finite: leave them out.
    """
    try:
        array = np.asarray(numbers(values) if isinstance(values, Tensor) else values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {values!r:.60}: give a tensor or an array of numbers.") from None
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    if array.ndim != len(shape) or any(size not in (None, own) for size, own in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} has shape {array.shape}: give ({sizes}{',' * (len(shape) == 1)}).")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has numbers that are not finite: leave them out.")
    return array


def check_queries(queries: Tensor) -> None:
    """Raises unless these are finite queries in the plane, one or more.

    Raises:
        ValueError: With their type or shape.
    """
    check_types(queries=queries)
    if queries.ndim != 2 or queries.shape[-1] != 2 or not len(queries):
        raise ValueError(f"queries have shape {tuple(queries.shape)}: a plane is drawn, so give (M, 2), M at least 1.")
    as_array("queries", queries, None, 2)


def in_plane(mixture: Mixture) -> Plane:
    """The components of a mixture of the plane that are present; point masses have covariance 0.

    Raises:
        ValueError: If this is no mixture, vectors do not have two dimensions, or there are batch dimensions or values.

    Examples:
        >>> in_plane(pf.Mixture(torch.zeros(3), torch.randn(3, 2), torch.ones(3, 1))).covariances.shape
        (3, 2, 2)
    """
    if not isinstance(mixture, Mixture):
        raise ValueError(f"mixture has type {type(mixture).__name__}: give a pf.Mixture.")
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
    return Plane(*(numbers(values[present]) for values in (weights, mixture.means, matrices)))


def numbers(values: Tensor) -> Float[np.ndarray, "..."]:
    """The numbers of a tensor of any precision, as NumPy has no bfloat16."""
    array: np.ndarray = values.detach().cpu().double().numpy()
    return array
