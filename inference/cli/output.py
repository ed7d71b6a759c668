"""Output of the commands: lines of text or JSON."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["print_json", "print_line"]


def print_line(text: str = "") -> None:
    """Prints a line at once, also into a pipe."""
    print(text, flush=True)


def print_json(item: Mapping[str, Any]) -> None:
    """Prints a line of JSON."""
    print_line(json.dumps(item, ensure_ascii=False, allow_nan=False))
