"""Texts that commands take from the command line or from files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["read_test_texts", "require_text", "texts_to_encode"]


def require_text(flag: str, text: str | None) -> str:
    """The text behind a flag.

    Raises:
        ValueError: If it is missing or blank.
    """
    if text is None or not text.strip():
        raise ValueError(f"{flag} is {'missing' if text is None else 'empty'}: give a text of at least one word.")
    return text


def read_test_texts(data: str, field: str | None, condition: str | None = None) -> Any:
    """The texts or pairs of a file, or of the test file in a folder."""
    from ..data.readers import read_file, read_texts

    if Path(data).is_dir():
        return read_texts(data, field, condition=condition)[0]["test"]
    return read_file(data, field, condition=condition)[0]


def texts_to_encode(
    texts: Sequence[str], data: str | None, field: str | None, condition: str | None, n: int | None
) -> Any:
    """At most ``n`` texts or pairs, of ``--text`` or of ``--data``; None if neither is set.

    Raises:
        ValueError: If both are set, a condition comes without a text, or ``n`` is below 1.
    """
    if texts and data is not None:
        raise ValueError("both --text and --data say what to encode: give one of them.")
    if n is not None and n < 1:
        raise ValueError(f"-n is {n}: give a positive whole number.")
    if texts:
        return (texts if condition is None else [(condition, text) for text in texts])[:n]
    if data is not None:
        return read_test_texts(data, field, condition)[:n]
    if condition is not None:
        raise ValueError(f"--condition is {condition!r}, but of no text: give --text or --data with it.")
    return None
