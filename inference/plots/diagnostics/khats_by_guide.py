"""Pareto k-hat of the same texts under several guides."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from ...posterior.arviz_compat import ArviZData
from ..style import COLORS, INK, WORDS, new_axes, plain, printable
from .khats import LARGEST, draw_scale, khats_of_texts

__all__ = ["khats_by_guide"]

WIDTH, ROW = 6.4, 0.4  # of a new figure and of a guide in it, in inches


def khats_by_guide(data: Mapping[str, ArviZData], site: str | None = None, *, ax: Axes | None = None) -> Axes:
    r"""Draw Pareto k-hat of each text under several guides, a row each; the bar is the median.

    Left of the first line, at 0.5, a guide is close to the posterior; right of the second, at 0.7, it is unreliable.
    A k-hat beyond 5, or infinite, is an arrow at the edge.

    Arguments:
        data: Results of :func:`~pyroformer.to_arviz` or ``run.posterior``, by the name of the guide.
        site: A latent site, or None for all latents and the text; see
            :func:`~pyroformer.inference.diagnostics.khat`.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there are no data, or :func:`khats` cannot draw some of them.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> import xarray
        >>> from pyroformer.inference.posterior.arviz_compat import from_groups
        >>> log_p, log_q = ((("chain", "draw", "text"), np.random.randn(1, 50, 2)) for _ in range(2))
        >>> stats = xarray.Dataset({"log_p": log_p, "log_q": log_q}, {"text": ["one", "two"]})
        >>> data = from_groups({"sample_stats": stats}, {})
        >>> ax = khats_by_guide({"amortized": data}, ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['amortized']
    """
    if not isinstance(data, dict) or not data:
        kind = type(data).__name__
        raise ValueError(f"data has type {kind} or is empty: give a dictionary of draws by the name of the guide.")
    khats = [khats_of_texts(drawn, site)[0] for drawn in data.values()]
    ax = new_axes(WIDTH, 0.9 + ROW * len(data))[0] if ax is None else ax
    generator = np.random.default_rng(0)
    for row, values in enumerate(khats):
        places = row + generator.uniform(-0.28, 0.28, len(values))
        shown, far = np.minimum(values, LARGEST), values > LARGEST
        for marker, size, here in ((".", 3, ~far), (">", 4, far)):
            ax.plot(shown[here], places[here], marker, color=COLORS[row % len(COLORS)], markersize=size, alpha=0.5)
        ax.plot(np.median(shown), row, "|", color=INK, markersize=18, markeredgewidth=2)
    draw_scale(ax, site)
    ax.set_yticks(range(len(data)), map(printable, data), fontsize="small", **WORDS)
    ax.set_ylim(len(data) - 0.4, -0.6)
    return plain(ax)
