"""Output of the commands: lines of text or JSON, in whatever encoding the terminal has."""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["print_json", "print_line", "print_notice", "with_flags"]


def print_line(text: str = "") -> None:
    """Prints a line at once, also into a pipe; what the encoding lacks becomes a backslash escape."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def print_json(item: Mapping[str, Any]) -> None:
    r"""Prints a line of JSON; with ``\u`` escapes, which are JSON as well, where the encoding lacks a character."""
    line = json.dumps(item, ensure_ascii=False, allow_nan=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
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
