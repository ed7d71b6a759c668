"""Tables of text, also for narrow terminals."""

from collections.abc import Sequence

from ..utils.terminal import wrapped

__all__ = ["aligned", "fitted", "listed", "prose", "stacked"]

NARROWEST = 40  # columns; a table is not made narrower
LABEL = 30  # columns for labels, at least, before a column is left out


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first and the last column to the left, those between to the right.

    Examples:
        >>> aligned([["", "nats", "bound on"], ["-ELBO", "1.23", "log p(x)"]])
        ['       nats   bound on', '-ELBO  1.23   log p(x)']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True))]
        lines.append("  ".join([*cells, " " + last]).rstrip())
    return lines


def fitted(
    rows: Sequence[Sequence[str]], width: int | None, optional: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Rows, the first of which is the header, as lines of a width; and the columns that were left out for it.

    Columns are left out until 30 are left for the labels, which continue on further lines.

    Arguments:
        rows: The header and the rows; the first column is that of labels.
        width: The width; None for as wide as it is.
        optional: The columns that may be left out, the first one first.

    Examples:
        >>> rows = [["", "nats", "perplexity", "bound on"], ["-ELBO, importance-weighted", "1.2", "3.4", "log p(x)"]]
        >>> lines, missing = fitted(rows, 40, ["perplexity"])
        >>> print("\\n".join(lines), missing)
                               nats   bound on
        -ELBO,
          importance-weighted   1.2   log p(x) ['perplexity']
    """
    if width is None or not rows:
        return aligned(rows), []
    width = max(width, NARROWEST)
    missing: list[str] = []
    longest = max(len(row[0]) for row in rows)
    while (room := width - _numbers(rows)) < min(longest, LABEL) and len(missing) < len(optional):
        missing.append(optional[len(missing)])
        kept = [place for place, name in enumerate(rows[0]) if name not in missing]
        rows = [[row[place] for place in kept] for row in rows]
    lines: list[list[str]] = []
    for label, *cells in rows:
        *before, last = _label_lines(label, max(room, 1))
        lines += [[part, *("" for _ in cells)] for part in before] + [[last, *cells]]
    return aligned(lines), missing


def stacked(header: Sequence[str], width: int | None, rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The header as one row or, where the table would be wider than ``width``, each of its words in a row.

    Examples:
        >>> stacked(["latent", "marginal KL"], 12, [["z_1", "0.5"]])
        [['', 'marginal'], ['latent', 'KL']]
    """
    if width is None or max(map(len, aligned([header, *rows]))) <= width:
        return [list(header)]
    words = [name.replace(" > ", " >\N{NO-BREAK SPACE}").split(" ") for name in header]
    height = max(map(len, words))
    padded = [[""] * (height - len(parts)) + parts for parts in words]
    return [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in zip(*padded, strict=True)]


def listed(rows: Sequence[tuple[str, str]], width: int | None) -> list[str]:
    """Labels in a column, each with its text beside it, which continues there on further lines.

    Examples:
        >>> listed([("accuracy", "0.962 share, in 14 texts")], 40), listed([("of", "a b")], 24)
        (['accuracy   0.962 share, in 14 texts'], ['of   a b'])
    """
    if width is None:
        return aligned(rows)
    indent = max((len(label) for label, _ in rows), default=0) + 3
    lines = []
    for label, content in rows:
        lines += wrapped(content, max(width, NARROWEST), label.ljust(indent), " " * indent)
    return lines


def prose(line: str, width: int | None) -> list[str]:
    """A sentence on as many lines as it needs."""
    return [line] if width is None else wrapped(line, max(width, NARROWEST))


def _numbers(rows: Sequence[Sequence[str]]) -> int:
    """Columns that all but the labels take."""
    return sum(max(map(len, column)) + 2 for column in list(zip(*rows, strict=True))[1:]) + 1


def _label_lines(label: str, width: int) -> list[str]:
    indent = " " * (len(label) - len(label.lstrip()) + 2)
    return wrapped(label, width, indent=indent) or [""]
