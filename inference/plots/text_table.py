"""Table of names and texts as a picture; lengths are in inches, those of letters in ems."""

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes

from .running_text import text_width
from .style import FRAME, INK, WORDS, drawable, new_axes

__all__ = ["Row", "text_table"]

POINTS, SMALLEST = 8.33, 4.0  # font size, and the smallest to which it shrinks in low axes
EM = 1.04 / 72  # of letters of one point, which hinting makes wider
LINE = 0.21 / POINTS  # height of a line of letters of one point
CHARACTERS = 78  # in a line, at most
WIDEST, NARROWEST = 60.0, 12.0  # column of texts of a new figure, in ems
GAP = 0.2  # between the two columns, and at the right edge
BETWEEN = 0.6  # of a line, between rows


class Row(NamedTuple):
    """A name and a text, the font weights of both, and the color of the text."""

    name: str
    text: str
    name_weight: str = "normal"
    weight: str = "normal"
    color: str = INK


def text_table(rows: Sequence[Row], heading: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw rows of a name and a text, in lines and letters that have room in the axes."""
    names = max(text_width(row.name, row.name_weight) for row in rows)
    above = 0.0 if heading is None else 1 + BETWEEN

    def layout(points: float, width: float | None = None) -> tuple[list[list[str]], float]:
        """The lines of each row, and the height of the table in lines."""
        room = WIDEST if width is None else (width - 2 * GAP) / (EM * points) - names
        lines = [_wrapped(row, room) for row in rows]
        return lines, above + sum(len(wrapped) + BETWEEN for wrapped in lines)

    points = POINTS
    if ax is None:
        lines, height = layout(points)
        longest = max(_longest(wrapped, row.weight) for row, wrapped in zip(rows, lines, strict=True))
        width = EM * points * (names + max(longest, NARROWEST)) + 2 * GAP
        ax = new_axes(width, LINE * points * (height + 1))[0]
    else:
        extent = ax.get_window_extent()
        width, high = extent.width / ax.figure.dpi, extent.height / ax.figure.dpi
        lines, height = layout(points, width)
        while LINE * points * height > high and points > SMALLEST:
            points *= 0.95
            lines, height = layout(points, width)
    _draw(ax, rows, lines, heading, points, EM * points * names + GAP, above)
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return ax


def _draw(
    ax: Axes, rows: Sequence[Row], lines: Sequence[list[str]], heading: str | None, points: float, x: float, y: float
) -> None:
    """Write texts from ``x`` on, and rows from ``y`` on; above them is the heading."""
    write = partial(ax.text, va="top", fontsize=points, in_layout=False)  # the axes have room for it
    if heading is not None:
        write(0.0, BETWEEN / 2, heading, color=INK)
        ax.axhline(y, color=FRAME, linewidth=0.5)
    for row, wrapped in zip(rows, lines, strict=True):
        write(0.0, y + BETWEEN / 2, row.name, color=INK, weight=row.name_weight)
        write(x, y + BETWEEN / 2, "\n".join(wrapped), color=row.color, weight=row.weight, **WORDS)
        y += len(wrapped) + BETWEEN
        ax.axhline(y, color=FRAME, linewidth=0.5)


def _wrapped(row: Row, room: float) -> list[str]:
    """The lines of a text, of at most ``CHARACTERS`` letters, and fewer where they are wider than the room."""
    characters = CHARACTERS
    while True:
        lines = [drawable(line) for line in textwrap.wrap(row.text, characters)] or ["(empty)"]
        longest = _longest(lines, row.weight)
        if longest <= room or characters == 1:
            return lines
        characters = max(1, int(characters * room / longest))


def _longest(lines: Sequence[str], weight: str) -> float:
    return max(text_width(line, weight) for line in lines)
