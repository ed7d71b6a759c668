"""Rows of tables, with columns separated by commas or tabs."""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal

__all__ = ["Lines", "Row", "comma_rows", "tab_rows"]

Lines = Iterable[tuple[int, str]]  # numbered from 1
Row = tuple[int, list[str]]  # the number of its first line, and its fields; none if the line is blank

FIRST_LINES = 50  # from which the separator of a table is taken
LONGEST_FIELD = 2**24  # characters, of 4 bytes each while it is read; a longer one is a quotation mark without its end
MAX_LINES = 1000  # of one quoted text in a table with tabs, where a quotation mark may also be just that


def comma_rows(lines: Lines, path: Path) -> Iterator[Row]:
    """The rows of a ``.csv`` file, as Python's csv module, pandas and spreadsheets write it.

    Spreadsheets separate columns by semicolons where a comma is the decimal point. So they are here if the first rows
    have all as many fields between semicolons, two or more, and the first has no comma or they differ in commas.

    Raises:
        ValueError: If quotation marks are not closed or not doubled.

    Examples:
        >>> list(comma_rows(enumerate(['1,"a ""rose"",\\n', 'is"\\n']), Path("a.csv")))
        [(1, ['1', 'a "rose",\\nis'])]
        >>> list(comma_rows(enumerate(["label;text\\n", "1;yes, it is\\n"]), Path("a.csv")))
        [(1, ['label', 'text']), (2, ['1', 'yes, it is'])]
    """
    source = (line for _, line in lines)
    first = list(islice(source, FIRST_LINES))
    reader, number = csv.reader(chain(first, source), delimiter=_separator(first), strict=True), 1
    try:
        for row in _rows(reader):
            yield number, row if any(field.strip() for field in row) else []
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"line {number} of {path} is not CSV ({error}): put fields with commas, quotation marks or line breaks "
            'into "quotation marks", and double those within.'
        ) from error


def tab_rows(lines: Lines, path: Path) -> Iterator[Row]:
    r"""The rows of a ``.tsv`` file, in which quotation marks may be part of the texts or put around fields.

    They are around fields if the csv module, or pandas, would have written the row so: only fields with a tab, a line
    break or a quotation mark have them, which is then doubled; or all of several fields have them. A field that would
    have both a line break and a tab is taken for several rows, in which marks are part of the texts.

    Examples:
        >>> lines = ['1\t"No", he said\n', '2\t"Then ""no"",\n', 'he said"\n']
        >>> [row for _, row in tab_rows(enumerate(lines), Path("a.tsv"))]
        [['1', '"No", he said'], ['2', 'Then "no",\nhe said']]
    """
    source, ahead, columns = iter(lines), deque[tuple[int, str]](), 0
    while item := ahead.popleft() if ahead else next(source, None):
        number, line = item
        row = line.rstrip("\r\n").split("\t") if line.strip() else []
        if any(field.startswith('"') for field in row):
            used, row = _quoted_row(line, row, _peek(ahead, source), columns)
            for _ in range(used):
                ahead.popleft()
        columns = columns or len(row)
        yield number, row


def _rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows of a reader of the csv module, whose limit of 131,072 characters a field is raised for each."""
    while True:
        before = csv.field_size_limit(LONGEST_FIELD)
        try:
            row = next(reader, None)
        finally:
            csv.field_size_limit(before)
        if row is None:
            return
        yield row


def _separator(first: list[str]) -> str:
    """The character between the columns of a table, from its first lines."""
    try:
        by_comma, by_semicolon = (
            [row for row in _rows(csv.reader(first, delimiter=mark)) if any(field.strip() for field in row)]
            for mark in ",;"
        )
    except csv.Error:
        return ","
    complete = by_semicolon[:-1] if len(first) == FIRST_LINES else by_semicolon  # the last row may go on
    if len(complete) < 2 or _widths(complete) == {1} or len(_widths(complete)) > 1:
        return ","
    return ";" if len(by_comma[0]) == 1 or len(_widths(by_comma)) > 1 else ","


def _widths(rows: list[list[str]]) -> set[int]:
    return {len(row) for row in rows}


def _peek(ahead: deque[tuple[int, str]], source: Iterator[tuple[int, str]]) -> Iterator[str]:
    """The lines to come, which stay there."""
    for place in range(MAX_LINES):
        if place == len(ahead):
            item = next(source, None)
            if item is None:
                return
            ahead.append(item)
        yield ahead[place][1]


def _quoted_row(line: str, plain: list[str], following: Iterator[str], columns: int) -> tuple[int, list[str]]:
    """The number of following lines that belong to a row, and its fields: the plain ones if marks are part of texts."""
    record, used = line, 0
    while record.count('"') % 2:
        after = next(following, None)
        if after is None:
            return 0, plain
        record, used = record + after, used + 1
    try:
        [row] = _rows(csv.reader(io.StringIO(record, newline=""), delimiter="\t", strict=True))
    except (csv.Error, ValueError):
        return 0, plain
    if columns not in (0, len(row)) or any("\n" in field and "\t" in field for field in row):
        return 0, plain  # rows of their own, between two marks
    content = record.rstrip("\r\n")
    as_written = content == _written(row, csv.QUOTE_MINIMAL) or len(row) > 1 and content == _written(row, csv.QUOTE_ALL)
    return (used, row) if as_written else (0, plain)


def _written(row: list[str], quoting: Literal[0, 1]) -> str:
    """A row as the csv module writes it."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t", quoting=quoting, lineterminator="\r\n").writerow(row)
    return text.getvalue().removesuffix("\r\n")
