"""Prior and posterior densities of a scalar."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from ....models.utils.numbers import plain_number
from ...posterior.arviz_compat import ArviZData, dataset, group_names
from ..style import COLORS, FRAME, GRAY, INK, new_axes, plain

__all__ = ["entries", "own_dims", "prior_posterior"]

WIDTH, HEIGHT = 5.2, 3.4  # size of a new figure, in inches
MOST_BINS = 50
TAIL = 0.01  # fraction of the prior draws beyond the axis, on either side
SPREAD = 50  # ratio of values above which the axis is logarithmic
TICKS = 7  # at most, on a logarithmic axis
WIDEST = 0.02  # of the bins of a single value, relative to it


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
        ValueError: If there are no prior draws, the variable or entry does not exist, or ``where`` leaves several.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> import xarray
        >>> from pyroformer.inference.posterior.arviz_compat import from_groups
        >>> draws = xarray.Dataset({"share": (("chain", "draw", "cloud"), np.random.rand(1, 50, 3))})
        >>> data = from_groups({"prior": draws, "posterior": draws}, {})
        >>> ax = prior_posterior(data, "share", {"cloud": 1}, ax=Figure().subplots())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['prior', 'posterior']
    """
    before, after = (_draws(name, values) for values in entries(data, name, where).values())
    both = np.concatenate([before, after])
    logarithmic = bool(both.min() > 0) and np.quantile(both, 1 - TAIL) > SPREAD * np.quantile(both, TAIL)
    if logarithmic:
        before, after, both = np.log10(before), np.log10(after), np.log10(both)
    low = min(np.quantile(before, TAIL), after.min())
    high = max(np.quantile(before, 1 - TAIL), after.max())
    ranges = {"prior": (low, high), "posterior": (after.min(), after.max())}  # bins of its own show a sharp posterior
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    for values, color, label in ((before, GRAY, "prior"), (after, COLORS[0], "posterior")):
        bins = _bins(*ranges[label], len(values))
        density = np.histogram(values, bins)[0] / len(values) / np.diff(bins)
        ax.stairs(density, bins, fill=True, color=color, alpha=0.25)
        ax.stairs(density, bins, color=color, linewidth=1.5, label=label)
    left, middle, right = np.quantile(after, [0.05, 0.5, 0.95])
    top = ax.get_ylim()[1]
    ax.plot([left, right], [-0.04 * top] * 2, color=INK, linewidth=2, solid_capstyle="butt")
    ax.plot(middle, -0.04 * top, "o", color=INK, markersize=5)
    ax.axhline(0, color=FRAME, linewidth=0.8)
    ax.set(xlabel=_label(name, where), ylabel="density", ylim=(-0.08 * top, top), yticks=[])
    if logarithmic:
        ax.xaxis.set_major_locator(FixedLocator(_decades(low, high).tolist()))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:.3g}"))
        ax.set_ylabel("density of the logarithm")
    median = 10**middle if logarithmic else middle
    ax.legend(fontsize="small", frameon=False, loc="upper right")
    return plain(ax, f"posterior median {median:.3g}, and the central 90 %")


def _bins(low: float, high: float, count: int) -> Float[np.ndarray, " edges"]:
    """The edges of bins for so many draws, by the rule of Rice; of one value, around it."""
    if not high > low:
        low, high = low - 0.5 * WIDEST * (abs(low) or 1), low + 0.5 * WIDEST * (abs(low) or 1)
    return np.linspace(low, high, min(MOST_BINS, max(10, round(2 * count ** (1 / 3)))) + 1)


def _decades(low: float, high: float) -> Float[np.ndarray, " ticks"]:
    """At most ``TICKS`` powers of ten as logarithms, and three times each where there is room.

    Examples:
        >>> _decades(-0.2, 1.4).round(2).tolist()
        [-1.0, -0.52, 0.0, 0.48, 1.0, 1.48, 2.0, 2.48]
        >>> _decades(-30.0, 2.0).tolist()
        [-30.0, -25.0, -20.0, -15.0, -10.0, -5.0, 0.0]
    """
    first, last = int(np.floor(low)), int(np.ceil(high))
    step = max(1, -(-(last - first) // TICKS))
    powers = np.arange(-(-first // step) * step, last + 1, step).astype(float)
    return powers if last - first > TICKS // 2 else np.sort([*powers, *(powers + np.log10(3))])


def entries(data: ArviZData, name: str, where: Mapping[str, Any] | None = None) -> dict[str, xarray.DataArray]:
    """The prior and the posterior draws of a variable, of the entries that ``where`` selects by label or number.

    Entries that a short text does not have are left out.

    Raises:
        ValueError: If there are no prior draws, or the variable or entry does not exist.
    """
    if "prior" not in group_names(data):
        raise ValueError("the data has no prior draws: export it with include_prior=True, the default.")
    drawn = {group: _selected(data, group, name, where or {}) for group in ("prior", "posterior")}
    before, after = (values.notnull().any(("chain", "draw")) for values in drawn.values())
    present = before & after
    if not present.any():
        place = ", ".join(f"{dim} {value!r:.40}" for dim, value in (where or {}).items())
        raise ValueError(f"{name} has no numbers at {place or 'any entry'}: select an entry that the text has.")
    return {group: values.where(present, drop=True) for group, values in drawn.items()}


def own_dims(values: xarray.DataArray) -> list[str]:
    """The dimensions of a variable itself, without those of draws."""
    return [str(dim) for dim in values.dims if dim not in ("chain", "draw")]


def _selected(data: ArviZData, group: str, name: str, where: Mapping[str, Any]) -> xarray.DataArray:
    variables = dataset(data, group)
    if name not in variables:
        raise ValueError(f"there is no variable {name!r} in {group}: choose among {', '.join(map(str, variables))}.")
    values = variables[name]
    dims = own_dims(values)
    for dim, value in where.items():
        if dim not in dims:
            raise ValueError(f"{name} has no dimension {dim!r}: choose among {', '.join(dims) or 'none'}.")
        labels = values[dim].values
        try:
            values = values.isel({dim: value}) if _is_place(labels, value) else values.sel({dim: value})
        except (KeyError, IndexError):
            first, last = (f"{plain_number(labels[end])!r:.40}" for end in (0, -1))
            raise ValueError(f"{name} has no {dim} {value!r}: it has {len(labels)}, {first} to {last}.") from None
    return values


def _draws(name: str, values: xarray.DataArray) -> Float[np.ndarray, " S"]:
    if rest := [dim for dim in own_dims(values) if values.sizes[dim] > 1]:
        raise ValueError(
            f"{name} has several entries, along {', '.join(rest)}: select one with where={{...}}, or draw them all "
            "with pf.plots.intervals."
        )
    draws = values.values.ravel()
    return draws[np.isfinite(draws)].astype(float)


def _is_place(labels: np.ndarray, value: object) -> bool:
    """Whether a value is the number of an entry of a dimension whose labels are strings, such as tokens."""
    return isinstance(value, int | np.integer) and labels.dtype.kind in "UO"


def _label(name: str, where: Mapping[str, Any] | None) -> str:
    return name if not where else f"{name}[{', '.join(map(str, where.values()))}]"
