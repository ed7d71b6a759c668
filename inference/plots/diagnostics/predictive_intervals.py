"""Plot of a predictive check: statistics of real texts among those of generated texts."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ...diagnostics.predictive_checks import PredictiveCheck
from ..style import COLORS, FRAME, GRAY, INK, WORDS, new_axes, plain, printable

__all__ = ["predictive"]

ROW = 0.3  # height of a statistic, in inches
FAR = 8.0  # standard deviations beyond which a value is drawn as an arrow at the edge
LEVEL = 0.05  # p-value up to which a diamond is orange
REAL, UNLIKE = COLORS[0], COLORS[1]


def predictive(check: PredictiveCheck, *, ax: Axes | None = None) -> Axes:
    r"""Draw each statistic of real texts among those of generated sets, in standard deviations of the sets.

    Dots are generated sets, the diamond the real one, an arrow where it is far away or differs from sets that are all
    equal; on the right are the real value and the mean of the sets. The diamond is orange if the two-sided p-value of
    :class:`~pyroformer.diagnostics.PredictiveCheck` is at most 0.05: under a perfect model one in twenty is, by chance.
    With fewer than 39 sets no p-value is that small, and every diamond is blue.

    Arguments:
        check: Result of :func:`~pyroformer.diagnostics.check_texts`.
        ax: Matplotlib axes; by default those of a new figure.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> check = pf.diagnostics.PredictiveCheck(["length"], np.array([5.0]), np.random.rand(39, 1), texts=10)
        >>> [label.get_text() for label in predictive(check, ax=Figure().subplots()).get_yticklabels()]
        ['length']
    """
    count, sets = len(check.names), len(check.replicated)
    ax = new_axes(7.6, 1.1 + ROW * count)[0] if ax is None else ax
    mean = check.replicated.mean(0)
    scaled = (check.replicated - mean) / np.where(check.spread > 0, check.spread, np.inf)
    real = _places(check)
    shift = np.random.default_rng(0).uniform(-0.22, 0.22, check.replicated.shape)
    for row, (z, p) in enumerate(zip(real, check.p_value, strict=True)):
        marker = "D" if abs(z) <= FAR else (">" if z > 0 else "<")
        color = UNLIKE if p <= LEVEL else REAL
        ax.plot(np.clip(z, -FAR, FAR), row, marker, color=color, markersize=7, fillstyle="none", markeredgewidth=1.8)
        ax.scatter(scaled[:, row], row + shift[:, row], s=8, color=GRAY, alpha=0.6, linewidths=0, zorder=3)
        numbers = f"{check.observed[row]:.3g}  |  {mean[row]:.3g}"
        ax.text(1.02, row, numbers, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=INK)
    ax.text(
        1.02, -1.0, "real  |  generated", transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=INK
    )
    ax.axvline(0, color=FRAME, linewidth=1, zorder=1)
    edge = min(FAR, max(4.0, np.nanmax(np.abs(real), initial=0.0))) + 0.6
    ax.set_yticks(range(count), map(printable, check.names), fontsize="small", **WORDS)
    ax.set(xlim=(-edge, edge), ylim=(count - 0.4, -1.4))
    ax.set_xlabel("standard deviations from the mean of the generated sets")
    reachable = 2 / (sets + 1) <= LEVEL
    unlike = f"unlike the sets, p ≤ {LEVEL:g}" + ("" if reachable else f": takes {2 / LEVEL - 1:.0f} sets")
    for color, label in ((REAL, f"{check.texts} real texts"), (UNLIKE, unlike)):
        ax.plot([], [], "D", color=color, markersize=7, fillstyle="none", markeredgewidth=1.8, label=label)
    ax.scatter([], [], s=8, color=GRAY, label=f"{sets} sets of as many generated texts")
    ax.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return plain(ax)


def _places(check: PredictiveCheck) -> Float[np.ndarray, " k"]:
    """The z-score of each statistic of the real texts; where all sets are equal, 0 or beyond the edge."""
    apart = np.sign(check.observed - check.replicated[0])
    return np.where(check.spread == 0, 2 * FAR * apart, check.scaled)
