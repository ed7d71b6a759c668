"""The one place that knows which ArviZ is installed: 0.23 has InferenceData, 1.x has xarray's DataTree."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["dataset", "from_groups", "group_names", "pareto_smoothed"]


def from_groups(groups: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    """What the installed ArviZ understands, of xarray datasets by the name of their group."""
    import arviz
    import xarray

    if _first_version():
        data = arviz.InferenceData(attrs=dict(attributes))
        data.add_groups(dict(groups), warn_on_custom_groups=False)
        return data
    tree = xarray.DataTree.from_dict(dict(groups))
    tree.attrs.update(attributes)
    return tree


def group_names(data: Any) -> list[str]:
    """The names of the groups that there are."""
    return list(data.groups() if hasattr(data, "add_groups") else data.children)


def dataset(data: Any, group: str) -> Any:
    """A group as an xarray dataset.

    Raises:
        ValueError: If there is no such group.
    """
    if group not in group_names(data):
        raise ValueError(f"there is no group {group!r} in the data: make it with posterior(...) or to_arviz(...).")
    found = data[group]
    return found.to_dataset() if hasattr(found, "to_dataset") else found


def pareto_smoothed(log_weights: Float[np.ndarray, " S"]) -> tuple[Float[np.ndarray, " S"], float]:
    r"""Log importance weights, their largest ones smoothed and normalized, and the shape k-hat of their tail.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646
    """
    import arviz
    import xarray

    if _first_version():
        smoothed, shape = arviz.psislw(np.asarray(log_weights, dtype=float))
        return np.asarray(smoothed), float(shape)
    negated = xarray.DataArray(-np.asarray(log_weights, dtype=float)[None], dims=("chain", "draw"))
    found, shape = negated.azstats.psislw(dim=["chain", "draw"])  # it takes log-likelihoods, and turns their sign
    return np.asarray(found).ravel(), float(shape)


def _first_version() -> bool:
    import arviz

    return int(arviz.__version__.split(".")[0]) < 1
