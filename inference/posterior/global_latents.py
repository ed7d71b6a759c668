r"""The posterior of latents that all observations share, as ArviZ has it: keys, weights, hyper-parameters.

==================== ==========================================================================================
group                holds
==================== ==========================================================================================
posterior            draws of every latent site from the guide
prior                draws of the same sites from the model
log_likelihood       ``per_observation``: log p(observation | draw), what is enumerated summed out
sample_stats         ``log_p`` of everything and ``log_q`` of each draw: one number a draw
==================== ==========================================================================================
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from ...models.base import TEXTS
from ..objectives.traces import as_numpy, displayed_value, is_local, latent_sites
from ..utils.seeded_eval import seeded_eval
from .arviz_compat import from_groups

__all__ = ["global_posterior"]

Arrays = dict[str, list[np.ndarray]]


def global_posterior(
    model: nn.Module,
    guide: nn.Module,
    *args: Any,
    plate: str = TEXTS,
    draws: int = 1000,
    seed: int = 0,
    **kwargs: Any,
) -> Any:
    r"""Draws from a guide whose latents belong to all observations, with everything that diagnostics need.

    What :func:`~pyroformer.inference.diagnostics.loo` and :func:`~pyroformer.inference.diagnostics.khat` read. Sites
    that are enumerated inside the plate, such as an assignment to a component, are summed out. The observations must be
    all that there are.

    Arguments:
        model: A generative model whose every unknown is a sample site.
        guide: Its posterior.
        args: What both are called with.
        plate: The plate over observations: ``texts``, or ``tokens`` in a
            :class:`~pyroformer.MixtureAttention`.
        draws: How many draws of the latents.
        seed: Of the draws.
        kwargs: What both are called with besides.

    Raises:
        ValueError: If there are no draws, the model has learned numbers or no such plate, a latent belongs to one
            observation, the guide leaves one out, or what is enumerated lies outside the plate.

    Examples:
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyroformer.guides.automatic import Automatic
        >>> mixture = pf.Mixture(torch.zeros(2).log_softmax(-1), torch.tensor([[-2.0], [2.0]]), noise_variance=1.0)
        >>> model = pf.MixtureAttention.conjugate(mixture)
        >>> data = global_posterior(model, Automatic(model, AutoNormal), torch.randn(9, 1), plate="tokens", draws=5)
        >>> dict(data.log_likelihood["per_observation"].sizes)
        {'chain': 1, 'draw': 5, 'observation': 9}
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}: give a whole number of at least 1.")
    if learned := [name for name, value in model.named_parameters() if value.requires_grad]:
        raise ValueError(
            f"{learned[0]} of the {type(model).__name__} is a learned number, which has seen every observation: give "
            "it a prior, or compare models on held-out ones."
        )
    found: dict[str, Arrays] = {"posterior": {}, "prior": {}, "log_likelihood": {}, "sample_stats": {}}
    with seeded_eval(model, guide, seed=seed):
        for _ in range(draws):
            one = _draw(model, guide, plate, args, kwargs)
            for group, values in one._asdict().items():
                for name, value in values.items():
                    found[group].setdefault(name, []).append(value)
    about = {"model": type(model).__name__, "guide": type(guide).__name__, "seed": seed, "draws_are": "independent"}
    return from_groups({group: _dataset(arrays) for group, arrays in found.items()}, about)


class _Draw(NamedTuple):
    posterior: dict[str, np.ndarray]
    prior: dict[str, np.ndarray]
    log_likelihood: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]


def _draw(model: nn.Module, guide: nn.Module, plate: str, args: Any, kwargs: Any) -> _Draw:
    guessed = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
    plain = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))
    latents = latent_sites(guessed)
    _check(plain, guessed, plate)
    dims = [frame.dim for site in plain.nodes.values() for frame in site.get("cond_indep_stack", ())]
    nesting = -min(dim for dim in dims if dim is not None)
    replayed = poutine.enum(poutine.replay(model, trace=guessed), first_available_dim=-1 - nesting)
    trace = prune_subsample_sites(poutine.trace(replayed).get_trace(*args, **kwargs))
    each, rest = _log_p(trace, plate, nesting)
    log_q = sum((_log_prob(site).sum() for site in latents.values()), torch.zeros(()))
    return _Draw(
        {name: displayed_value(site) for name, site in latents.items()},
        {name: displayed_value(plain.nodes[name]) for name in latents if name in plain.nodes},
        {"per_observation": as_numpy(each)},
        {"log_p": as_numpy(each.sum() + rest), "log_q": as_numpy(log_q)},
    )


def _log_p(trace: Trace, plate: str, nesting: int) -> tuple[Tensor, Tensor]:
    """Log density of each observation with what is enumerated summed out, and that of all else."""
    inside, rest, dim = torch.zeros(()), torch.zeros(()), -1
    for site in trace.nodes.values():
        if site["type"] != "sample":
            continue
        if is_local(site, plate):
            dim = next(frame.dim for frame in site["cond_indep_stack"] if frame.name == plate) or -1
            inside = inside + _log_prob(site)
        else:
            rest = rest + _log_prob(site).sum()
    if inside.ndim > nesting:
        inside = inside.flatten(0, inside.ndim - nesting - 1).logsumexp(0)
    others = [axis for axis in range(-inside.ndim, 0) if axis != dim]
    return (inside.sum(others) if others else inside), rest


def _check(model: Trace, guide: Trace, plate: str) -> None:
    """That all latents are shared, and that the guide has those that are not enumerated."""
    frames = {frame.name for site in model.nodes.values() for frame in site.get("cond_indep_stack", ())}
    if plate not in frames:
        raise ValueError(
            f"there is no plate {plate!r} in the model: choose among {', '.join(sorted(frames)) or 'none'}."
        )
    for name, site in {**latent_sites(model), **latent_sites(guide)}.items():
        enumerated = name not in guide.nodes and site["infer"].get("enumerate") == "parallel"
        if is_local(site, plate) and not enumerated:
            raise ValueError(
                f"{name} belongs to one observation each, so that leaving one out leaves it without data: compare "
                "models on held-out ones."
            )
        if enumerated and not is_local(site, plate):
            raise ValueError(f"{name} is enumerated outside the plate {plate!r}: give it a site in the guide.")
        if not enumerated and name not in guide.nodes:
            raise ValueError(f"the guide leaves out {name}: give it that site.")


def _log_prob(site: Mapping[str, Any]) -> Tensor:
    value: Tensor = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
    return value


def _dataset(arrays: Arrays) -> Any:
    import xarray

    variables = {}
    for name, values in arrays.items():
        rest = [f"{name}_dim_{i}" for i in range(values[0].ndim)] if name != "per_observation" else ["observation"]
        variables[name] = (("chain", "draw", *rest), np.stack(values)[None])
    return xarray.Dataset(variables)
