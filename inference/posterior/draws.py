"""Draws collected one by one, with the names of their dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor, nn

from ..objectives.traces import as_numpy, displayed_value, is_local, latent_sites
from .labels import Variables, storable

__all__ = [
    "POINT_SITES",
    "Draws",
    "dimension_names",
    "draw_attributes",
    "is_auxiliary",
    "mixture_dataset",
    "point_sites",
]

MIXTURE = {
    "keys": ("component", "dimension"),
    "precision": ("component", "dimension"),
    "values": ("component", "value_dimension"),
    "weights": ("component",),
}
POINT_SITES = "point_sites"  # attribute of sample_stats


class Draws:
    """Draws by group and variable.

    Arguments:
        dimensions: The names of the dimensions of a latent of one text, by site.
    """

    def __init__(self, dimensions: Mapping[str, tuple[str, ...]]) -> None:
        self.dimensions = dimensions
        self.groups: dict[str, dict[str, list[np.ndarray]]] = {}
        self.dims: dict[tuple[str, str], tuple[str, ...]] = {}

    def add_latents(self, group: str, sites: Mapping[str, Any], masks: Mapping[str, Tensor | None]) -> None:
        """Add one draw of latent sites, with NaN where a mask is False."""
        values = {name: displayed_value(site, masks[name]) for name, site in sites.items() if not is_auxiliary(site)}
        shapes = {name: value.shape[1:] if is_local(sites[name]) else value.shape for name, value in values.items()}
        names = dimension_names(shapes, self.dimensions)
        for name, value in values.items():
            self._append(group, name, value, (*(("text",) if is_local(sites[name]) else ()), *names[name]))

    def add(self, group: str, values: Mapping[str, Tensor]) -> None:
        """Add one draw of quantities with one value for each text, or for each token of each text."""
        for name, value in values.items():
            self._append(group, name, as_numpy(value), ("text", "token")[: value.ndim])

    def add_strings(self, group: str, name: str, texts: Sequence[str]) -> None:
        """Add one draw of a string for each text."""
        self._append(group, name, np.array([storable(text) for text in texts], dtype=str), ("text",))

    def stacked(self, group: str) -> Variables:
        """All draws of a group as one chain; rows of different lengths are padded with zeros."""
        result: Variables = {}
        for name, values in self.groups[group].items():
            if len({value.shape for value in values}) > 1:
                sizes = np.max([value.shape for value in values], axis=0)
                values = [np.pad(x, [(0, n - k) for n, k in zip(sizes, x.shape, strict=True)]) for x in values]
            result[name] = (("chain", "draw", *self.dims[group, name]), np.stack(values)[None])
        return result

    def _append(self, group: str, name: str, value: np.ndarray, dims: tuple[str, ...]) -> None:
        self.groups.setdefault(group, {}).setdefault(name, []).append(value)
        self.dims[group, name] = dims


def dimension_names(
    shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """The names of the dimensions of each variable.

    Those of a variable that is not known, such as the variances of a base measure, or whose sizes contradict a known
    one before it, are named after the one that has their size, ``dimension`` or ``component``; those of other sizes
    after the variable.

    Examples:
        >>> shapes = {"base_measure.lam": (16,), "vectors": (4, 16), "base_measure.tree": (3,)}
        >>> dimension_names(shapes, {"vectors": ("component", "dimension")})["base_measure.lam"]
        ('dimension',)
        >>> dimension_names(shapes, {})["base_measure.tree"]
        ('base_measure.tree_dim_0',)
        >>> known = {"keys": ("component", "dimension"), "precision": ("component", "dimension")}
        >>> dimension_names({"keys": (5, 2), "precision": (2, 2)}, known)["precision"]
        ('precision_dim_0', 'precision_dim_1')
    """
    sizes: dict[str, int] = {}
    for name, names in known.items():
        if len(names) == len(known_shape := shapes.get(name, ())):
            sizes = dict(zip(names, known_shape, strict=True)) | sizes
    result = {}
    for name, shape in shapes.items():
        names = known.get(name, ())
        if len(names) != len(shape) or any(sizes[dim] != size for dim, size in zip(names, shape, strict=True)):
            alike = [
                next((dim for dim in ("dimension", "component") if sizes.get(dim) == size), None) for size in shape
            ]
            names = tuple(
                dim if dim is not None and alike.count(dim) == 1 else f"{name}_dim_{index}"
                for index, dim in enumerate(alike)
            )
        result[name] = names
    return result


def mixture_dataset(arrays: Mapping[str, np.ndarray], known: Mapping[str, tuple[str, ...]] | None = None) -> Any:
    """Draws, with the axes of chain and draw in front, as a dataset that names the dimensions of a mixture's parts.

    Arguments:
        arrays: The draws of each variable.
        known: The names of the other dimensions of variables that are no parts.
    """
    import xarray

    names = _mixture_dimension_names({name: array.shape[2:] for name, array in arrays.items()}) | dict(known or {})
    return xarray.Dataset({name: (("chain", "draw", *names[name]), array) for name, array in arrays.items()})


def _mixture_dimension_names(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """The names of the dimensions of the parts of a mixture, whose precisions may be one for each component.

    Examples:
        >>> _mixture_dimension_names({"precision": (2,), "keys": (2, 2), "weights": (2,)})["precision"]
        ('component',)
    """
    return dimension_names(shapes, {name: names[: len(shapes.get(name, ()))] for name, names in MIXTURE.items()})


def is_auxiliary(site: Mapping[str, Any]) -> bool:
    """Whether a site only serves to draw another, such as the unconstrained one of an automatic guide."""
    return bool(site["infer"].get("is_auxiliary"))


def draw_attributes(model: nn.Module, guide: nn.Module, seed: int) -> dict[str, Any]:
    """Attributes of data with draws from a guide."""
    return {"model": type(model).__name__, "guide": type(guide).__name__, "seed": seed, "draws_are": "independent"}


def point_sites(model: Any, guide: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
    """An attribute with the latent sites at which a guide is a point, if any: a point mass, the same in two draws.

    One whose draws differ is a function of another site, as the sites of Pyro's automatic guides are; one that has the
    same value in the model, such as the weight of a single component, has no other.
    """
    if guide is None:
        return {}
    drawn, again, own = (latent_sites(poutine.trace(each).get_trace(*args, **kwargs)) for each in (guide, guide, model))

    deltas = [name for name, site in drawn.items() if _is_delta(site["fn"])]
    points = [
        name
        for name in deltas
        if torch.equal(drawn[name]["value"], again[name]["value"])
        and not (name in own and _close(drawn[name]["value"], own[name]["value"]))
    ]
    return {POINT_SITES: " ".join(points)} if points else {}


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other)


def _is_delta(distribution: Any) -> bool:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return isinstance(distribution, Delta)
