"""Texts, conditions and pairs from any container, such as a column of a data frame, as lists of strings."""

from collections.abc import Iterable, Mapping
from operator import index as whole_number
from typing import Any, TypeAlias

from .texts import Texts

__all__ = ["Conditions", "Pair", "TextSource", "as_conditions", "as_entries", "as_texts"]

Pair = tuple[str, str]  # (condition, text)
# Entries are checked one by one, with a message of their own, so the types of the containers leave them open.
TextSource: TypeAlias = str | Iterable[Any]  # one text, or any container of texts
Conditions: TypeAlias = str | int | Iterable[Any]  # one condition, or any container of them


def as_texts(texts: TextSource, role: str = "text") -> list[str]:
    """The texts of any container in its order, or a list of a single text.

    A list is what the rest of the library indexes: ``column[i]`` of a pandas column is the row *labeled* i.

    Arguments:
        texts: A text, or a list, tuple, generator, array, column of a data frame, and so on.
        role: What an entry is called in messages.

    Raises:
        ValueError: If it is a table, a dictionary or a set, or an entry is not a text, or holds half a character.

    Examples:
        >>> as_texts(text.upper() for text in ("a", "rose"))
        ['A', 'ROSE']
        >>> as_texts(["a", None])
        Traceback (most recent call last):
        ...
        ValueError: text 1 (from 0) is None, not a text: leave it out, or give a string.
    """
    if isinstance(texts, str):
        return [_text(texts, 0, role)]
    if isinstance(texts, Texts):
        return texts[:]
    return [_text(entry, row, role) for row, entry in enumerate(_rows(texts, role))]


def as_conditions(conditions: Conditions) -> list[str]:
    """The conditions of any container in its order; whole numbers, such as numbers of classes, as their digits.

    Raises:
        ValueError: If it is a table, a dictionary or a set, or an entry is neither a text nor a whole number.

    Examples:
        >>> as_conditions([0, "book"])
        ['0', 'book']
    """
    if isinstance(conditions, Texts):
        return conditions[:]
    if isinstance(conditions, str) or not _is_iterable(conditions):
        return [_condition(conditions, 0)]
    return [_condition(entry, row) for row, entry in enumerate(_rows(conditions, "condition"))]


def as_entries(entries: Iterable[Any]) -> list[str] | list[Pair]:
    """Texts, or pairs (condition, text), of any container in its order.

    Raises:
        ValueError: If it is one string, a table, a dictionary or a set, if texts and pairs are mixed, or if an entry is
            neither.

    Examples:
        >>> as_entries(zip([0, 1], ["a table", "never mind"]))
        [('0', 'a table'), ('1', 'never mind')]
    """
    if isinstance(entries, str):
        raise ValueError(f"{entries[:40]!r} is one string: give a list of texts, or a file with Corpus.from_file.")
    if isinstance(entries, Texts):
        texts = entries[:]
        return texts if entries.conditions is None else list(zip(entries.conditions[:], texts, strict=True))
    rows = list(_rows(entries, "text"))
    if not rows or not _is_sequence(rows[0]):
        return [_text(entry, row, "text") for row, entry in enumerate(rows)]
    return [_pair(entry, row) for row, entry in enumerate(rows)]


_MISSING = {"None", "nan", "NaT", "<NA>"}


def _rows(entries: Any, role: str) -> Iterable[Any]:
    """The entries of a container that has an order and no columns."""
    columns = getattr(entries, "column_names", getattr(entries, "columns", None))
    if columns is not None and _is_iterable(columns):
        names = ", ".join(repr(str(name)) for name in list(columns)[:5])
        raise ValueError(f"this is a table with the columns {names or '(none)'}: give the one of the {role}s.")
    if isinstance(entries, Mapping):
        names = ", ".join(repr(str(name)) for name in list(entries)[:5])
        raise ValueError(f"this is a dictionary with the keys {names or '(none)'}: give a list of its {role}s.")
    if isinstance(entries, set | frozenset):
        raise ValueError(f"this is a set, whose order is arbitrary: give a list of {role}s, such as sorted(...).")
    if isinstance(entries, bytes | bytearray) or not _is_iterable(entries):
        raise ValueError(f"{_shown(entries)} is not a list of {role}s: give strings.")
    rows: Iterable[Any] = entries
    return rows


def _text(entry: Any, row: int, role: str) -> str:
    if isinstance(entry, str):
        return _whole(entry, row, role)
    raise ValueError(f"{role} {row} (from 0) is {_shown(entry)}, not a text: {_way_out(entry, role)}")


def _condition(entry: Any, row: int) -> str:
    if isinstance(entry, str):
        return _whole(entry, row, "condition")
    try:
        if not isinstance(entry, bool):
            return str(whole_number(entry))
    except TypeError:
        pass
    raise ValueError(
        f"condition {row} (from 0) is {_shown(entry)}, neither a text nor a whole number: "
        f"{_way_out(entry, 'condition')}"
    )


def _whole(entry: str, row: int, role: str) -> str:
    """A text as a plain string, which np.str_ becomes."""
    try:
        entry.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{role} {row} (from 0) holds {entry[error.start]!a} at position {error.start}, half of a character: "
            "give whole Unicode characters."
        ) from error
    return str(entry)


def _pair(entry: Any, row: int) -> Pair:
    if not _is_sequence(entry) or len(entry) != 2:
        raise ValueError(
            f"entry {row} is {_shown(entry)}, the first one a pair: give pairs (condition, text) alone, or texts alone."
        )
    condition, text = entry
    return _condition(condition, row), _text(text, row, "text")


def _is_sequence(entry: Any) -> bool:
    """Whether an entry is a row of parts, such as a tuple or a row of an array, and not a text or a dictionary."""
    return not isinstance(entry, str | bytes | bytearray | Mapping | set) and hasattr(entry, "__len__")


def _is_iterable(value: Any) -> bool:
    try:
        iter(value)
    except TypeError:
        return False
    return True


def _shown(entry: Any) -> str:
    shown = repr(entry)
    return " ".join((shown if len(shown) <= 60 else f"{shown[:57]}...").split())


def _way_out(entry: Any, role: str) -> str:
    if isinstance(entry, bytes | bytearray):
        return "decode it, as in entry.decode('utf-8')."
    if isinstance(entry, Mapping):
        return f"give the {role} alone, as in [row[{next(iter(entry), role)!r}] for row in rows]."
    if str(entry) in _MISSING:
        return "leave it out, or give a string."
    if _is_sequence(entry) or _is_iterable(entry):
        return "give one string for each entry, such as list(array.ravel()) of an array."
    return "give a string, such as str(entry)."
