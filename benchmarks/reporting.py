"""Utilities of the experiments: a mean with its standard error, markdown tables, a command line."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Scores", "add", "argument_parser", "cell", "command_line", "evenly", "markdown", "show", "table"]

Scores = dict[str, dict[str, list[float]]]
"""Row, column, one score per seed."""


def add(scores: Scores, row: str, **columns: float) -> None:
    """One seed's scores of one method."""
    for column, value in columns.items():
        scores.setdefault(row, {}).setdefault(column, []).append(value)


def table(scores: Mapping[str, Mapping[str, Sequence[float]]], digits: int = 3) -> str:
    """Means over seeds with their standard errors."""
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    rows = [[name, *(cell(row.get(c, []), digits) or "–" for c in columns)] for name, row in scores.items()]
    return markdown(["", *columns], rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table whose first columns are aligned to the left, and those of numbers to the right."""
    first, *others = [f"| {' | '.join(map(str, row))} |\n" for row in (head, *rows)]
    return "".join([first, f"|{left * '---|'}{(len(head) - left) * '---:|'}\n", *others])


def cell(values: Sequence[float | None], digits: int, error: float | None = None) -> str:
    """A mean with its standard error over several values; a single value with its own error, if it has one."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if len(known) == 1:
        form = ".1e" if abs(known[0]) >= 1e5 else f".{digits}f"
        return f"{known[0]:{form}}" + ("" if error is None else f" ± {error:{form}}")
    return f"{np.mean(known):.{digits}f} ± {np.std(known, ddof=1) / len(known) ** 0.5:.{max(1, digits)}f}"


def argument_parser(document: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser whose help is a script's docstring, with an option for each default; that of a list takes several."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        several = {"nargs": "+"} if isinstance(default, list) else {}
        kind = type(default[0] if several else default)
        parser.add_argument(f"--{name}", type=kind, default=default, help="default: %(default)s", **several)
    return parser


def show(text: str, out: Path | None) -> None:
    """Prints a report, and writes it to a file if one is given."""
    print(text)
    if out is not None:
        out.write_text(text)


def command_line(report: Callable[..., str], document: str | None, **defaults: Any) -> None:
    """Shows ``report(**options)``, with an option for each default and ``--out``."""
    parser = argument_parser(document, **defaults)
    parser.add_argument("--out", type=Path, help="file to write the tables to as well")
    options = vars(parser.parse_args())
    out = options.pop("out")
    show(report(**options), out)


def evenly(texts: Sequence[str], n: int) -> list[str]:
    """At most ``n`` of the texts, evenly spaced: neighbors are often pieces of one text."""
    indices = np.linspace(0, len(texts) - 1, min(n, len(texts))).round().astype(int)
    return [texts[int(index)] for index in indices]
