"""YAML files of bounded size: what a few bytes can expand to is refused before it is built."""

from pathlib import Path
from typing import Any

import yaml

from ...models.utils.errors import first_line

__all__ = ["MAX_BYTES", "read_bounded", "read_yaml"]

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000  # after aliases are expanded: nine lines of nine aliases each stand for a billion values


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: If it is no UTF-8 text, no YAML, too large, or nested too deeply.
        OSError: If it cannot be opened.
    """
    return parse_yaml(read_bounded(path), str(path))


def read_bounded(path: Path) -> str:
    """The text of a file of at most ``MAX_BYTES``.

    Raises:
        ValueError: If it is longer, or no UTF-8 text.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)  # not the size in the folder: a device has none
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes: a file of options has a few thousand.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is damaged or not UTF-8 text (byte 0x{content[error.start]:02x} at position {error.start}): save "
            "it as UTF-8."
        ) from error


def parse_yaml(text: str, source: str) -> Any:
    """The content of a YAML text; ``source`` names it in messages.

    Examples:
        >>> parse_yaml("steps: 3", "options.yaml")
        {'steps': 3}
        >>> parse_yaml("a: &a [*a]", "options.yaml")
        Traceback (most recent call last):
        ...
        ValueError: options.yaml has an alias of itself: write its values out.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _values(node, source, {}) > MAX_VALUES:
            raise ValueError(f"{source} stands for more than {MAX_VALUES:,} values: write them without aliases.")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is damaged or not YAML: {_reason(error)}.") from error
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply: options have a few levels.") from None


def _reason(error: yaml.YAMLError) -> str:
    """The problem, and the lines that it is in."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return first_line(error)
    parts = [(error.context, error.context_mark), (error.problem, error.problem_mark)]
    return ", ".join(text + (f" in line {mark.line + 1}" if mark else "") for text, mark in parts if text)


def _values(node: yaml.Node, source: str, counts: dict[int, int | None]) -> int:
    """The number of values of a node with all aliases expanded."""
    if id(node) in counts:
        count = counts[id(node)]
        if count is None:
            raise ValueError(f"{source} has an alias of itself: write its values out.")
        return count
    counts[id(node)] = None
    parts = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in parts for part in pair]
    counts[id(node)] = total = 1 + sum(_values(part, source, counts) for part in parts)
    return total
