r"""Export of the posterior of global latents, such as keys or hyper-parameters, to ArviZ.

==================== ==========================================================================================
group                contents
==================== ==========================================================================================
posterior            draws of every latent site from the guide
prior                draws of the same sites from the model
log_likelihood       ``per_observation``: log p(observation | draw), enumerated sites summed out
sample_stats         ``log_p`` of the joint density and ``log_q`` of the guide: one number for each draw
observed_data        what the model observes inside the plate, one row for each observation
==================== ==========================================================================================
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from ...models.base import TEXTS
from ...models.utils.numbers import check_at_least
from ..objectives.traces import (
    Site,
    as_numpy,
    displayed_value,
    is_local,
    latent_sites,
    log_prob,
    plates,
    sample_sites,
)
from ..utils.seeded_eval import seeded_eval
from .arviz_compat import ArviZData, from_groups
from .draws import draw_attributes, is_auxiliary, mixture_dataset, point_sites

__all__ = ["global_posterior"]

OBSERVED = {"per_observation": ("observation",)}


def global_posterior(
    model: nn.Module,
    guide: nn.Module,
    *args: Any,
    plate: str = TEXTS,
    draws: int = 1000,
    seed: int = 0,
    **kwargs: Any,
) -> ArviZData:
    r"""Posterior draws and log densities of a model whose latents are shared by all observations.

    The input of :func:`~pyroformer.inference.diagnostics.loo` and :func:`~pyroformer.inference.diagnostics.khat`. Sites
    that are enumerated inside the plate, such as an assignment to a component, are summed out. The observations must be
    the whole data set, not a batch. Plates around the one over observations multiply them, plates inside it are parts
    of one observation, and what a mask hides is none.

    Arguments:
        model: A generative model without learnable parameters: every unknown is a sample site.
        guide: Its guide.
        args: Positional arguments of model and guide.
        plate: Name of the plate over observations: ``texts``, or ``tokens`` in a
            :class:`~pyroformer.MixtureAttention`.
        draws: Number of posterior draws.
        seed: Random seed.
        kwargs: Keyword arguments of model and guide.

    Raises:
        ValueError: If ``draws`` is below 1, the model has learnable parameters or no such plate, a latent is local to
            one observation, the guide lacks a site, a site is enumerated outside the plate, sites inside
            it are in different plates, or a mask hides all data.

    Examples:
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyroformer.guides.automatic import Automatic
        >>> mixture = pf.Mixture(torch.zeros(2).log_softmax(-1), torch.tensor([[-2.0], [2.0]]), noise_variance=1.0)
        >>> model = pf.MixtureAttention.conjugate(mixture)
        >>> data = global_posterior(model, Automatic(model, AutoNormal), torch.randn(9, 1), plate="tokens", draws=5)
        >>> dict(data.log_likelihood["per_observation"].sizes)
        {'chain': 1, 'draw': 5, 'observation': 9}
    """
    check_at_least(1, draws=draws)
    if learned := [name for name, value in model.named_parameters() if value.requires_grad]:
        raise ValueError(
            f"{learned[0]} of the {type(model).__name__} is a learned parameter, fitted to every observation: give it "
            "a prior, or compare models on held-out observations."
        )
    with seeded_eval(model, guide, seed=seed):
        drawn = [_draw(model, guide, plate, args, kwargs) for _ in range(draws)]
        observed, counted = _observed(model, plate, args, kwargs)
        points = point_sites(model, guide, *args, **kwargs)
    groups = {
        group: {name: np.stack([draw[group][name] for draw in drawn])[None] for name in arrays}
        for group, arrays in drawn[0].items()
    }
    likelihood = groups["log_likelihood"]
    likelihood["per_observation"] = likelihood["per_observation"][..., counted]
    datasets = {group: mixture_dataset(arrays, OBSERVED) for group, arrays in groups.items()}
    datasets["sample_stats"].attrs.update(points)
    return from_groups(datasets | {"observed_data": observed}, draw_attributes(model, guide, seed))


def _draw(
    model: nn.Module, guide: nn.Module, plate: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, dict[str, np.ndarray]]:
    """One draw: the variables of each group."""
    guide_trace = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
    prior_trace = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
    latents = latent_sites(guide_trace)
    _check_sites(prior_trace, guide_trace, plate)
    nesting = -min(frame.dim for frame in plates(prior_trace) if frame.dim is not None)
    replayed = poutine.enum(poutine.replay(model, trace=guide_trace), first_available_dim=-1 - nesting)
    trace = prune_subsample_sites(poutine.trace(replayed).get_trace(*args, **kwargs))
    each, rest = _log_p(trace, plate, nesting)
    log_q = sum((log_prob(site).sum() for site in latents.values()), torch.zeros(()))
    return {
        "posterior": {
            name: displayed_value(trace.nodes[name]) for name, site in latents.items() if not is_auxiliary(site)
        },
        "prior": {name: displayed_value(prior_trace.nodes[name]) for name in latents if name in prior_trace.nodes},
        "log_likelihood": {"per_observation": as_numpy(each)},
        "sample_stats": {"log_p": as_numpy(each.sum() + rest), "log_q": as_numpy(log_q)},
    }


def _log_p(trace: Trace, plate: str, nesting: int) -> tuple[Tensor, Tensor]:
    """Log density of each observation, enumerated sites summed out, and that of all sites outside the plate."""
    inside, rest, dims = torch.zeros(()), torch.zeros(()), set[int]()
    for site in sample_sites(trace).values():
        if is_local(site, plate):
            dims |= _observation_dims(site, plate)
            inside = inside + log_prob(site)
        else:
            rest = rest + log_prob(site).sum()
    if inside.ndim > nesting:
        inside = inside.flatten(0, inside.ndim - nesting - 1).logsumexp(0)
    each = _rows(inside, dims)
    return each.reshape(len(each), -1).sum(-1), rest


def _observation_dims(site: Site, plate: str) -> set[int]:
    """The batch dimensions over which observations run: that of the plate and those of the plates around it."""
    names = [frame.name for frame in site["cond_indep_stack"]]  # from the outermost
    around = site["cond_indep_stack"][: names.index(plate) + 1]
    return {frame.dim for frame in around if frame.vectorized}


def _rows(values: Tensor, dims: set[int]) -> Tensor:
    """Values by batch dimension as a row for each observation."""
    axes = sorted(dim + values.ndim for dim in dims)
    return values.movedim(axes, list(range(len(axes)))).flatten(0, len(axes) - 1)


def _check_sites(model: Trace, guide: Trace, plate: str) -> None:
    """Raises a ValueError unless all latents are global and the guide has all that are not enumerated."""
    names = {frame.name for frame in plates(model)}
    if plate not in names:
        raise ValueError(
            f"there is no plate {plate!r} in the model: choose among {', '.join(sorted(names)) or 'none'}."
        )
    inside = {name: site for name, site in sample_sites(model).items() if is_local(site, plate)}
    if len({frozenset(frame.name for frame in site["cond_indep_stack"]) for site in inside.values()}) > 1:
        raise ValueError(f"the sites {', '.join(inside)} are in different plates: put all of {plate!r} into the same.")
    for name, site in {**latent_sites(model), **latent_sites(guide)}.items():
        enumerated = name not in guide.nodes and site["infer"].get("enumerate") == "parallel"
        if is_local(site, plate) and not enumerated:
            raise ValueError(
                f"{name} is local to each observation, so that leaving one out leaves it without data: compare models "
                "on held-out observations."
            )
        if enumerated and not is_local(site, plate):
            raise ValueError(f"{name} is enumerated outside the plate {plate!r}: add a site to the guide.")
        if not enumerated and name not in guide.nodes:
            raise ValueError(f"the guide has no site {name!r}: add it.")


def _observed(
    model: nn.Module, plate: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Bool[np.ndarray, " n"]]:
    """The observed sites inside the plate, and the mask of its observations that count."""
    import xarray

    trace = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
    sites = [site for site in sample_sites(trace).values() if site["is_observed"] and is_local(site, plate)]
    counted = np.any([_unmasked(site, plate) for site in sites], axis=0)
    if not counted.any():
        raise ValueError(f"a mask hides all that the model observes in the plate {plate!r}: leave some of it.")
    variables = {}
    for site in sites:
        name, event, dims = site["name"], site["fn"].event_dim, _observation_dims(site, plate)
        value = site["value"].expand(*site["fn"].batch_shape, *site["value"].shape[site["value"].ndim - event :])
        rows = as_numpy(_rows(value, {dim - event for dim in dims}))[counted]
        variables[name] = (("observation", *(f"{name}_dim_{index}" for index in range(rows.ndim - 1))), rows)
    return xarray.Dataset(variables), counted


def _unmasked(site: Site, plate: str) -> Bool[np.ndarray, " n"]:
    """The observations of which a mask leaves anything."""
    shown = torch.ones(site["fn"].batch_shape, dtype=torch.bool)
    for mask in (site["mask"], getattr(site["fn"], "_mask", None)):  # of a handler, and of a masked distribution
        shown = shown if mask is None else shown & torch.as_tensor(mask).cpu()
    rows = _rows(shown, _observation_dims(site, plate))
    return as_numpy(rows.reshape(len(rows), -1).any(-1))
