"""What a row of any source may hold: a text, or a condition and a text."""

import json

__all__ = ["Field", "Fields", "as_row", "as_text", "check_different"]

Field = str | int  # the key of a JSON object; a column, by its name or its number from 0
Fields = tuple[Field | None, ...]  # of the text (None: the default), or of the condition and of the text


def as_text(value: object, role: str, field: str, place: str) -> str:
    """The text in a field; none is a blank text, and the number of a class is a condition.

    Arguments:
        value: What the field holds.
        role: "text" or "condition".
        field: The name of the field.
        place: Where it stands, for messages.

    Raises:
        ValueError: If it is no text.

    Examples:
        >>> as_text("a rose", "text", "body", "row 0"), as_text(None, "text", "body", "row 1")
        ('a rose', '')
        >>> as_text(3, "condition", "label", "row 0")
        '3'
    """
    if value is None and role == "text":
        return ""  # a row without a text is a blank line
    if role == "condition" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # the number of a class
    if not isinstance(value, str) or not _is_unicode(value):
        content = "half a character" if isinstance(value, str) else _shown(value)
        raise ValueError(f"{place} holds {content} as {field!r}: it must be a text.")
    return value


def as_row(parts: list[str], place: str) -> tuple[str, ...]:
    """The parts of a row without the blanks around them; a pair has both or neither.

    Raises:
        ValueError: If a pair has only one of them.
    """
    row = tuple(part.strip() for part in parts)
    if any(row) and not all(row):
        half = "a condition without a text" if row[0] else "a text without a condition"
        raise ValueError(f"{place} holds {half}: give both, or leave the line out.")
    return row


def check_different(fields: list[str], name: object) -> None:
    """Raises a ValueError if condition and text are in the same field."""
    if len(set(fields)) < len(fields):
        raise ValueError(f"the condition and the text of {name} are both {fields[0]}: name two different fields.")


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which JSON can express and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    """A value as JSON; values that JSON lacks, such as dates, as Python's repr."""
    try:
        return json.dumps(value)[:20]
    except (TypeError, ValueError):
        return repr(value)[:20]
