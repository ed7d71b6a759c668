"""Rank histograms of simulation-based calibration."""

from collections.abc import Iterable, Sequence
from math import lgamma, log

import numpy as np
from matplotlib.axes import Axes

from ...diagnostics.calibration import Calibration, chosen_quantities
from ..style import COLORS, FRAME, INK, panels, plain

__all__ = ["ranks"]

WIDTH, HEIGHT = 2.9, 2.4  # size of a panel of a new figure, in inches


def ranks(
    calibration: Calibration,
    names: str | Sequence[str] | None = None,
    *,
    bins: int = 10,
    axes: Iterable[Axes] | None = None,
) -> list[Axes]:
    r"""Draw a histogram of the ranks of each quantity, which is flat for a calibrated guide.

    The band is the central 99 % interval of a bin under uniform ranks. A U-shape means that the guide is too narrow, an
    inverted U that it is too wide, a slope that it is biased: towards low values if it rises to the right.

    Arguments:
        calibration: Result of :func:`~pyroformer.diagnostics.calibrate`, or ranks of your own in a
            :class:`~pyroformer.diagnostics.Calibration`.
        names: The quantities; all by default.
        bins: Number of bins, a divisor of the number of ranks.
        axes: Matplotlib axes, one for each quantity; by default those of a new figure.

    Raises:
        ValueError: If a quantity does not exist or there are none, ``bins`` is no divisor of the number of ranks, or
            there are too few axes.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> calibration = pf.diagnostics.Calibration({"z": np.arange(100)}, draws=99)
        >>> (ax,) = ranks(calibration, axes=[Figure().subplots()])
        >>> [int(patch.get_height()) for patch in ax.patches[-3:]]  # of 10 bins of 100 uniform ranks
        [10, 10, 10]
    """
    names = chosen_quantities(calibration, names)
    counts = {name: calibration.counts(name, bins) for name in names}
    drawn = panels(axes, len(names), WIDTH, HEIGHT)
    for ax, name in zip(drawn, names, strict=True):
        _histogram(ax, name, counts[name], calibration, bins)
    drawn[0].set_ylabel(f"of {int(counts[names[0]].sum()):,} simulations" if len(names) == 1 else "simulations")
    return drawn


def _histogram(ax: Axes, name: str, counts: np.ndarray, calibration: Calibration, bins: int) -> None:
    total = int(counts.sum())
    low, high = _band(total, bins)
    ax.axhspan(low, high, color=FRAME, alpha=0.3, linewidth=0)
    ax.axhline(total / bins, color=FRAME, linewidth=1)
    width, p = (calibration.draws + 1) / bins, calibration.p_value(name, bins)
    places = [(index + 0.5) * width - 0.5 for index in range(bins)]
    ax.bar(places, counts, 0.9 * width, color=COLORS[0] if p > 0.01 else COLORS[1], alpha=0.85)
    ax.set(xlabel="rank", ylim=(0, max(1.25 * high, 1.05 * int(counts.max()))))
    label = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
    ax.set_title(f"{name}   {label}", loc="left", fontsize="small", color=INK)
    plain(ax).grid(visible=False)


def _band(total: int, bins: int) -> tuple[int, int]:
    """The central 99 % interval of the count of one of ``bins`` equal bins: binomial quantiles."""
    numbers = np.arange(total + 1)
    choose = np.array([lgamma(total + 1) - lgamma(k + 1) - lgamma(total - k + 1) for k in numbers])
    below = np.exp(choose - numbers * log(bins) + (total - numbers) * log(1 - 1 / bins)).cumsum()
    return int((below < 0.005).sum()), int((below < 0.995).sum())
