"""A latent walked from low to high, with the text at each step."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from ..generation.traversal import VALUES, Traversal, traverse
from ..run import Run
from .style import FRAME, INK, new_axes

__all__ = ["traversal", "walk_table"]

LINE = 0.21  # height of a line, in inches
LETTERS = 120  # in a line
FADED = "#7b8794"  # of a text that is the one above


def traversal(
    run: Run,
    text: str,
    latent: int = 1,
    dimension: int | None = None,
    values: Sequence[float] = VALUES,
    *,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw as a table what a text becomes while one entry of a latent is walked from low to high.

    The bold row is the text's own: the entry at its posterior mean. Texts that are those of the row above are gray.

    Arguments:
        run: A run of a DELLA or a VAE.
        text: The text to start from.
        latent: Which latent, from 1 at the bottom of a DELLA; in a VAE, that of which token.
        dimension: Which entry, from 0; by default the one that the text says most about.
        values: What the entry is set to.
        ax: Where to draw; by default a new figure of pyplot's, as high as the table needs.
        options: Others of :func:`~pyroformer.inference.generation.traversal.traverse`.

    Raises:
        ValueError: If the run is of another model, there is no such latent or entry, no value is given, or the text
            does not fit its max_length.
    """
    return walk_table(traverse(run, text, latent, dimension, values, **options), ax=ax)


def walk_table(walk: Traversal, *, ax: Axes | None = None) -> Axes:
    """Draw what :func:`~pyroformer.inference.generation.traversal.traverse` found."""
    rows = sorted(
        [(walk.own, walk.own_text, True), *((x, y, False) for x, y in zip(walk.values, walk.texts, strict=True))]
    )
    wrapped = [textwrap.wrap(text, LETTERS) or ["(nothing)"] for _, text, _ in rows]
    height = sum(len(lines) + 0.6 for lines in wrapped) + 1.4
    ax = new_axes(9.0, LINE * height)[0] if ax is None else ax
    ax.set(xlim=(0, 1), ylim=(height, 0))
    ax.set_axis_off()
    ax.text(0.0, 0.3, f"latent {walk.latent}, entry {walk.dimension}", va="top", fontsize="small", color=INK)
    y, above = 1.4, None
    for (value, text, own), lines in zip(rows, wrapped, strict=True):
        ax.axhline(y, color=FRAME, linewidth=0.5)
        weight, color = ("bold" if own else "normal"), (FADED if text == above and not own else INK)
        style: Any = {"va": "top", "fontsize": "small", "weight": weight}
        ax.text(0.07, y + 0.3, f"{value:+.2f}".replace("-", "−"), ha="right", color=INK, **style)
        ax.text(0.1, y + 0.3, "\n".join(lines), color=color, parse_math=False, **style)
        y, above = y + len(lines) + 0.6, text
    return ax
