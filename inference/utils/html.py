"""Tables in HTML, for notebooks."""

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table"]


def html_table(
    rows: Iterable[Sequence[object]], header: Sequence[object] = (), caption: str = "", note: str = ""
) -> str:
    """A table whose cells are escaped, with a caption above it and a note under it.

    Examples:
        >>> html_table([["a", 1]], caption="x < y")
        '<table><caption>x &lt; y</caption><tbody><tr><td>a</td><td>1</td></tr></tbody></table>'
    """
    head = f"<thead>{_row(header, 'th')}</thead>" if header else ""
    body = "".join(_row(row, "td") for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    under = f"<p>{escape(note)}</p>" if note else ""
    return f"<table>{title}{head}<tbody>{body}</tbody></table>{under}"


def _row(cells: Sequence[object], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(str(cell))}</{kind}>' for cell in cells)}</tr>"
