"""Versions of the library that wrote a run."""

import re
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["warn_of_newer_version"]


def warn_of_newer_version(config: Mapping[str, Any], file: Path) -> None:
    """Warns of a configuration that a newer version wrote, or one whose version is none.

    Such a run is opened all the same. What it has that this version has not, such as a class or an argument, is
    refused by name where it is built.
    """
    own, written = version("pyroformer"), config.get("pyroformer")
    if written is not None and not _release(own) >= _release(str(written)) > ():
        _warn_once(
            f"{file} was written by pyroformer {written}, and this is {own}: it may read it wrongly; install that "
            "version, or a later one."
        )


@cache
def _warn_once(message: str) -> None:
    """Warns, however often a command reads the file; Python's own memory of warnings is lost with each new filter."""
    warnings.warn(message, stacklevel=3)


def _release(name: str) -> tuple[int, ...]:
    """The numbers of a version, without what marks it as a preview; none if it is no version.

    Examples:
        >>> _release("0.1.0.dev0"), _release("unknown")
        ((0, 1, 0), ())
    """
    match = re.match(r"\d+(\.\d+)*", name)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
