"""Where EM takes keys, and where attention again and again takes a query, with what rises on the way."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ...models.attention.attend import attend
from ...models.attention.mixture import Mixture
from ..em import adapt
from .style import COLORS, DEPTHS, FRAME, INK, new_axes, plain

__all__ = ["key_paths", "query_paths"]

WIDTH, HEIGHT = 4.4, 3.8  # of a panel of a figure of our own, in inches
FIELD = 60  # points of the evidence's field along each side
MARGIN = 0.15  # of the field beyond what is drawn in it


def key_paths(
    queries: Float[Tensor, "m d"],
    mixture: Mixture,
    *,
    steps: int = 12,
    axes: Iterable[Axes] | None = None,
    **options: Any,
) -> list[Axes]:
    r"""Draw the way of each key over the steps of EM, beside its objective :math:`J`, which never falls.

    Open circles are where keys start, full ones where they end, dots are the queries that they explain. With more than
    two dimensions, what is drawn are the two along which queries vary most.

    Arguments:
        queries: The queries.
        mixture: Where EM starts: one bank of keys.
        steps: How many steps.
        axes: Two axes to draw into; by default those of a new figure of pyplot's.
        options: Others of :func:`~pyroformer.inference.em.adapt`.

    Raises:
        ValueError: If there are no steps, too few axes, or vectors of one dimension.
    """
    left, right = _axes(queries, steps, axes)
    states = [adapt(queries, mixture, steps=count, **options) for count in range(steps + 1)]
    seen, *banks = _flat([queries, *(state.mixture.means for state in states)], queries)
    left.scatter(seen[:, 0], seen[:, 1], s=9, color=FRAME, alpha=0.6, linewidths=0, label="queries")
    way = np.stack(banks)
    for number in range(way.shape[1]):
        _draw_way(left, way[:, number], COLORS[number % len(COLORS)])
    left.set_title("Keys over the steps of EM", loc="left", fontsize="medium", color=INK)
    objective = states[-1].objective.cpu().numpy()
    right.plot(range(len(objective)), objective, color=COLORS[0], marker="o", markersize=3)
    right.set_ylabel("objective J, nats up to a constant")
    right.set_title("What rises", loc="left", fontsize="medium", color=INK)
    return _finished(left, right)


def query_paths(
    queries: Float[Tensor, "m d"], mixture: Mixture, *, steps: int = 12, axes: Iterable[Axes] | None = None
) -> list[Axes]:
    r"""Draw the way of each query if attention is repeated, beside its evidence, which never falls.

    .. math::
        q \leftarrow \sum_n w_n(q) \, \mu_n

    is EM for the most probable vector, which is mean-shift: each query climbs to a mode of the mixture. The shades are
    the evidence :math:`\log p(q)`, where there are two dimensions; keys are crosses, as large as they weigh.

    Arguments:
        queries: Where to start; a few, each has a color.
        mixture: Keys without variances of their own, as softmax attention has them.
        steps: How often attention is applied.
        axes: Two axes to draw into; by default those of a new figure of pyplot's.

    Raises:
        ValueError: If keys have variances or other values, there are no steps, too few axes, or vectors of one
            dimension.

    References:
        Mean Shift, Mode Seeking, and Clustering (Cheng, 1995), https://doi.org/10.1109/34.400568
    """
    if mixture.variances is not None or mixture.values is not None:
        raise ValueError("the keys have variances or values of their own: give a Mixture of log weights and vectors.")
    left, right = _axes(queries, steps, axes)
    way, evidence = [queries], [attend(queries, mixture, returns="evidence")]
    for _ in range(steps):
        way.append(attend(way[-1], mixture))
        evidence.append(attend(way[-1], mixture, returns="evidence"))
    keys, *places = _flat([mixture.means, *way], torch.cat([queries, mixture.means]))
    paths, heights = np.stack(places), torch.stack(evidence).detach().cpu().numpy()
    weights = mixture.log_weights.softmax(-1).detach().cpu().numpy()
    left.scatter(keys[:, 0], keys[:, 1], s=20 + 150 * weights, marker="x", color=INK, linewidths=1.2, zorder=3)
    for number in range(paths.shape[1]):
        color = COLORS[1:][number % (len(COLORS) - 1)]
        _draw_way(left, paths[:, number], color)
        right.plot(range(steps + 1), heights[:, number], color=color, marker="o", markersize=3)
    if queries.shape[-1] == 2:
        _draw_field(left, mixture)
    left.set_title("Queries, attended to again and again", loc="left", fontsize="medium", color=INK)
    right.set_ylabel("evidence log p(q), nats")
    right.set_title("What rises", loc="left", fontsize="medium", color=INK)
    return _finished(left, right)


def _axes(queries: Tensor, steps: int, axes: Iterable[Axes] | None) -> tuple[Axes, Axes]:
    if steps < 1:
        raise ValueError(f"steps is {steps}: a path needs at least 1.")
    if queries.shape[-1] < 2:
        raise ValueError("queries have 1 dimension: a path is drawn in a plane, so give 2 or more.")
    chosen = new_axes(2 * WIDTH, HEIGHT, 2) if axes is None else list(axes)
    if len(chosen) < 2:
        raise ValueError(f"{len(chosen)} axes were given for 2 panels: give 2, or none.")
    return chosen[0], chosen[1]


def _flat(tables: list[Tensor], spread: Tensor) -> list[np.ndarray]:
    """Rows in the plane along which ``spread`` varies most; as they are, if they lie in a plane already."""
    arrays = [table.detach().cpu().double().numpy() for table in (spread, *tables)]
    if spread.shape[-1] == 2:
        return arrays[1:]
    center = arrays[0].mean(0)
    directions = np.linalg.svd(arrays[0] - center, full_matrices=False)[2][:2]
    return [(array - center) @ directions.T for array in arrays[1:]]


def _draw_way(ax: Axes, way: np.ndarray, color: str) -> None:
    ax.plot(*way.T, color=color, linewidth=1.3, zorder=4)
    ax.plot(*way[1:-1].T, ".", color=color, markersize=4, zorder=4)
    ax.plot(*way[0], "o", markersize=6, markerfacecolor="white", markeredgecolor=color, zorder=5)
    ax.plot(*way[-1], "o", markersize=6, color=color, zorder=5)


def _draw_field(ax: Axes, mixture: Mixture) -> None:
    """The evidence as shades behind what is drawn already."""
    ax.margins(MARGIN)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across, up = torch.linspace(left, right, FIELD), torch.linspace(bottom, top, FIELD)
    points = torch.cartesian_prod(across, up).to(mixture.means)
    heights = attend(points, mixture, returns="evidence").reshape(FIELD, FIELD).T.exp().detach().cpu().numpy()
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


def _finished(left: Axes, right: Axes) -> list[Axes]:
    left.set(xticks=[], yticks=[])
    left.spines[:].set_color(FRAME)
    right.set_xlabel("step")
    right.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return [left, plain(right)]
