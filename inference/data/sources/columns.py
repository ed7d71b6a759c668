"""Texts in the columns of tables with names: Parquet and Arrow files, and data sets of Hugging Face."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from ....models.utils.errors import one_line
from ...utils.registry import imported
from .rows import Fields, as_row, as_text, check_different

__all__ = ["COLUMNAR", "ROWS", "chosen_columns", "column_rows", "pyarrow_for", "read_columns"]

COLUMNAR = (".parquet", ".arrow", ".feather")
ROWS = 1000  # in memory at a time

Columns = Mapping[str, Sequence[Any]]  # the values of some rows by the name of their column


def read_columns(file: BinaryIO, path: Path, fields: Fields) -> Iterator[tuple[str, ...]]:
    """The rows of a Parquet or Arrow file, some at a time: a text, or a condition and a text; empty ones if blank.

    Only the columns of the fields are read. An Arrow file is one of both formats of Arrow, a stream, as ``datasets``
    writes it, or a file with random access, as Feather 2 is. The numbers of a ``ClassLabel`` of ``datasets`` become
    the names of the classes.

    Raises:
        ValueError: If pyarrow is missing, the file is damaged, lacks a column, or holds no texts there.
    """
    arrow = pyarrow_for(path)
    if not file.seekable():
        raise ValueError(f"{path} is a pipe, and a {path.suffix} file is read from both ends: save it first.")
    with _damaged(path, arrow):
        schema, batches = _parquet(file) if path.suffix.lower() == ".parquet" else _arrow(file, arrow)
    columns = chosen_columns(schema.names, fields, path)
    names = {column: _class_names(schema, column) for column in columns[:-1]}
    yield from column_rows(_as_lists(batches(columns), columns, path, arrow), columns, names, path)


def column_rows(
    batches: Iterable[Columns], columns: Sequence[str], names: Mapping[str, Sequence[str] | None], source: object
) -> Iterator[tuple[str, ...]]:
    """The rows of a table: a text, or a condition and a text; empty ones if both are missing or blank.

    Arguments:
        batches: Some rows at a time, in order.
        columns: The column of the text, or those of the condition and of the text.
        names: The names of the classes, if those of a column have any.
        source: The name of the table, for messages.

    Raises:
        ValueError: If a value is no text, or a pair has only one half.

    Examples:
        >>> batch = {"label": [1, 0], "body": [" a rose ", "is"]}
        >>> list(column_rows([batch], ["label", "body"], {"label": ["no", "yes"]}, "a.parquet"))
        [('yes', 'a rose'), ('no', 'is')]
    """
    number = 0
    roles = ("condition", "text")[-len(columns) :]
    for batch in batches:
        for values in zip(*(batch[column] for column in columns), strict=True):
            place = f"row {number} (from 0) of {source}"
            parts = [
                "" if value is None else as_text(_class_name(value, names.get(column)), role, column, place)
                for value, role, column in zip(values, roles, columns, strict=True)
            ]
            yield as_row(parts, place)
            number += 1


def chosen_columns(present: Sequence[str], fields: Fields, source: object) -> list[str]:
    """The columns of the condition, if there is one, and of the text, by the rule for other tables.

    Raises:
        ValueError: If there is no such column, or none is named and several could be meant.

    Examples:
        >>> chosen_columns(["id", "text"], (None,), "a.parquet"), chosen_columns(["a", "b"], ("b", None), "a.parquet")
        (['text'], ['b', 'a'])
    """
    columns = [_column(field, present, source) for field in fields if field is not None]
    if fields[-1] is None:
        others = [name for name in present if name not in columns]
        if "text" not in others and len(others) != 1:
            has = f"the columns {', '.join(map(repr, present[:5]))}" if len(present) > 1 else "no column for texts"
            raise ValueError(f"{source} has {has}: name the one with the texts as the field.")
        columns.append("text" if "text" in others else others[0])
    check_different([repr(column) for column in columns], source)
    return columns


def pyarrow_for(path: Path) -> ModuleType:
    """The package that reads a file, imported when one is read.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        return import_module("pyarrow")
    except ImportError as error:
        raise ValueError(f"reading {path} needs the package pyarrow: pip install pyarrow.") from error


def _parquet(file: BinaryIO) -> tuple[Any, Callable[[list[str]], Iterable[Any]]]:
    """The schema of a Parquet file, and its rows in batches; pages are read one by one, however large a group is."""
    table = imported("pyarrow.parquet.ParquetFile")(file, buffer_size=1 << 20, pre_buffer=False)
    return table.schema_arrow, lambda columns: table.iter_batches(ROWS, columns=columns, use_threads=False)


def _arrow(file: BinaryIO, arrow: ModuleType) -> tuple[Any, Callable[[list[str]], Iterable[Any]]]:
    """The schema of an Arrow file of either format, and its rows in batches."""
    start = file.read(len(_WITH_RANDOM_ACCESS))
    file.seek(0)
    ipc = imported("pyarrow.ipc")
    if start == _WITH_RANDOM_ACCESS:
        table = ipc.open_file(file)
        whole = (table.get_batch(number) for number in range(table.num_record_batches))
    else:
        table = ipc.open_stream(file)
        whole = iter(table)
    parts = (batch.slice(row, ROWS) for batch in whole for row in range(0, batch.num_rows, ROWS))
    return table.schema, lambda columns: (part.select(columns) for part in parts)


_WITH_RANDOM_ACCESS = b"ARROW1"


def _as_lists(batches: Iterable[Any], columns: list[str], path: Path, arrow: ModuleType) -> Iterator[Columns]:
    """Batches of Arrow as lists of Python's values."""
    with _damaged(path, arrow):
        for batch in batches:
            batch.validate(full=True)  # offsets of a damaged file may point anywhere
            yield {column: batch.column(column).to_pylist() for column in columns}


@contextmanager
def _damaged(path: Path, arrow: ModuleType) -> Iterator[None]:
    """Errors of Arrow, whose OSErrors have no number, as one line; those of the system pass."""
    try:
        yield
    except (arrow.ArrowException, UnicodeDecodeError, OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = one_line(error)[:100] or "out of memory"
        raise ValueError(f"{path} is no whole {path.suffix.lower()} file ({reason}). Write it again.") from error


def _column(field: str | int, present: Sequence[str], source: object) -> str:
    """The name of a column, from its name or, if none has that name, its number."""
    if field in present:
        return str(field)
    if str(field).isdecimal() and int(field) < len(present):
        return present[int(field)]
    raise ValueError(
        f"{source} has no column {field!r} but {', '.join(map(repr, present[:5])) or 'none'}: give the name of one."
    )


def _class_names(schema: Any, column: str) -> list[str] | None:
    """The names of the classes that ``datasets`` notes in the schema of its files."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


def _class_name(value: object, names: Sequence[str] | None) -> object:
    """The name of a class; -1, which stands for none in test sets, stays a number."""
    return names[value] if names is not None and isinstance(value, int) and 0 <= value < len(names) else value
