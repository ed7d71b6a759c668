"""Formats of text files: the fields of each line, a text or a condition and a text."""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path

from .rows import Field, Fields, as_row, as_text, check_different
from .tables import Lines, Row, comma_rows, tab_rows

__all__ = ["FORMATS"]


def _read_plain(lines: Lines, path: Path, fields: Fields) -> Iterator[tuple[str, ...]]:
    if len(fields) > 1:
        return _read_tabs(lines, path, fields)
    if fields[0] is not None:
        raise ValueError(
            f"{path} has no fields, so none that is {fields[0]!r}: leave the field out, each line is a text."
        )
    return ((line.strip(),) for _, line in lines)


def _read_json_lines(lines: Lines, path: Path, fields: Fields) -> Iterator[tuple[str, ...]]:
    keys = _keys(path, fields)
    for number, line in lines:
        if not line.strip():
            yield ("",) * len(fields)
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {path} is not JSON ({error}). Give one JSON object a line.") from error
        yield _entry(entry, keys, f"line {number} of {path}")


def _read_json(lines: Lines, path: Path, fields: Fields) -> Iterator[tuple[str, ...]]:
    content = "".join(line for _, line in lines).strip()
    if content.startswith("{"):  # under another name
        yield from _read_json_lines(enumerate(content.split("\n"), 1), path, fields)
        return
    keys = _keys(path, fields)
    for number, entry in enumerate(_items(content, path)):
        if len(fields) == 1 and fields[0] is None and (entry is None or isinstance(entry, str)):
            entry = {"text": entry}
        yield _entry(entry, keys, f"entry {number} (from 0) of {path}")


def _items(content: str, path: Path) -> Iterator[object]:
    """The items of a JSON array, of which only one at a time is in memory."""
    decoder, place = json.JSONDecoder(), 0
    try:
        for before in chain("[", repeat(",")):
            if not content.startswith(before, place):
                if place and content[place:] == "]" or not content:
                    return
                raise ValueError(f"neither {before} nor the end at character {place}" if place else "no array")
            place = _after_blanks(content, place + 1)
            if before == "[" and content[place:] == "]":
                return
            item, place = decoder.raw_decode(content, place)
            yield item
            place = _after_blanks(content, place)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}). Give an array of texts or of objects, or one JSON object a line."
        ) from error


def _after_blanks(content: str, place: int) -> int:
    blanks = _BLANKS.match(content, place)
    return blanks.end() if blanks else place


_BLANKS = re.compile(r"[ \t\r\n]*")


def _keys(path: Path, fields: Fields) -> list[str]:
    """The keys of the condition, if there is one, and of the text."""
    keys = ["text" if field is None else str(field) for field in fields]
    check_different([repr(key) for key in keys], path)
    return keys


def _entry(entry: object, keys: list[str], place: str) -> tuple[str, ...]:
    """The text, or the condition and the text, in a JSON object."""
    roles = ("condition", "text")[-len(keys) :]
    return as_row([_value(entry, key, role, place) for key, role in zip(keys, roles, strict=True)], place)


def _value(entry: object, key: str, role: str, place: str) -> str:
    """The text of a JSON object under a key."""
    if not isinstance(entry, dict) or key not in entry:
        has = f"has only {', '.join(map(repr, entry))}" if isinstance(entry, dict) else "is no JSON object"
        raise ValueError(f"{place} lacks the field {key!r}: it {has}. Name the field of the {role}.")
    return as_text(entry[key], role, key, place)


def _read_tabs(lines: Lines, path: Path, fields: Fields) -> Iterator[tuple[str, ...]]:
    return _read_table(tab_rows(lines, path), path, fields, "tab")


def _read_commas(lines: Lines, path: Path, fields: Fields) -> Iterator[tuple[str, ...]]:
    return _read_table(comma_rows(lines, path), path, fields, "comma")


def _read_table(rows: Iterable[Row], path: Path, fields: Fields, separator: str) -> Iterator[tuple[str, ...]]:
    rows, columns = iter(rows), list[int]()
    first = list(islice(rows, _FIRST_ROWS))
    if fields == (None,) and (name := _only_column([row for _, row in first if row])):
        warnings.warn(
            f"{name!r}, the first line of {path}, is taken for the name of its column: name the column as the field, "
            "or if that line is a text, give the field 0.",
            stacklevel=1,
        )
        fields = (name,)
    for number, row in chain(first, rows):
        if not row:
            yield ("",) * len(fields)
            continue
        if len(row) < len(fields):
            raise ValueError(
                f"line {number} of {path} has no {separator}: a pair is a condition, a {separator} and a text."
            )
        if not columns:
            columns, has_header = _columns(row, number, path, fields)
            if has_header:
                continue
        if max(columns) >= len(row):
            raise _missing_column(row, max(columns), number, path)
        yield as_row([row[column] for column in columns], f"line {number} of {path}")


def _only_column(rows: list[list[str]]) -> str | None:
    """The name of the only column of a table without its blank rows, if the first row is one.

    It is a single word, which no other row is, and of these at most one in ten is a single word as well.

    Examples:
        >>> _only_column([["review"], ["It was cold."], ["I liked it."]])
        'review'
        >>> _only_column([["apple"], ["pear"], ["plum"]]), _only_column([["It was cold."], ["I liked it."]])
        (None, None)
    """
    if not rows or len(rows[0]) > 1:
        return None
    [name], texts = rows[0], [row[0].strip() for row in rows[1:]]
    words = sum(text.isidentifier() for text in texts)
    is_name = name != "text" and name.strip().isidentifier() and name.strip() not in texts
    return name if is_name and texts and 10 * words <= len(texts) else None


_FIRST_ROWS = 50  # by which the first one is known for a header


def _columns(first: list[str], number: int, path: Path, fields: Fields) -> tuple[list[int], bool]:
    """The numbers of the requested columns, and whether the first line is a header."""
    columns = [_column(field, first, number, path) for field in fields if field is not None]
    has_header = any(isinstance(field, str) and not field.isdecimal() for field in fields)
    if fields[-1] is None:
        others = [column for column in range(len(first)) if column not in columns]
        named_text = [column for column in others if first[column] == "text"]
        if not named_text and len(others) > 1:
            raise ValueError(
                f"{path} has {_count(first)}: name the one with the texts as the field, by its name in the first line "
                "or its number from 0."
            )
        columns.append((named_text or others)[0])
        has_header = has_header or bool(named_text)
    check_different([f"column {column}" for column in columns], path)
    return columns, has_header


def _column(field: Field, first: list[str], number: int, path: Path) -> int:
    """The number of a column, from its number or its name."""
    if str(field).isdecimal():
        if int(field) >= len(first):
            raise _missing_column(first, int(field), number, path)
        return int(field)
    if field not in first:
        raise ValueError(
            f"{path} has no column {field!r} but {', '.join(map(repr, first[:5]))}: give a name in its first line, or "
            "a column's number from 0."
        )
    return first.index(str(field))


def _missing_column(row: list[str], column: int, number: int, path: Path) -> ValueError:
    return ValueError(f"line {number} of {path} has {_count(row)}, so none of number {column} (from 0).")


def _count(row: list[str]) -> str:
    return f"{len(row)} column{'s' if len(row) > 1 else ''}"


# Readers by the ending of a file's name: one tuple for each line, of empty strings if the line is blank.
FORMATS: dict[str, Callable[[Lines, Path, Fields], Iterator[tuple[str, ...]]]] = {
    ".txt": _read_plain,
    ".csv": _read_commas,
    ".tsv": _read_tabs,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
}
