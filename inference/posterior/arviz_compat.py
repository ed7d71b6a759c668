"""Compatibility with ArviZ 0.23, which has InferenceData, and ArviZ 1.x, which has xarray's DataTree."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

__all__ = [
    "ArviZData",
    "dataset",
    "from_groups",
    "group_names",
    "is_draws",
    "pareto_smoothed",
]

ArviZData: TypeAlias = Any  # InferenceData or DataTree: no class exists in both versions


_ROUNDING = 0.01  # nats; more than the rounding of log densities in float32, less than any tail


def from_groups(groups: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArviZData:
    """InferenceData or DataTree, by the installed ArviZ, from xarray datasets by the name of their group.

    Attributes, and those of ArviZ's schema (library, version, time), are set on the whole and on each group. Entries of
    a dimension without labels are numbered: ``arviz.plot_trace`` and others of ArviZ 1 fail without coordinates.
    """
    import arviz
    import xarray

    attributes = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inference_library": "pyroformer",
        "inference_library_version": version("pyroformer"),
    } | dict(attributes)
    groups = {name: numbered(group).assign_attrs({**attributes, **group.attrs}) for name, group in groups.items()}
    if _first_version():
        data = arviz.InferenceData(attrs=attributes)
        data.add_groups(dict(groups), warn_on_custom_groups=False)
        return data
    tree = xarray.DataTree.from_dict(dict(groups))
    tree.attrs.update(attributes)
    return tree


def is_draws(data: object) -> bool:
    """Whether these are draws for ArviZ, of either version."""
    return hasattr(data, "add_groups") or hasattr(data, "children")


def group_names(data: ArviZData) -> list[str]:
    """Names of the groups in the data.

    Raises:
        ValueError: If these are no draws for ArviZ.
    """
    if not is_draws(data):
        raise ValueError(f"data has type {type(data).__name__}: give what posterior(...) or to_arviz(...) returns.")
    return list(data.groups() if hasattr(data, "add_groups") else data.children)


def dataset(data: ArviZData, group: str) -> Any:
    """A group as an xarray dataset.

    Raises:
        ValueError: If there is no such group.
    """
    if group not in group_names(data):
        raise ValueError(f"there is no group {group!r} in the data: make it with posterior(...) or to_arviz(...).")
    content = data[group]
    return content.to_dataset() if hasattr(content, "to_dataset") else content


def pareto_smoothed(log_weights: Float[np.ndarray, " S"]) -> tuple[Float[np.ndarray, " S"], float]:
    r"""Pareto smoothing of log importance weights: the smoothed, normalized log weights, and the tail shape k-hat.

    Where the largest weight is that of all draws of the tail, up to rounding, there is none to fit, and k-hat is 0: the
    guide is exact, or weights are bounded, as those of latents with few values may be. Where a weight is infinite or
    no number, k-hat is infinite.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646
    """
    import arviz
    import xarray

    log_weights = np.asarray(log_weights, dtype=float)
    if not (log_weights < math.inf).all():
        return np.full_like(log_weights, math.nan), math.inf
    tail = math.ceil(min(0.2 * log_weights.size, 3 * math.sqrt(log_weights.size)))  # of this length, as in the paper
    ends = [-min(tail + 1, log_weights.size), -1]
    cutoff, largest = np.partition(log_weights, ends)[ends]
    if np.isfinite(largest) and largest - cutoff < _ROUNDING:
        return log_weights - np.logaddexp.reduce(log_weights), 0.0
    if _first_version():
        smoothed, shape = arviz.psislw(log_weights)
        return np.asarray(smoothed), _or_worst(float(shape))
    negated = xarray.DataArray(-log_weights[None], dims=("chain", "draw"))
    smoothed, shape = negated.azstats.psislw(dim=["chain", "draw"])  # it takes log-likelihoods, and turns their sign
    return np.asarray(smoothed).ravel(), _or_worst(float(shape))


def numbered(group: Any) -> Any:
    """A dataset whose dimensions all have a coordinate."""
    return group.assign_coords({dim: np.arange(n) for dim, n in group.sizes.items() if dim not in group.coords})


def _or_worst(shape: float) -> float:
    """The shape of a tail; the largest where it could not be fitted, which ArviZ 1 reports as no number."""
    return math.inf if math.isnan(shape) else shape


def _first_version() -> bool:
    import arviz

    return int(arviz.__version__.split(".")[0]) < 1
