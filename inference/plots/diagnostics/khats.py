"""Plot of Pareto k-hat for each text."""

import numpy as np
from matplotlib.axes import Axes

from ...diagnostics.khat import khat
from ...posterior.arviz_compat import ArviZData
from ..style import COLORS, FAMILIES, FRAME, new_axes, plain, printable

__all__ = ["khats"]

GOOD, USABLE = 0.5, 0.7
NAMED = 25  # maximal number of texts that are shown beside their dots
CHARACTERS = 48  # of a text beside its dot


def khats(data: ArviZData, site: str | None = None, *, ax: Axes | None = None) -> Axes:
    r"""Draw Pareto k-hat of each text, the worst on top.

    Below 0.5 the guide is close to the text's posterior; up to 0.7 importance weighting can correct it; above 0.7 it is
    unreliable. k-hat grows with the number of dimensions, so that it is large for all long texts.

    Arguments:
        data: Result of :func:`~pyroformer.to_arviz` or ``run.posterior``, with a few hundred draws.
        site: A latent site, or None for all latents and the text; see
            :func:`~pyroformer.inference.diagnostics.khat`.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the data has no log densities, too few draws, no such site, or only global latents.
    """
    result = khat(data, site)
    if not result.dims:
        raise ValueError(f"all latents are global, so there is a single k-hat, {float(result):.2f}: print it.")
    order = np.argsort(result.values)
    values, names = result.values[order], [str(result["text"].values[index]) for index in order]
    named = len(values) <= NAMED
    ax = new_axes(7.0 if named else 5.2, 1.2 + 0.22 * len(values) if named else 3.8)[0] if ax is None else ax
    colors = [COLORS[2] if x < GOOD else COLORS[5] if x < USABLE else COLORS[1] for x in values]
    ax.scatter(values, range(len(values)), s=28 if named else 10, c=colors, zorder=3)
    for limit in (GOOD, USABLE):
        ax.axvline(limit, color=FRAME, linestyle="--", linewidth=1)
    counts = [
        int((values < GOOD).sum()),
        int(((values >= GOOD) & (values < USABLE)).sum()),
        int((values >= USABLE).sum()),
    ]
    for color, count, label in zip((2, 5, 1), counts, ("good", "usable with weights", "unreliable"), strict=True):
        ax.scatter([], [], s=28, color=COLORS[color], label=f"{label}: {count}")
    if named:
        labels = [_short(name) for name in names]
        ax.set_yticks(range(len(values)), labels, fontsize="small", parse_math=False, family=FAMILIES)
        ax.set_ylim(-0.7, len(values) - 0.3)
    else:
        ax.set_ylabel("texts, sorted")
    ax.set_xlim(min(0.0, values.min() - 0.1), max(1.0, values.max() + 0.1))
    ax.set_xlabel("Pareto k-hat" if site is None else f"Pareto k-hat of {site}")
    ax.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return plain(ax)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
