"""Ranks of simulation-based calibration."""

from collections.abc import Iterable, Sequence
from math import ceil, lgamma, log

import numpy as np
from matplotlib.axes import Axes

from ..diagnostics.calibration import Calibration
from .style import COLORS, FRAME, INK, new_axes, plain

__all__ = ["ranks"]

WIDTH, HEIGHT = 2.9, 2.4  # of a panel of a figure of our own, in inches
COLUMNS = 4


def ranks(
    calibration: Calibration,
    names: Sequence[str] | None = None,
    *,
    bins: int = 10,
    axes: Iterable[Axes] | None = None,
) -> list[Axes]:
    r"""Draw a histogram of the ranks of each quantity; a calibrated guide leaves it flat.

    The band holds 99 % of what a bin of a flat one would have. A bowl is a guide that is too narrow, a hill one that is
    too wide, a slope one that is off to a side: up to the right, the truth lies above what the guide says.

    Arguments:
        calibration: What :func:`~pyroformer.inference.diagnostics.calibrate` found.
        names: Which quantities; all by default.
        bins: How many bins; they must divide the number of ranks.
        axes: Axes to draw into, one for each quantity; by default those of a new figure of pyplot's.

    Raises:
        ValueError: If there is no such quantity, the bins do not divide the ranks, or there are too few axes.
    """
    names = list(calibration.ranks) if names is None else list(names)
    counts = {name: calibration.counts(name, bins) for name in names}
    if axes is None:
        columns = min(COLUMNS, len(names))
        chosen = new_axes(WIDTH * columns, HEIGHT * ceil(len(names) / columns), columns, ceil(len(names) / columns))
    else:
        chosen = list(axes)
    if len(chosen) < len(names):
        raise ValueError(f"{len(chosen)} axes were given for {len(names)} quantities: give one for each, or none.")
    for ax in chosen[len(names) :] if axes is None else []:
        ax.set_axis_off()
    for ax, name in zip(chosen, names, strict=False):
        total = int(counts[name].sum())
        low, high = _band(total, bins)
        ax.axhspan(low, high, color=FRAME, alpha=0.3, linewidth=0)
        ax.axhline(total / bins, color=FRAME, linewidth=1)
        width = (calibration.draws + 1) / bins
        color = COLORS[0] if calibration.p_value(name, bins) > 0.01 else COLORS[1]
        places = [(number + 0.5) * width - 0.5 for number in range(bins)]
        ax.bar(places, counts[name], 0.9 * width, color=color, alpha=0.85)
        ax.set(xlabel="rank", ylim=(0, max(1.25 * high, 1.05 * int(counts[name].max()))))
        p = calibration.p_value(name, bins)
        shown = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
        ax.set_title(f"{name}   {shown}", loc="left", fontsize="small", color=INK)
        plain(ax).grid(visible=False)
    chosen[0].set_ylabel(f"of {total:,} simulations" if len(names) == 1 else "simulations")
    return chosen[: len(names)]


def _band(total: int, bins: int) -> tuple[int, int]:
    """The middle 99 % of the number that falls into one of so many equal bins: binomial quantiles."""
    numbers = np.arange(total + 1)
    choose = np.array([lgamma(total + 1) - lgamma(k + 1) - lgamma(total - k + 1) for k in numbers])
    below = np.exp(choose - numbers * log(bins) + (total - numbers) * log(1 - 1 / bins)).cumsum()
    return int((below < 0.005).sum()), int((below < 0.995).sum())
