"""What the sites of a trace hold: which are latent, which belong to one text each, and their values as arrays."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import Trace
from torch import Tensor

from ...models.base import TEXTS
from ...models.distributions.log_dirichlet import log_simplex

__all__ = ["as_numpy", "displayed_value", "is_local", "latent_sites", "mask_of"]


def latent_sites(trace: Trace, sites: Collection[str] | None = None) -> dict[str, Any]:
    """The sites of a trace that are latent, or those of them that are asked for.

    Raises:
        ValueError: If one that is asked for is not there.
    """
    latent = {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and name not in ("text", TEXTS)
    }
    if unknown := [name for name in sites or () if name not in latent]:
        raise ValueError(f"there is no latent site {unknown[0]!r}: choose among {', '.join(latent) or 'none'}.")
    return latent if sites is None else {name: latent[name] for name in latent if name in sites}


def is_local(site: Mapping[str, Any], plate: str = TEXTS) -> bool:
    """Whether each text, or each member of another plate, has a value of its own."""
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def mask_of(distribution: Any) -> Tensor | None:
    """What a distribution leaves out of its density, if it says so: a mask of Pyro's, or one of log weights."""
    while distribution is not None:
        mask = (
            getattr(distribution, "_mask", None)
            if isinstance(distribution, MaskedDistribution)
            else getattr(distribution, "present", None)
        )
        if isinstance(mask, Tensor):
            return mask
        distribution = getattr(distribution, "base_dist", None)
    return None


def displayed_value(site: Mapping[str, Any], mask: Tensor | None = None) -> np.ndarray:
    """The value of a site for people: weights in place of log weights, NaN where a mask says that nothing is."""
    value = site["value"].exp() if site["fn"].support is log_simplex else site["value"]
    if mask is not None:
        value = torch.where(mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)), value, torch.nan)
    return as_numpy(value)


def as_numpy(value: Tensor) -> np.ndarray:
    """An array of at least single precision."""
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
