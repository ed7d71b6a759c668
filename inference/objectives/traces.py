"""Sites of a Pyro trace: which are latent, which are local to a text, their densities and their values as arrays."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor

from ...models.base import DRAWN_BY_MODEL, TEXTS
from ...models.distributions.log_simplex import LogSimplex

__all__ = [
    "Site",
    "as_numpy",
    "displayed_value",
    "drawn_by_model",
    "is_local",
    "latent_sites",
    "log_prob",
    "mask_of",
    "masks_in",
    "plate_dim",
    "plates",
    "sample_sites",
]

Site = Mapping[str, Any]


def sample_sites(trace: Trace) -> dict[str, Any]:
    """The sample sites of a trace, latent and observed, without those of subsampling plates."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"
    }


def latent_sites(trace: Trace, sites: Collection[str] | None = None) -> dict[str, Any]:
    """The latent sites of a trace, or some of them.

    Raises:
        ValueError: If one of ``sites`` is not a latent site of the trace.
    """
    latent = {
        name: site
        for name, site in sample_sites(trace).items()
        if not site["is_observed"] and name not in ("text", TEXTS)
    }
    if unknown := [name for name in sites or () if name not in latent]:
        raise ValueError(f"there is no latent site {unknown[0]!r}: choose among {', '.join(latent) or 'none'}.")
    return latent if sites is None else {name: latent[name] for name in latent if name in sites}


def drawn_by_model(trace: Trace) -> dict[str, Any]:
    """The latent sites that a guide leaves to its model, because their posterior is the model's conditional."""
    return {name: site for name, site in latent_sites(trace).items() if site["infer"].get(DRAWN_BY_MODEL)}


def plates(trace: Trace) -> Iterator[Any]:
    """The plates around each sample site of a trace, site by site, as frames with a ``name`` and a ``dim``."""
    for site in sample_sites(trace).values():
        yield from site["cond_indep_stack"]


def is_local(site: Site, plate: str = TEXTS) -> bool:
    """Whether a site is inside a plate, so that each text (or other member of the plate) has its own value."""
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def plate_dim(site: Site) -> int | None:
    """The batch dimension of the plate of texts around a site; None for a site outside that plate."""
    return next((frame.dim for frame in site["cond_indep_stack"] if frame.name == TEXTS), None)


def log_prob(site: Site) -> Tensor:
    """The log density of a site's value, scaled and masked as Pyro does."""
    value: Tensor = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
    return value


def mask_of(distribution: Any) -> Tensor | None:
    """The mask of a distribution's density: that of a :class:`MaskedDistribution`, or of log weights; None without."""
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


def masks_in(trace: Trace, sites: Mapping[str, Site]) -> dict[str, Tensor | None]:
    """The mask of what exists at some sites of a trace: of the components that are present, if some may not be.

    Weights have none: that of an absent component is 0.
    """
    masks = {name: mask_of(site["fn"]) for name, site in sites.items()}
    presence = sample_sites(trace).get("presence")
    if presence is None or (own := mask_of(presence["fn"])) is None:
        return masks
    there = own & (presence["value"] > 0.5)
    weighed = {name for name, site in sites.items() if name == "presence" or isinstance(site["fn"].support, LogSimplex)}
    return {name: mask if mask is None else own if name in weighed else there for name, mask in masks.items()}


def displayed_value(site: Site, mask: Tensor | None = None) -> np.ndarray:
    """The value of a site for display: weights instead of log weights, NaN where the mask is False."""
    value = site["value"].exp() if isinstance(site["fn"].support, LogSimplex) else site["value"]
    if mask is not None:
        value = torch.where(mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)), value, torch.nan)
    return as_numpy(value)


def as_numpy(value: Tensor) -> np.ndarray:
    """An array of at least single precision."""
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
