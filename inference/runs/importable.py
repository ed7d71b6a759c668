"""Classes in a run's configuration that nothing can import again."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["warn_of_unimportable"]


def warn_of_unimportable(config: Mapping[str, Any], stacklevel: int = 2) -> None:
    """Warns of classes that no other program can import, so that the run could not be loaded."""
    for path in _class_paths(config):
        if path.startswith("__main__.") or "<locals>" in path:
            module = "a notebook or script" if path.startswith("__main__.") else "a function"
            warnings.warn(
                f"the run uses {path}, a class of {module}, which no other program can import to load the run: move it "
                "to the top level of a module of its own, such as my_priors.py, and import it from there.",
                stacklevel=stacklevel + 1,
            )


def _class_paths(recipe: Any) -> Iterator[str]:
    if isinstance(recipe, Mapping):
        if isinstance(path := recipe.get("class_path"), str):
            yield path
        recipe = list(recipe.values())
    if isinstance(recipe, list):
        for item in recipe:
            yield from _class_paths(item)
