"""Table of a number for each token of a text, under several names."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from torch import Tensor

from .running_text import text_width
from .style import INK, SHADES, WORDS, new_axes, printable

__all__ = ["token_values"]

CELL, ROW = 0.5, 0.42  # least width, and height in a new figure, of a cell, in inches
WIDEST = 7.2  # of a line of a new figure, in inches
MARGIN = 0.14  # beside a token, in inches
BELOW = 0.8  # height of the tokens under their cells, in rows
POINTS = 8.33  # font size
SPREAD = 20  # ratio of values above which shades are logarithmic


def token_values(
    pieces: Sequence[str],
    values: Mapping[str, Float[Tensor, " n"] | Float[np.ndarray, " n"]],
    *,
    label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a table with a column for each token and a row for each name, darker where a value is larger.

    The values may be anything that tokens have: nats of information, log-likelihoods, weights. Columns are as wide as
    their tokens, and a table that is too wide is continued below. Shades are logarithmic if positive values differ by
    more than a factor of twenty, and the title says so.

    Arguments:
        pieces: The tokens, such as those of ``run.tokenizer.pieces(text)``.
        values: A row of numbers by its name, one number for each token.
        label: What the numbers are, with their unit, such as ``"nats of each vector"``; the title.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there are no values, or the numbers of a row are not as many as the tokens.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> rows = {"beta 1": torch.tensor([3.0, 250.0])}
        >>> ax = token_values(["a", " text"], rows, label="nats", ax=Figure().subplots())
        >>> [text.get_text() for text in ax.texts], ax.get_title(loc="left")
        (['a', '3.0', 'text', '250'], 'nats, shades are logarithmic')
    """
    if not isinstance(values, Mapping) or not values or not pieces:
        found = f"values are {values!r:.40} for {len(pieces)} tokens"
        raise ValueError(f"{found}: give rows of numbers by name, and tokens.")
    table = {name: _row(name, row, len(pieces)) for name, row in values.items()}
    cells = np.stack([*table.values()])
    words = [printable(piece.strip(" ") or piece) for piece in pieces]
    numbers = [[_number(value) for value in row] for row in cells.tolist()]
    widths = [
        max(CELL, *(text_width(text) * POINTS / 72 + MARGIN for text in column))
        for column in zip(words, *numbers, strict=True)
    ]
    lines = _lines(widths, WIDEST if ax is None else ax.get_window_extent().width / ax.figure.dpi)
    longest, pitch = max(sum(widths[line]) for line in lines), len(table) + BELOW
    if ax is None:
        names = max(map(text_width, map(printable, table))) * POINTS / 72
        ax = new_axes(names + 0.3 + longest, 0.4 + ROW * pitch * len(lines))[0]
    norm = _norm(cells)
    style = WORDS | {"ha": "center", "va": "center", "fontsize": POINTS, "color": INK}
    for index, line in enumerate(lines):
        edges, tops = np.cumsum([0.0, *widths[line]]), index * pitch + np.arange(len(table) + 1)
        ax.pcolormesh(edges, tops, cells[:, line], cmap=SHADES, norm=norm)
        for column, x in zip(range(len(words))[line], (edges[1:] + edges[:-1]) / 2, strict=True):
            ax.text(x, tops[-1] + 0.4 * BELOW, words[column], **style)
            for top, row in zip(tops, numbers, strict=False):
                ax.text(x, top + 0.5, row[column], **style)
    places = [index * pitch + row + 0.5 for index in range(len(lines)) for row in range(len(table))]
    ax.set_yticks(places, [*map(printable, table)] * len(lines), fontsize=POINTS, **WORDS)
    ax.set(xlim=(0, longest), ylim=(len(lines) * pitch, 0), xticks=[])
    ax.tick_params(length=0, labelcolor=INK)
    ax.spines[:].set_visible(False)
    title = ", ".join(filter(None, [label, "shades are logarithmic" if isinstance(norm, LogNorm) else ""]))
    ax.set_title(title, loc="left", fontsize="medium", color=INK)
    return ax


def _lines(widths: Sequence[float], room: float) -> list[slice]:
    """The columns of each line: as many as have room, and one at least.

    Examples:
        >>> _lines([1.0, 1.0, 9.0, 1.0], 2.5)
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    starts, used = [0], 0.0
    for index, width in enumerate(widths):
        if used and used + width > room:
            starts, used = [*starts, index], 0.0
        used += width
    return [slice(start, end) for start, end in pairwise([*starts, len(widths)])]


def _row(name: str, row: object, tokens: int) -> Float[np.ndarray, " n"]:
    """The numbers of a row; NaN stands for none."""
    try:
        numbers = np.asarray(row.detach().cpu().double() if isinstance(row, Tensor) else row, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name!r} is {row!r:.60}: give a number for each token.") from None
    if numbers.shape != (tokens,):
        raise ValueError(f"{name!r} has shape {numbers.shape} for {tokens} tokens: give one number for each.")
    return numbers


def _norm(cells: Float[np.ndarray, "r n"]) -> Normalize:
    finite = cells[np.isfinite(cells)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return LogNorm(low, high) if low > 0 and high > SPREAD * low else Normalize(min(low, 0.0), high)


def _number(value: float) -> str:
    """Two or three digits; none after the point from 10 on.

    Examples:
        >>> _number(643.2), _number(8.61), _number(0.043)
        ('643', '8.6', '0.043')
    """
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
