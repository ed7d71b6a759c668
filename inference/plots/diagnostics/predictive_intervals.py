"""Plot of a predictive check: statistics of real texts among those of generated texts."""

import numpy as np
from matplotlib.axes import Axes

from ...diagnostics.predictive_checks import PredictiveCheck
from ..style import COLORS, FAMILIES, FRAME, INK, new_axes, plain, printable

__all__ = ["predictive"]

ROW = 0.3  # height of a statistic, in inches
FAR = 8.0  # standard deviations beyond which a value is drawn as an arrow at the edge
SHADOW = "#7b8794"


def predictive(check: PredictiveCheck, *, ax: Axes | None = None) -> Axes:
    r"""Draw each statistic of real texts among those of generated sets, in standard deviations of the sets.

    Dots are generated sets, the diamond the real one; on the right are the real value and the mean of the sets. The
    diamond is orange if its tail probability is below 0.025 or above 0.975. With fewer than 20 sets the tail
    probability cannot be that extreme, and the diamond stays blue.

    Arguments:
        check: Result of :func:`~pyroformer.diagnostics.check_texts`.
        ax: Matplotlib axes; by default those of a new figure.
    """
    count = len(check.names)
    ax = new_axes(7.6, 1.1 + ROW * count)[0] if ax is None else ax
    mean, spread = check.replicated.mean(0), check.replicated.std(0, ddof=1)
    scaled = (check.replicated - mean) / np.where(spread > 0, spread, np.nan)
    shift = np.random.default_rng(0).uniform(-0.22, 0.22, check.replicated.shape)
    for row in range(count):
        ax.scatter(scaled[:, row], row + shift[:, row], s=8, color=SHADOW, alpha=0.5, linewidths=0, zorder=2)
        z, tail = check.scaled[row], check.tail[row]
        color = COLORS[0] if 0.025 <= tail <= 0.975 else COLORS[1]
        marker = "D" if not abs(z) > FAR else (">" if z > 0 else "<")
        if np.isfinite(z):
            ax.plot(np.clip(z, -FAR, FAR), row, marker, color=color, markersize=6, zorder=3)
        numbers = f"{check.observed[row]:.3g}  |  {mean[row]:.3g}"
        ax.text(1.02, row, numbers, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=INK)
    ax.text(
        1.02, -1.0, "real  |  generated", transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=INK
    )
    ax.axvline(0, color=FRAME, linewidth=1)
    edge = min(FAR, max(4.0, np.nanmax(np.abs(check.scaled), initial=0.0))) + 0.6
    ax.set_yticks(range(count), map(printable, check.names), fontsize="small", parse_math=False, family=FAMILIES)
    ax.set(xlim=(-edge, edge), ylim=(count - 0.4, -1.4))
    ax.set_xlabel("standard deviations from the mean of the generated sets")
    ax.plot([], [], "D", color=COLORS[0], markersize=6, label=f"{check.texts} real texts")
    ax.scatter([], [], s=8, color=SHADOW, label=f"{len(check.replicated)} sets of as many generated texts")
    ax.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return plain(ax)
