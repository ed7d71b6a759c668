"""Table of a latent traversal."""

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from ..generation.traversal import VALUES, Traversal, traverse
from ..run import Run
from .style import FAMILIES, FRAME, INK, drawable, new_axes

__all__ = ["traversal", "traversal_table"]

LINE = 0.21  # height of a line, in inches
CHARACTERS = 120  # in a line
FADED = "#7b8794"  # color of a text that equals the one above


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
    """Draw a table of the texts decoded with one entry of a latent at several values.

    The bold row has the entry at its posterior mean. Texts that equal the one above are gray.

    Arguments:
        run: A run whose posterior has moments, such as one of a DELLA or a VAE.
        text: The text to encode.
        latent: Index of the latent, from 1: of a DELLA the layer, from below; of a VAE the token.
        dimension: Index of the entry, from 0; by default the one with the smallest posterior variance.
        values: Values of the entry.
        ax: Matplotlib axes; by default those of a new figure, as high as the table.
        options: Further options of :func:`~pyroformer.inference.generation.traversal.traverse`.

    Raises:
        ValueError: If the posterior has no moments, the latent or entry does not exist, there are no values, or the
            text is longer than the model's max_length.
    """
    return traversal_table(traverse(run, text, latent, dimension, values, **options), ax=ax)


def traversal_table(result: Traversal, *, ax: Axes | None = None) -> Axes:
    """Draw a result of :func:`~pyroformer.inference.generation.traversal.traverse`."""
    moved = [(value, text, False) for value, text in zip(result.values, result.texts, strict=True)]
    rows = sorted([(result.mean, result.reconstruction, True), *moved])
    wrapped = [textwrap.wrap(text, CHARACTERS) or ["(empty)"] for _, text, _ in rows]
    height = sum(len(lines) + 0.6 for lines in wrapped) + 1.4
    ax = new_axes(9.0, LINE * height)[0] if ax is None else ax
    ax.set(xlim=(0, 1), ylim=(height, 0))
    ax.set_axis_off()
    ax.text(0.0, 0.3, f"latent {result.latent}, entry {result.dimension}", va="top", fontsize="small", color=INK)
    y, above = 1.4, None
    for (value, text, at_mean), lines in zip(rows, wrapped, strict=True):
        ax.axhline(y, color=FRAME, linewidth=0.5)
        weight, color = ("bold" if at_mean else "normal"), (FADED if text == above and not at_mean else INK)
        write = partial(ax.text, va="top", fontsize="small", weight=weight)
        write(0.07, y + 0.3, f"{value:+.2f}".replace("-", "−"), ha="right", color=INK)
        write(0.1, y + 0.3, "\n".join(map(drawable, lines)), color=color, parse_math=False, family=FAMILIES)
        y, above = y + len(lines) + 0.6, text
    return ax
