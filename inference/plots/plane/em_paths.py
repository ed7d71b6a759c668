"""Paths of keys under EM and of queries under repeated attention, with their objectives."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ....models.attention.attend import attend
from ....models.attention.mixture import Mixture, in_dtype
from ...em import adapt
from ...utils.keywords import check_options, with_options_of
from ..style import COLORS, DEPTHS, FRAME, INK, panels, plain
from .arrays import numbers

__all__ = ["key_paths", "query_paths"]

WIDTH, HEIGHT = 4.4, 3.8  # size of a panel of a new figure, in inches
GRID = 60  # points of the grid of the evidence along each side
MARGIN = 0.15  # of the axes around the drawn points


@with_options_of(adapt)
def key_paths(
    queries: Float[Tensor, "m d"],
    mixture: Mixture,
    *,
    steps: int = 12,
    axes: Iterable[Axes] | None = None,
    **options: Any,
) -> list[Axes]:
    r"""Draw the path of each key over the steps of EM, and the objective :math:`J`, which never decreases.

    Open circles are initial keys, full circles final keys, dots queries. Vectors of more than two dimensions are
    projected to the first two principal components of the queries.

    Arguments:
        queries: The queries.
        mixture: The initial mixture, without batch dimensions.
        steps: Number of EM steps.
        axes: Two matplotlib axes; by default those of a new figure.
        options: Further options of :func:`~pyroformer.inference.em.adapt`, such as ``moves``.

    Raises:
        ValueError: If ``steps`` is below 1, there are too few axes, or vectors have one dimension.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> mixture = pf.Mixture(torch.zeros(2).log_softmax(-1), torch.randn(2, 2), noise_variance=1.0)
        >>> paths, objective = key_paths(torch.randn(20, 2), mixture, steps=3, axes=Figure().subplots(1, 2))
        >>> len(objective.lines[0].get_ydata())  # at the start and after each step
        4
    """
    check_options(key_paths, options, "pyroformer.plots")
    left, right = _axes(queries, steps, axes)
    states = [adapt(queries, mixture, steps=count, **options) for count in range(steps + 1)]
    points, *keys = _project([queries, *(state.mixture.means for state in states)], queries)
    left.scatter(points[:, 0], points[:, 1], s=9, color=FRAME, alpha=0.6, linewidths=0, label="queries")
    paths = np.stack(keys)
    for key in range(paths.shape[1]):
        _draw_path(left, paths[:, key], COLORS[key % len(COLORS)])
    objective = numbers(states[-1].objective)
    right.plot(range(len(objective)), objective, color=COLORS[0], marker="o", markersize=3)
    right.set_ylabel("objective J, nats up to a constant")
    _legend(left, "keys", dots="queries")
    return _finished(left, "Keys over the steps of EM", right, "Objective of EM")


def query_paths(
    queries: Float[Tensor, "m d"], mixture: Mixture, *, steps: int = 12, axes: Iterable[Axes] | None = None
) -> list[Axes]:
    r"""Draw the path of each query under repeated attention, and its evidence, which never decreases.

    .. math::
        q \leftarrow \sum_n w_n(q) \, \mu_n

    is EM for the most probable vector, known as mean shift: each query converges to a mode of the mixture. In two
    dimensions the shade is the evidence :math:`p(q)`. Keys are crosses, whose size is their weight.

    Arguments:
        queries: The initial queries; each has its own color, so give few.
        mixture: A mixture without variances and values, as in softmax attention.
        steps: Number of applications of attention.
        axes: Two matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the mixture has variances or values, ``steps`` is below 1, there are too few axes, or vectors
            have one dimension.

    References:
        Mean Shift, Mode Seeking, and Clustering (Cheng, 1995), https://doi.org/10.1109/34.400568

    Examples:
        >>> from matplotlib.figure import Figure
        >>> mixture = pf.Mixture(torch.zeros(2).log_softmax(-1), torch.randn(2, 2), noise_variance=1.0)
        >>> paths, evidence = query_paths(torch.randn(4, 2), mixture, steps=3, axes=Figure().subplots(1, 2))
        >>> len(evidence.lines)  # one for each query
        4
    """
    if mixture.variances is not None or mixture.values is not None:
        raise ValueError("the mixture has variances or values: give a Mixture of log weights and means.")
    left, right = _axes(queries, steps, axes)
    states, evidence = [queries], [attend(queries, mixture, returns="evidence")]
    for _ in range(steps):
        states.append(attend(states[-1], mixture))
        evidence.append(attend(states[-1], mixture, returns="evidence"))
    keys, *projected = _project([mixture.means, *states], torch.cat([queries, mixture.means]))
    paths, heights = np.stack(projected), numbers(torch.stack(evidence))
    weights = numbers(mixture.log_weights.softmax(-1))
    left.scatter(keys[:, 0], keys[:, 1], s=20 + 150 * weights, marker="x", color=INK, linewidths=1.2, zorder=3)
    for query in range(paths.shape[1]):
        color = COLORS[1:][query % (len(COLORS) - 1)]
        _draw_path(left, paths[:, query], color)
        right.plot(range(steps + 1), heights[:, query], color=color, marker="o", markersize=3)
    if queries.shape[-1] == 2:
        _draw_evidence(left, mixture)
    right.set_ylabel("log p(q), nats")
    _legend(left, "queries", crosses="keys")
    return _finished(left, "Queries under repeated attention", right, "Evidence of each query")


def _axes(queries: Tensor, steps: int, axes: Iterable[Axes] | None) -> tuple[Axes, Axes]:
    if steps < 1:
        raise ValueError(f"steps is {steps}: a path needs at least 1.")
    if queries.shape[-1] < 2:
        raise ValueError("queries have 1 dimension: a path is drawn in a plane, so give 2 or more.")
    left, right = panels(axes, 2, WIDTH, HEIGHT)
    return left, right


def _project(tables: list[Tensor], reference: Tensor) -> list[np.ndarray]:
    """Projection to the first two principal components of ``reference``; the identity in two dimensions."""
    arrays = [numbers(table) for table in (reference, *tables)]
    if reference.shape[-1] == 2:
        return arrays[1:]
    center = arrays[0].mean(0)
    directions = np.linalg.svd(arrays[0] - center, full_matrices=False)[2][:2]
    return [(array - center) @ directions.T for array in arrays[1:]]


def _draw_path(ax: Axes, path: np.ndarray, color: str) -> None:
    ax.plot(*path.T, color=color, linewidth=1.3, zorder=4)
    ax.plot(*path[1:-1].T, ".", color=color, markersize=4, zorder=4)
    ax.plot(*path[0], "o", markersize=6, markerfacecolor="white", markeredgecolor=color, zorder=5)
    ax.plot(*path[-1], "o", markersize=6, color=color, zorder=5)


def _draw_evidence(ax: Axes, mixture: Mixture) -> None:
    """Shade the background by the evidence."""
    ax.margins(MARGIN)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across, up = torch.linspace(left, right, GRID), torch.linspace(bottom, top, GRID)
    mixture = in_dtype(mixture, torch.promote_types(mixture.means.dtype, across.dtype))
    points = torch.cartesian_prod(across, up).to(mixture.means)
    heights = numbers(attend(points, mixture, returns="evidence").reshape(GRID, GRID).T.exp())
    ax.imshow(
        heights,
        extent=(left, right, bottom, top),
        origin="lower",
        cmap=DEPTHS,
        alpha=0.6,
        aspect="auto",
        zorder=0,
        interpolation="bilinear",
    )
    ax.set(xlim=(left, right), ylim=(bottom, top))


def _legend(ax: Axes, moved: str, *, dots: str = "", crosses: str = "") -> None:
    """Say what starts at an open circle and ends at a full one, and what dots and crosses are."""
    handles = [
        _marker("o", FRAME, f"{moved}, start", "white"),
        _marker("o", FRAME, f"{moved}, end"),
        *([_marker(".", FRAME, dots)] if dots else []),
        *([_marker("x", INK, crosses)] if crosses else []),
    ]
    ax.legend(handles=handles, fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3)


def _marker(marker: str, color: str, label: str, face: str | None = None) -> Line2D:
    return Line2D([], [], color=color, marker=marker, linestyle="", markerfacecolor=face or color, label=label)


def _finished(left: Axes, paths: str, right: Axes, objective: str) -> list[Axes]:
    """The axes with their titles, the left one without numbers."""
    left.set_title(paths, loc="left", fontsize="medium", color=INK)
    left.set(xticks=[], yticks=[])
    left.spines[:].set_color(FRAME)
    right.set_xlabel("step")
    right.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return [left, plain(right, objective)]
