"""Coverage of a guide's intervals."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ...diagnostics.calibration import Calibration, chosen_quantities
from ..style import COLORS, FRAME, new_axes, plain

__all__ = ["coverage"]

WIDTH, HEIGHT = 6.0, 4.0  # size of a new figure, in inches
LEVELS = 41  # at most


def coverage(calibration: Calibration, names: str | Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
    r"""Draw how many of the true values lie in the guide's central interval of each level.

    .. math::
        \frac1n \sum_i 1 \left\{ \left| \frac{2 r_i + 1}{L + 1} - 1 \right| \le \text{level} \right\}

    On the diagonal, intervals contain the truth as often as they promise; the band is two standard errors around it.
    A line below it means that the guide is too narrow or biased, one above it that it is too wide. The levels are
    those that intervals between draws can have.

    Arguments:
        calibration: Result of :func:`~pyroformer.diagnostics.calibrate`, or ranks of your own in a
            :class:`~pyroformer.diagnostics.Calibration`.
        names: The quantities; all by default.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If a quantity does not exist, or there are none.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ranks = {"exact": np.arange(100), "half as wide": np.clip(2 * np.arange(100) - 50, 0, 99)}
        >>> ax = coverage(pf.diagnostics.Calibration(ranks, draws=99), ax=Figure().subplots())
        >>> [float(line.get_ydata()[20]) for line in ax.lines]  # of the intervals of 50 %
        [0.5, 0.25]
    """
    names = chosen_quantities(calibration, names)
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    smooth = np.linspace(0, 1, LEVELS)
    error = 2 * np.sqrt(smooth * (1 - smooth) / min(len(calibration.ranks[name]) for name in names))
    band = (np.clip(smooth - error, 0, 1), np.clip(smooth + error, 0, 1))
    ax.fill_between(smooth, *band, color=FRAME, alpha=0.3, linewidth=0, label="exact, ± 2 standard errors")
    levels = _levels(calibration.draws)
    for index, name in enumerate(names):
        inside = [calibration.coverage(name, float(level)) for level in levels]
        ax.plot(levels, inside, color=COLORS[index % len(COLORS)], label=name)
    ax.set(xlabel="level of the interval", ylabel="true values inside", aspect="equal", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return plain(ax, "Coverage of the guide's intervals")


def _levels(draws: int) -> Float[np.ndarray, " n"]:
    r"""The levels :math:`1 - 2 j / (L + 1)` of central intervals between :math:`L` draws, at most ``LEVELS`` of them.

    At any other level an exact guide is off by up to :math:`2 / (L + 1)`.

    Examples:
        >>> _levels(4).tolist(), _levels(5).round(2).tolist()
        ([0.2, 0.6, 1.0], [0.0, 0.33, 0.67, 1.0])
    """
    all_levels = np.arange((draws + 1) % 2, draws + 2, 2) / (draws + 1)
    return all_levels[np.linspace(0, len(all_levels) - 1, min(len(all_levels), LEVELS)).round().astype(int)]
