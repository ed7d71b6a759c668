"""Prior and posterior densities of a scalar."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from ..posterior.arviz_compat import ArviZData, dataset
from .style import COLORS, FRAME, INK, new_axes, plain

__all__ = ["prior_posterior"]

WIDTH, HEIGHT = 5.2, 3.4  # size of a new figure, in inches
MOST_BINS = 50
TAIL = 0.01  # fraction of the prior draws beyond the axis, on either side
SPREAD = 50  # ratio of values above which the axis is logarithmic
SHADOW = "#7b8794"


def prior_posterior(
    data: ArviZData, name: str, where: Mapping[str, Any] | None = None, *, ax: Axes | None = None
) -> Axes:
    r"""Draw the prior and posterior densities of a scalar, such as a concentration.

    The bar is the central 90 % interval of the posterior, the dot its median. If the two densities are equal, the data
    is uninformative. Positive values over several orders of magnitude have a logarithmic axis and densities of the
    logarithm.

    Arguments:
        data: Prior and posterior draws from :func:`~pyroformer.to_arviz` or
            :func:`~pyroformer.inference.posterior.global_latents.global_posterior`.
        name: The variable.
        where: One entry of it, by dimension, such as ``{"text": "the text", "component": 0}``.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the variable or entry does not exist, or ``where`` leaves several entries.
    """
    before, after = (_draws(data, group, name, where) for group in ("prior", "posterior"))
    both = np.concatenate([before, after])
    logarithmic = bool(both.min() > 0) and np.quantile(both, 1 - TAIL) > SPREAD * np.quantile(both, TAIL)
    if logarithmic:
        before, after, both = np.log10(before), np.log10(after), np.log10(both)
    low = min(np.quantile(before, TAIL), after.min())
    high = max(np.quantile(before, 1 - TAIL), after.max())
    count = min(MOST_BINS, max(10, round(1.5 * len(after) ** 0.5)))
    bins = np.linspace(low, high if high > low else low + 1, count + 1)
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    for values, color, label in ((before, SHADOW, "prior"), (after, COLORS[0], "posterior")):
        heights, _ = np.histogram(values, bins)
        density = heights / len(values) / np.diff(bins)
        ax.stairs(density, bins, fill=True, color=color, alpha=0.25)
        ax.stairs(density, bins, color=color, linewidth=1.5, label=label)
    left, middle, right = np.quantile(after, [0.05, 0.5, 0.95])
    top = ax.get_ylim()[1]
    ax.plot([left, right], [-0.04 * top] * 2, color=INK, linewidth=2, solid_capstyle="butt")
    ax.plot(middle, -0.04 * top, "o", color=INK, markersize=5)
    ax.axhline(0, color=FRAME, linewidth=0.8)
    ax.set(xlabel=_label(name, where), ylabel="density", ylim=(-0.08 * top, top), yticks=[])
    if logarithmic:
        decades = np.arange(np.floor(low), np.ceil(high) + 1)
        ax.xaxis.set_major_locator(FixedLocator([*decades, *(decades + np.log10(3))]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.3g}"))
        ax.set_ylabel("density of the logarithm")
    median = 10**middle if logarithmic else middle
    ax.set_title(f"median {median:.3g}, and the central 90 %", loc="left", fontsize="medium", color=INK)
    ax.legend(fontsize="small", frameon=False, loc="upper right")
    return plain(ax)


def _draws(data: ArviZData, group: str, name: str, where: Mapping[str, Any] | None) -> Float[np.ndarray, " S"]:
    variables = dataset(data, group)
    if name not in variables:
        raise ValueError(f"there is no variable {name!r} in {group}: choose among {', '.join(map(str, variables))}.")
    try:
        values = variables[name].sel(where or {})
    except (KeyError, IndexError) as error:
        raise ValueError(f"{name} has no entry {dict(where or {})}: {error.args[0]}.") from error
    if rest := [dim for dim in values.dims if dim not in ("chain", "draw")]:
        raise ValueError(f"{name} has several entries, along {', '.join(rest)}: select one with where={{...}}.")
    draws = values.values.ravel()
    return draws[np.isfinite(draws)].astype(float)


def _label(name: str, where: Mapping[str, Any] | None) -> str:
    return name if not where else f"{name}[{', '.join(map(str, where.values()))}]"
