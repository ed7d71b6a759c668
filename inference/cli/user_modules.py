"""Modules that the user named by import path: the only ones that are imported from the current folder."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from yaml import YAMLError

from ...models.utils.errors import first_line
from ..utils.yaml_files import parse_yaml, read_bounded
from .usage_errors import UsageError

__all__ = ["LocalFinder", "import_named", "import_options", "local_modules"]

IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
CLASS_FLAGS = re.compile(r"--(model\.[\w.]+|guide\.[\w.]+|objective|prior|trust)")
CLASS_KEYS = re.compile(r"(model|guide|objective|trust)(\..*)?")


class LocalFinder(MetaPathFinder):
    """Finds modules in the current folder: those that the user named, and those that these import.

    What torch, Pyro and others look for is never found there: they try optional packages, so that a folder with a
    ``dill.py`` in it would have its code executed. Installed modules come first, as this is the last finder.
    """

    def __init__(self) -> None:
        self.named: set[str] = set()
        self.found: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or not (name in self.named or _importer() in self.found):
            return None
        spec = PathFinder.find_spec(name, [os.getcwd()], target)
        if spec is not None:
            self.found.add(name)
        return spec


@contextmanager
def local_modules() -> Iterator[LocalFinder]:
    """A context in which :func:`import_named` looks in the current folder as well."""
    finder = LocalFinder()
    sys.meta_path.append(finder)
    try:
        yield finder
    finally:
        sys.meta_path.remove(finder)


def import_named(path: str, flag: str, finder: LocalFinder) -> None:
    """Imports the module of a class, or the module itself, that the user named with a flag.

    What does not exist is left to the command, which says what the flag expects.

    Raises:
        UsageError: If the module exists and its code fails.
    """
    parts = path.replace(":", ".").split(".")
    if parts[0] == "pyroformer" or not all(part.isidentifier() for part in parts):
        return
    finder.named.add(parts[0])
    try:
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            try:
                module = import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                    raise  # of a module that this one imports
                return
            if end < len(parts) and hasattr(module, parts[end]):
                return
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"{flag} {path} cannot be used: importing {name} failed with {reason}.") from error
    finally:
        finder.named.discard(parts[0])


def import_options(arguments: Sequence[str], finder: LocalFinder) -> list[str]:
    """Imports the classes that options name, also those of a ``--config`` file; returns the arguments.

    A ``--config`` that is a pipe can be read only once: its content takes its place in the arguments.

    Raises:
        UsageError: If a module cannot be imported, or the file of ``--config`` is none of options.
    """
    result = list(arguments)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        at = index if equals else index + 1
        if not flag.startswith("--") or at >= len(arguments):
            continue
        value = value if equals else arguments[at]
        if flag == "--config":
            text = _config_text(value)
            _import_all(_config(text, value), flag, finder)
            if text != value and not Path(value).is_file():
                result[at] = f"{flag}={text}" if equals else text
        elif flag == "--trust" and not equals:
            _import_all(_values_from(arguments, at), flag, finder)
        elif CLASS_FLAGS.fullmatch(flag):
            _import_all(_value(value, flag), flag, finder)
    return result


def _importer() -> str:
    """The top-level package of the module whose import statement is being executed."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package(frame) != "importlib":  # down to the import system, which called the finder
        frame = frame.f_back
    while frame is not None and _package(frame) == "importlib":
        frame = frame.f_back
    return "" if frame is None else _package(frame)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _import_all(value: Any, flag: str, finder: LocalFinder) -> None:
    """Imports whatever is an import path among the texts in plain data."""
    if isinstance(value, Mapping):
        for item in value.values():
            _import_all(item, flag, finder)
    elif isinstance(value, list):
        for item in value:
            _import_all(item, flag, finder)
    elif isinstance(value, str) and (flag == "--trust" or IMPORT_PATH.fullmatch(value)):
        import_named(value, flag, finder)


def _config_text(value: str) -> str:
    """The content of a ``--config``, which may also be written out on the command line."""
    try:
        return read_bounded(Path(value)) if Path(value).exists() else value
    except OSError:  # also a name that is too long for a file: the parser says what it is
        return value
    except ValueError as error:
        raise UsageError(f"the file of --config cannot be read: {error}") from error


def _config(text: str, source: str) -> dict[str, Any]:
    """Those options of a ``--config`` that may name classes."""
    try:
        content = parse_yaml(text, source if text != source else "the text of --config")
    except ValueError as error:
        problem = "is not YAML" if isinstance(error.__cause__, YAMLError) else "cannot be used"
        raise UsageError(f"the file of --config {problem}: {error}") from error
    if not isinstance(content, dict):
        return {}
    return {key: item for key, item in content.items() if CLASS_KEYS.fullmatch(str(key))}


def _value(value: str, flag: str) -> Any:
    """The value of an option as plain data: a class is named by its path, by JSON, or in a file of YAML."""
    try:
        if value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file():
            return parse_yaml(read_bounded(Path(value)), value)
        return parse_yaml(value, f"the value of {flag}") if value[:1] in ("{", "[") else value
    except (ValueError, OSError) as error:
        raise UsageError(f"{flag} cannot be used: {error}") from error


def _values_from(arguments: Sequence[str], start: int) -> list[str]:
    """The arguments from ``start`` to the next option."""
    ends = (index for index in range(start, len(arguments)) if arguments[index].startswith("-"))
    return list(arguments[start : next(ends, len(arguments))])
