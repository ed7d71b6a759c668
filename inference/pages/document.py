"""A self-contained HTML document: its style, its sections, its pictures and its texts, all escaped."""

import io
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from unicodedata import category

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..plots.style import shade_limit
from .style import STYLE

__all__ = ["code", "document", "note", "pictures", "section", "shaded", "table", "text", "visible"]

# Nothing is loaded from anywhere and no script runs, whatever the texts of a run contain.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, head: str, sections: Sequence[tuple[str, str]]) -> bytes:
    """A document in UTF-8 with a head and sections, each a title and its HTML; what UTF-8 lacks is a replacement."""
    name = escape(title)
    links = "".join(f'<a href="#{_anchor(heading)}">{escape(heading)}</a>' for heading, _ in sections)
    content = "\n".join(section(heading, body) for heading, body in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{name}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1 dir="auto">{name}</h1>
{head}
<nav>{links}</nav></header>
<main>
{content}
</main>
</body>
</html>
"""
    return page.encode("utf-8", "replace")


def section(heading: str, body: str) -> str:
    """A section that can be linked to by its heading."""
    return f'<section id="{_anchor(heading)}"><h2>{escape(heading)}</h2>\n{body}</section>'


def text(content: str, faded: bool = False) -> str:
    """A text as it is, in the direction of its own letters, or faded as of no interest.

    Examples:
        >>> text("1 < 2")
        '<span class="text" dir="auto">1 &lt; 2</span>'
    """
    if not content:
        return '<span class="faded">empty</span>'
    return f'<span class="{"text faded" if faded else "text"}" dir="auto">{visible(content)}</span>'


def visible(content: str) -> str:
    r"""A text as HTML in which control characters, which browsers show as boxes or blank lines, are escapes.

    Examples:
        >>> visible("a\r\x07 <\nb")
        'a\\r\\x07 &lt;\nb'
    """
    letters = (
        letter.encode("unicode_escape").decode() if category(letter) == "Cc" and letter not in "\n\t" else letter
        for letter in content
    )
    return escape("".join(letters))


def shaded(pieces: Sequence[str], weights: Sequence[float]) -> str:
    """Tokens as running text, each shaded by its weight, relative to the largest or to twice the mean.

    Examples:
        >>> shaded(["a", "&"], [0.1, 0.4]).partition("</b>")[0]
        '<span class="text" dir="auto"><b title="weight 0.1" style="--weight: 20%">a'
    """
    limit = shade_limit(weights) if weights else 1.0
    tokens = (
        f'<b title="weight {weight:.2g}" style="--weight: {100 * weight / limit:.0f}%">{visible(piece)}</b>'
        for piece, weight in zip(pieces, weights, strict=True)
    )
    return f'<span class="text" dir="auto">{"".join(tokens)}</span>'


def note(content: str) -> str:
    """A remark in small letters."""
    return f'<p class="note">{escape(content)}</p>\n'


def code(content: str) -> str:
    """Lines of code or of a table in letters of one width."""
    return f"<pre>{escape(content)}</pre>\n"


def table(rows: Iterable[tuple[str, str]], caption: str = "") -> str:
    """A table of labels, which are escaped, and cells, which are HTML."""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(f'<tr><th scope="row">{escape(label)}</th><td>{cell}</td></tr>' for label, cell in rows)
    return f"<table>{title}<tbody>{body}</tbody></table>\n"


def pictures(figures: Iterable[tuple[str, Figure]]) -> str:
    """Figures side by side, or below each other where the screen is narrow, each with what it shows in words."""
    images = (f'<img alt="{escape(words)}" src="data:image/svg+xml;base64,{_svg(item)}">' for words, item in figures)
    return f'<div class="pictures">{"".join(images)}</div>\n'


def _svg(figure: Figure) -> str:
    """A figure as SVG in base64; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "pyroformer"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return b64encode(buffer.getvalue()).decode()


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")
