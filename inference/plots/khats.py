"""Pareto k-hat, text by text."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..diagnostics.khat import khat
from .style import COLORS, FRAME, new_axes, plain, printable

__all__ = ["khats"]

GOOD, USABLE = 0.5, 0.7
NAMED = 25  # the most texts that are written beside their dots
LETTERS = 48  # of a text beside its dot


def khats(data: Any, site: str | None = None, *, ax: Axes | None = None) -> Axes:
    r"""Draw Pareto k-hat of each text, the worst on top.

    Left of 0.5 the guide is near the text's posterior; up to 0.7 importance weights make up for what it lacks; beyond,
    the guide is off. k-hat grows with the number of dimensions, so that with long texts it is large for all.

    Arguments:
        data: What :func:`~pyroformer.to_arviz` or ``run.posterior`` made, with some hundred draws.
        site: A latent site, or None for all of them with the text; see
            :func:`~pyroformer.inference.diagnostics.khat`.
        ax: Where to draw; by default a new figure of pyplot's.

    Raises:
        ValueError: If the data has no densities, no such site, too few draws, or no texts.
    """
    found = khat(data, site)
    if not found.dims:
        raise ValueError(f"all observations share the latents, so there is one k-hat, {float(found):.2f}: print it.")
    order = np.argsort(found.values)
    values, names = found.values[order], [str(found["text"].values[number]) for number in order]
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
    for color, count, label in zip((2, 5, 1), counts, ("near", "usable with weights", "off"), strict=True):
        ax.scatter([], [], s=28, color=COLORS[color], label=f"{label}: {count}")
    if named:
        ax.set_yticks(range(len(values)), [_short(name) for name in names], fontsize="small", parse_math=False)
        ax.set_ylim(-0.7, len(values) - 0.3)
    else:
        ax.set_ylabel("texts, in order")
    ax.set_xlim(min(0.0, values.min() - 0.1), max(1.0, values.max() + 0.1))
    ax.set_xlabel("Pareto k-hat" if site is None else f"Pareto k-hat of {site}")
    ax.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return plain(ax)


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= LETTERS else shown[: LETTERS - 1] + "…"
