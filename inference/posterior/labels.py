"""Labels of texts, tokens and components as coordinates."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Variables", "labeled_dataset", "storable", "token_labels", "unique_labels"]

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]  # name: (dimensions, values)


def labeled_dataset(variables: Variables, texts: Sequence[str] | None, pieces: Sequence[str] | None) -> Any:
    """A dataset with labels of its texts: equal ones are numbered, and the coordinate ``string`` has them unchanged.

    The tokens of a single text label tokens and components.
    """
    import xarray

    dims = {name: size for at, values in variables.values() for name, size in zip(at, values.shape, strict=True)}
    coords: dict[str, Any] = {}
    if texts is not None and "text" in dims:
        labels = unique_labels(texts)
        coords["text"] = np.array(labels)
        if labels != list(texts):
            coords["string"] = ("text", np.array(texts))
    for dim in ("token", "component"):
        if dim in dims and pieces and (tokens := token_labels(pieces, dims[dim])):
            coords[dim] = np.array(tokens)
    return xarray.Dataset({name: (at, values) for name, (at, values) in variables.items()}, coords)


def unique_labels(texts: Sequence[str]) -> list[str]:
    """A label for each text as a coordinate: the text itself, numbered where it occurs again.

    Examples:
        >>> unique_labels(["ok", "yes", "ok"])
        ['ok', 'yes', 'ok (2)']
    """
    labels: dict[str, None] = {}
    reserved = set(texts)
    for text in texts:
        label, number = text, 1
        while label in labels or (number > 1 and label in reserved):
            number += 1
            label = f"{text} ({number})"
        labels[label] = None
    return list(labels)


def token_labels(pieces: Sequence[str], count: int) -> list[str] | None:
    """Labels of ``count`` tokens or components of a text: its tokens, the prior's first if there are as many more.

    It is None if the count is neither: the components belong to no tokens.

    Examples:
        >>> token_labels(["no", " no", "."], 3), token_labels(["a", "."], 6)
        (['no', ' no', '.'], ['prior', 'prior (2)', 'a', 'a (2)', '.', '. (2)'])
    """
    names = [*pieces] if count == len(pieces) else ["prior", *pieces]
    if count % len(names):
        return None
    return unique_labels([name for name in names for _ in range(count // len(names))])


def storable(text: str) -> str:
    r"""A text as NumPy and NetCDF can hold it: NUL, which ends their strings, as the escape ``\x00``."""
    return text.replace("\0", r"\x00")
