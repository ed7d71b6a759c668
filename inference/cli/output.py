"""Output of the commands: lines of text or JSON, in whatever encoding the terminal has."""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["print_json", "print_line", "print_notice", "printable", "with_flags"]


def print_line(text: str = "") -> None:
    """Prints a line at once, also into a pipe; what the encoding lacks becomes a backslash escape."""
    print(printable(text, _encoding()), flush=True)


def printable(text: str, encoding: str | None) -> str:
    """A text in which what an encoding lacks is a backslash escape; UTF-8 lacks nothing but half characters."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def print_json(item: Mapping[str, Any]) -> None:
    r"""Prints a line of JSON; with ``\u`` escapes, which are JSON as well, where the encoding lacks a character."""
    line = json.dumps(item, ensure_ascii=False, allow_nan=False)
    try:
        line.encode(_encoding() or "utf-8")
    except UnicodeEncodeError:
        line = json.dumps(item, allow_nan=False)
    print_line(line)


def print_notice(text: str) -> None:
    """Prints a line on standard error, beside the results."""
    print(text, file=sys.stderr, flush=True)


def with_flags(text: str) -> str:
    """The options of training that a message names, as they are typed on the command line.

    Examples:
        >>> with_flags("train anew with free_bits or target_kl")
        'train anew with --free_bits or --target_kl'
    """
    return re.sub(r"\b(free_bits|target_kl|kl_schedule)\b", r"--\1", text)


def _encoding() -> str | None:
    """The encoding of standard output; None if it has none, or is closed."""
    return getattr(sys.stdout, "encoding", None)
