"""Public names of a package that are imported when they are first used (PEP 562)."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from .garbage import garbage_collection_paused

__all__ = ["lazy_exports"]


def lazy_exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package whose public names live in modules that are slow to import.

    Neither ``import pyroformer`` nor the command line's ``--help`` may wait for torch.

    Arguments:
        package: The package's ``__name__``.
        homes: Where each name lives, as in an entry point: ``module:name`` relative to the package, or a ``module``.

    Examples:
        >>> get, names = lazy_exports("pyroformer.models", {"Batch": "batch:Batch"})
        >>> get("Batch").__name__, names()
        ('Batch', ['Batch'])
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        with garbage_collection_paused():  # a fifth of the time of importing Lightning
            value = import_module(f".{module}", package)
        value = getattr(value, attribute) if attribute else value
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(homes)

    return get, names
