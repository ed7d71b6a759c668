"""Prior and posterior intervals of all entries of a variable."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ...posterior.arviz_compat import ArviZData
from ..style import COLORS, GRAY, INK, WORDS, new_axes, plain, printable
from .prior_posterior import entries, own_dims

__all__ = ["intervals"]

WIDTH, ROW = 6.0, 0.24  # of a new figure and of an entry in it, in inches
MOST = 60  # entries that have room
APART = 0.17  # of a row, between the two intervals and its middle
TAIL = 0.05


def intervals(
    data: ArviZData, name: str, where: Mapping[str, Any] | None = None, *, ordered: bool = False, ax: Axes | None = None
) -> Axes:
    r"""Draw the central 90 % interval and the median of each entry of a variable, before and after the data.

    Gray is the prior, blue the posterior, as in :func:`prior_posterior`, which draws the densities of one entry.

    Arguments:
        data: Prior and posterior draws from :func:`~pyroformer.to_arviz` or
            :func:`~pyroformer.inference.posterior.global_latents.global_posterior`.
        name: The variable.
        where: Entries to select, by dimension, such as ``{"text": "the text"}``.
        ordered: Whether the entry with the largest posterior median comes first, in place of their own order.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there are no prior draws, the variable or entry does not exist, several dimensions are left, or
            there are over 60 entries.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> from pyroformer.inference.posterior.arviz_compat import from_groups
        >>> import xarray
        >>> draws = xarray.Dataset({"share": (("chain", "draw", "cloud"), np.random.rand(1, 50, 3))})
        >>> ax = intervals(from_groups({"prior": draws, "posterior": draws}, {}), "share", ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['0', '1', '2']
    """
    drawn = entries(data, name, where)
    values = drawn["posterior"]
    dims = own_dims(values)
    rest = [dim for dim in dims if values.sizes[dim] > 1] or dims[-1:]
    if len(rest) != 1:
        along = f"its entries along {', '.join(rest)}: leave one dimension by where={{...}}"
        raise ValueError(f"{name} has {along if rest else 'one entry: draw it with pf.plots.prior_posterior'}.")
    count = values.sizes[rest[0]]
    if count > MOST:
        raise ValueError(f"{name} has {count} entries, and {MOST} have room: select some of them first.")
    labels = [printable(str(label)) for label in (values[rest[0]].values if rest[0] in values.coords else range(count))]
    low_middle_high = {group: _quantiles(draws.transpose(..., rest[0]).values) for group, draws in drawn.items()}
    order = np.argsort(-low_middle_high["posterior"][1], kind="stable") if ordered else np.arange(count)
    ax = new_axes(WIDTH, 0.9 + ROW * count)[0] if ax is None else ax
    for group, color, shift in (("prior", GRAY, -APART), ("posterior", COLORS[0], APART)):
        low, middle, high = low_middle_high[group][:, order]
        ax.hlines(np.arange(count) + shift, low, high, color=color, linewidth=2)
        ax.plot(middle, np.arange(count) + shift, "o", color=color, markersize=4, label=group)
    ax.set_yticks(range(count), [labels[index] for index in order], fontsize="small", **WORDS)
    ax.set(ylim=(count - 0.4, -0.6))
    if not rest[0].startswith(f"{name}_dim_"):  # a dimension without a name of its own
        ax.set_ylabel(printable(rest[0]))
    ax.set_xlabel(f"{name}: median and central 90 %", color=INK)
    ax.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return plain(ax)


def _quantiles(draws: Float[np.ndarray, "*draws n"]) -> Float[np.ndarray, "3 n"]:
    return np.nanquantile(draws.reshape(-1, draws.shape[-1]), [TAIL, 0.5, 1 - TAIL], axis=0)
