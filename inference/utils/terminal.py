"""The width of the terminal, and text laid out for it."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable

__all__ = ["filled", "listed", "output_columns", "terminal_columns", "wrapped"]

NARROWEST, WIDEST = 40, 110  # columns of help


def terminal_columns() -> int:
    """Columns of help: those of the terminal, or that ``COLUMNS`` gives, from 40 to 110; 80 if there is neither."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))


def output_columns() -> int | None:
    """Columns of the terminal that standard output is, or that ``COLUMNS`` gives; None for a file or a pipe."""
    shown = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if shown or os.environ.get("COLUMNS", "").isdecimal() else None


def filled(text: str, width: int) -> str:
    r"""Paragraphs of a given width; lines that are indented, such as commands to copy, stay as they are.

    Examples:
        >>> print(filled("One, two,\nthree.\nExample:\n  a command of any length", 11))
        One, two,
        three.
        Example:
          a command of any length
    """
    paragraphs: list[list[str]] = []
    joined = False  # whether the next line continues a paragraph
    for line in text.splitlines():
        prose = bool(line) and not line[0].isspace() and not line.endswith(":")
        if prose and joined:
            paragraphs[-1].append(line)
        else:
            paragraphs.append([line])
        joined = prose
    lines = [" ".join(lines) for lines in paragraphs]
    return "\n".join(line if line[:1].isspace() else "\n".join(wrapped(line, width)) for line in lines)


def listed(rows: Iterable[tuple[str, str]], width: int) -> str:
    """Names in a column, each with its text beside it, which continues there on further lines.

    Examples:
        >>> print(listed([("fit", "Train a model."), ("look", "Write a page.")], 16))
          fit   Train a
                model.
          look  Write a
                page.
    """
    rows = list(rows)
    indent = max(len(name) for name, _ in rows) + 4
    return "\n".join(
        line for name, text in rows for line in wrapped(text, width, f"  {name}".ljust(indent), " " * indent)
    )


def wrapped(text: str, width: int, before: str = "", indent: str = "") -> list[str]:
    """Lines of a width without breaking words, the first after ``before`` and the others indented."""
    wrapper = textwrap.TextWrapper(
        width, initial_indent=before, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.wrap(text)
