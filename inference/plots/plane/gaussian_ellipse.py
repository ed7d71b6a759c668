"""Ellipses of Gaussians in the plane."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor

from ..style import COLORS, new_axes
from .arrays import as_array

__all__ = ["add_ellipse", "gaussian"]

SIZE = 3.8  # width and height of a new figure, in inches


def gaussian(
    mean: Float[Tensor, " d"],
    covariance: Float[Tensor, "d d"],
    *,
    mass: float = 0.5,
    filled: bool = False,
    color: Any = COLORS[0],
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw the ellipse that holds a share of the mass of a Gaussian in the plane.

    .. math::
        \{ z : (z - \mu)^\top \Sigma^{-1} (z - \mu) \le -2 \log(1 - \text{mass}) \}

    Arguments:
        mean: The mean, two numbers.
        covariance: The covariance matrix.
        mass: The share of the mass inside, above 0 and below 1.
        filled: Whether to fill the ellipse instead of drawing its line.
        color: A color of matplotlib.
        label: Label for the legend.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the Gaussian is not one of the plane, the matrix no covariance, or ``mass`` out of its range.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = gaussian(torch.zeros(2), torch.eye(2), mass=0.9, ax=Figure().subplots())
        >>> round(float(ax.patches[0].width) / 2, 3)
        2.146
    """
    center, matrix = as_array("mean", mean, 2), as_array("covariance", covariance, 2, 2)
    if np.linalg.eigvalsh(matrix)[0] < 0 or not np.allclose(matrix, matrix.T):
        raise ValueError(f"covariance is {matrix.tolist()}: give a symmetric matrix without negative eigenvalues.")
    if not 0 < mass < 1:
        raise ValueError(f"mass is {mass}: give the share of the mass inside, above 0 and below 1.")
    ax = new_axes(SIZE, SIZE)[0] if ax is None else ax
    style = {"facecolor": color, "edgecolor": "none"} if filled else {"facecolor": "none", "edgecolor": color}
    add_ellipse(ax, center, matrix, math.sqrt(-2 * math.log1p(-mass)), lw=2, label=label, **style)
    ax.autoscale_view()
    return ax


def add_ellipse(
    ax: Axes, mean: Float[np.ndarray, "2"], covariance: Float[np.ndarray, "2 2"], deviations: float, **style: Any
) -> None:
    """Add the ellipse of the points at so many standard deviations from the mean, in any direction."""
    variances, directions = np.linalg.eigh(covariance)
    width, height = 2 * deviations * np.sqrt(np.clip(variances, 0, None))
    angle = math.degrees(math.atan2(directions[1, 0], directions[0, 0]))
    ax.add_patch(Ellipse((mean[0], mean[1]), width, height, angle=angle, **style))
