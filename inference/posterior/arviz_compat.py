"""Compatibility with ArviZ 0.23, which has InferenceData, and ArviZ 1.x, which has xarray's DataTree."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from torch import nn

__all__ = ["ArviZData", "dataset", "draw_attributes", "from_groups", "group_names", "pareto_smoothed"]

ArviZData: TypeAlias = Any  # InferenceData or DataTree: no class exists in both versions


def from_groups(groups: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArviZData:
    """InferenceData or DataTree, by the installed ArviZ, from xarray datasets by the name of their group."""
    import arviz
    import xarray

    if _first_version():
        data = arviz.InferenceData(attrs=dict(attributes))
        data.add_groups(dict(groups), warn_on_custom_groups=False)
        return data
    tree = xarray.DataTree.from_dict(dict(groups))
    tree.attrs.update(attributes)
    return tree


def draw_attributes(model: nn.Module, guide: nn.Module, seed: int) -> dict[str, Any]:
    """Attributes of data with draws from a guide."""
    return {"model": type(model).__name__, "guide": type(guide).__name__, "seed": seed, "draws_are": "independent"}


def group_names(data: ArviZData) -> list[str]:
    """Names of the groups in the data."""
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

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646
    """
    import arviz
    import xarray

    if _first_version():
        smoothed, shape = arviz.psislw(np.asarray(log_weights, dtype=float))
        return np.asarray(smoothed), float(shape)
    negated = xarray.DataArray(-np.asarray(log_weights, dtype=float)[None], dims=("chain", "draw"))
    smoothed, shape = negated.azstats.psislw(dim=["chain", "draw"])  # it takes log-likelihoods, and turns their sign
    return np.asarray(smoothed).ravel(), float(shape)


def _first_version() -> bool:
    import arviz

    return int(arviz.__version__.split(".")[0]) < 1
