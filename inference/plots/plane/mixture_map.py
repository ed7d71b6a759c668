"""Maps of the plane: the evidence of a query, and the responsibilities of components for it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from ....models.attention.bayes_rule import evidence, responsibilities
from ....models.attention.mixture import Mixture, in_dtype
from ....models.utils.numbers import plain_number
from ..style import COLORS, DEPTHS, INK, new_axes
from .arrays import as_array, in_plane, numbers

__all__ = ["mixture_map"]

WIDTH, HEIGHT = 5.0, 3.8  # size of a new figure, in inches
GRID = 121  # points along each side
NATS = 12  # below the largest evidence that have a shade of their own
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0)

Shows = Literal["evidence", "largest weight"]


def mixture_map(
    mixture: Mixture,
    shows: Shows | int = "evidence",
    *,
    points: Mapping[str, Float[Tensor, "2"] | Sequence[float]] | None = None,
    names: Sequence[str] = (),
    within: tuple[float, float, float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw what a query at each place of the plane would get from a mixture.

    .. math::
        \log p(u), \qquad \max_n w_n(u), \qquad \text{or} \quad w_n(u) \text{ of one component}

    White dots are the means of the components. The responsibility of one component has a line where it is one half.

    Arguments:
        mixture: A mixture of vectors in the plane, without batch dimensions and values.
        shows: ``"evidence"``, ``"largest weight"``, or the index of a component.
        points: Places to mark, by name.
        names: Names of the components; by default they have none.
        within: Left, right, bottom and top of the map; by default around components and points.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If vectors are not in the plane, there is no such component, ``shows`` is not one of the choices,
            the names are not as many as the components, or a point or ``within`` is none.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> mixture = pf.Mixture(torch.zeros(2), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 1))
        >>> mixture_map(mixture, "largest weight", ax=Figure().subplots()).get_title(loc="left")
        'Largest attention weight'
    """
    plane, shows = in_plane(mixture), plain_number(shows)
    _check(mixture, shows, names)
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    marked = {name: as_array(f"the point {name!r}", place, 2) for name, place in (points or {}).items()}
    places = np.array([*marked.values()]).reshape(-1, 2)
    left, right, bottom, top = plane.extent(places) if within is None else _checked(within)
    across, up = torch.linspace(left, right, GRID), torch.linspace(bottom, top, GRID)
    mixture = in_dtype(mixture, torch.promote_types(mixture.means.dtype, across.dtype))
    grid = torch.cartesian_prod(up, across).flip(-1).to(mixture.means)
    heights, levels, title = _heights(grid, mixture, shows)
    options: dict[str, Any] = {"extend": "min"} if shows == "evidence" else {}
    table = numbers(heights).reshape(GRID, GRID)
    filled = ax.contourf(across, up, table, levels, cmap=DEPTHS, **options)
    if isinstance(shows, int):
        ax.contour(across, up, table, [0.5], colors=[COLORS[1]])
    ax.figure.colorbar(filled, cax=ax.inset_axes((1.03, 0.0, 0.05, 1.0)))  # as high as the map, whatever its shape
    ax.plot(*plane.means.T, "o", color="white", markeredgecolor=INK, markersize=6)
    for name, place in [*zip(names, plane.means, strict=False)]:
        _name(ax, name, place)
    for name, place in marked.items():
        ax.plot(*place, "o", color=COLORS[1], markersize=6)
        _name(ax, name, place)
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_title(title, loc="left", fontsize="medium", color=INK)
    return ax


def _heights(grid: Tensor, mixture: Mixture, shows: Shows | int) -> tuple[Tensor, list[float], str]:
    """The value at each point, the borders between shades, and the title."""
    if shows == "evidence":
        heights = evidence(grid, mixture)
        top = int(np.ceil(float(heights.max())))
        return heights, [float(level) for level in range(top - NATS, top + 1)], r"Evidence, $\log p(u)$"
    weights = responsibilities(grid, mixture)
    if isinstance(shows, int):
        return weights[:, shows], [*SHARES[:10], 1.0], "Responsibility of a component"
    least = float(weights.amax(-1).min())
    return weights.amax(-1), [x for x in SHARES if x > least - 0.1], "Largest attention weight"


def _name(ax: Axes, name: str, place: Float[np.ndarray, "2"]) -> None:
    """A name under a point, readable on any shade."""
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
    ax.annotate(
        name, (place[0], place[1]), (0, -15), textcoords="offset points", ha="center", color=INK, fontsize="small",
        bbox=box,
    )  # fmt: skip


def _check(mixture: Mixture, shows: Shows | int, names: Sequence[str]) -> None:
    if isinstance(shows, bool) or not isinstance(shows, int):
        if shows not in get_args(Shows):
            raise ValueError(f"shows is {shows!r}: give 'evidence', 'largest weight' or the index of a component.")
    elif not 0 <= shows < mixture.components:
        raise ValueError(f"shows is {shows}: the mixture has components 0 to {mixture.components - 1}.")
    if names and len(names) != mixture.components:
        raise ValueError(f"there are {len(names)} names for {mixture.components} components: give one for each.")


def _checked(within: Sequence[float]) -> list[float]:
    """Left, right, bottom and top."""
    left, right, bottom, top = as_array("within", within, 4).tolist()
    if left >= right or bottom >= top:
        raise ValueError(f"within is {tuple(within)}: give left, right, bottom and top, each pair in its order.")
    return [left, right, bottom, top]
