"""Layout of tokens as running text; lengths are in ems."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath, TextToPath

from .style import FAMILIES, printable

__all__ = ["MARGIN", "Placed", "letters", "set_in_lines", "text_width"]

MARGIN = 0.1  # between a token's text and the edge of its box
SPACE = 0.3


class Placed(NamedTuple):
    """A token's box: text without leading spaces, left edge, width, and line from 0."""

    text: str
    x: float
    width: float
    line: int


def set_in_lines(
    pieces: Sequence[str], width: float, notes: Sequence[str] = (), note_size: float = 1.0
) -> list[Placed]:
    """Break tokens into lines of at most ``width``, between words.

    A word is broken between its tokens only if it is longer than a line; a token is never broken.

    Arguments:
        pieces: The text of each token, with leading spaces.
        width: Length of a line.
        notes: A note under each token; the box is at least as wide as its note.
        note_size: Font size of the notes, relative to that of the text.

    Examples:
        >>> [(box.text, box.line) for box in set_in_lines(["A", " copy", " of", " it", "."], width=6.0)]
        [('A', 0), ('copy', 0), ('of', 0), ('it', 1), ('.', 1)]
    """
    boxes = [_box(piece, notes[i] if notes else "", note_size) for i, piece in enumerate(pieces)]
    placed: list[Placed] = []
    x, line = 0.0, 0
    for start, end in pairwise(_word_starts(boxes)):
        word = boxes[start:end]
        length = sum(box.x + box.width for box in word)
        if x > 0 and x + length > width:
            x, line = 0.0, line + 1
        for text, space, box, _ in word:
            if x > 0 and x + space + box > width:
                x, line = 0.0, line + 1
            left = x + space if x > 0 else 0.0
            placed.append(Placed(text, left, box, line))
            x = left + box
    return placed


def letters(text: str, x: float, y: float, size: float = 1.0) -> Path:
    """The outlines of a text, without math mode between dollar signs."""
    return TextPath((x, y), text.replace("$", r"\$"), size=size, prop=FontProperties(family=FAMILIES))


@lru_cache(maxsize=4096)
def text_width(text: str, weight: str = "normal") -> float:
    """Advance width of a text, including spaces at its ends."""
    measure = TextToPath().get_text_width_height_descent
    prop = FontProperties(family=FAMILIES, size=1, weight=weight)
    return float(measure(f"|{text}|", prop, False)[0] - measure("||", prop, False)[0])


def _box(piece: str, note: str, note_size: float) -> Placed:
    """A token before layout: ``x`` is the space before it."""
    body = piece.lstrip(" ")
    text = printable(body if body else piece)
    space = SPACE * (len(piece) - len(body)) if body else 0.0
    return Placed(text, space, max(text_width(text), note_size * text_width(note)) + 2 * MARGIN, 0)


def _word_starts(boxes: Sequence[Placed]) -> list[int]:
    starts = [i for i, box in enumerate(boxes) if i == 0 or box.x > 0]
    return [*starts, len(boxes)]
