r"""Simulation-based calibration of a guide."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from ...models.batch import EOS, Batch
from ...models.transformer.text_distribution import text_mask
from ...models.utils.numbers import check_at_least
from ..objectives.elbo import ELBO
from ..objectives.trace_pair import trace_pair
from ..objectives.traces import Site, is_local, latent_sites, mask_of
from ..utils.progress import progress_bar
from ..utils.seeded_eval import seeded_eval
from .calibration import Calibration

__all__ = ["calibrate"]

Quantities: TypeAlias = Callable[[Mapping[str, Site]], Mapping[str, Tensor]]

MAX_QUANTITIES = 64  # more p-values than these are no longer inspected one by one


def calibrate(
    model: nn.Module,
    guide: nn.Module,
    simulations: int = 20,
    draws: int = 99,
    *,
    texts: int = 25,
    args: Sequence[Any] | None = None,
    observe: Callable[[Trace], Any] | None = None,
    quantities: Quantities | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Calibration:
    r"""Simulate latents and texts from the model, and rank the latents among draws from the guide.

    .. math::
        z \sim p(z), \quad x \sim p(x \mid z), \quad z_1, \dots, z_L \sim q(z \mid x), \qquad
        r = |\{ l : f(z_l) < f(z) \}|

    If the guide is the exact posterior, :math:`r` is uniform on :math:`0, \dots, L` for every :math:`f`. By default
    :math:`f` is each entry of a latent, the mean of a latent whose entries differ in number between texts, and
    ``log_p``, the joint log density of latents and data, which detects a guide that returns the prior: its other ranks
    are uniform. Ties are broken at random. The guide is tested on data simulated from the model; it can be worse on
    real data.

    Arguments:
        model: A generative model.
        guide: Its guide.
        simulations: Number of simulations, with ``texts`` texts each. Global latents have one rank per simulation.
        draws: Number of draws from the guide, :math:`L`; with 99, ranks divide into 10 or 20 bins.
        texts: Number of texts per simulation.
        args: Arguments with which the model generates everything; by default an unobserved
            :class:`~pyroformer.Batch`. Of a batch of texts, only their number and their conditions count.
        observe: Function from the model's trace to the argument of the guide; by default the batch of generated texts.
            Texts whose length differs from their latent ``length`` get no rank, since the model gives them probability
            zero.
        quantities: Function from the sites of a trace to the quantities :math:`f`, with one value for each text or a
            single one; replaces the default.
        seed: Random seed.
        progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.

    Raises:
        ValueError: If a number is below 1, the model reads conditions or has no site ``text`` and gets neither, there
            would be more than 64 default quantities, a quantity is NaN or has another shape, or no text has a rank.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        https://arxiv.org/abs/1804.06788

        Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity
        (Modrák et al., 2023), for ``log_p``, https://arxiv.org/abs/2211.02383

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = pf.DELLA(TransformerConfig(vocabulary=9, max_length=4, width=8, layers=1, heads=2), latent_size=2)
        >>> calibration = calibrate(model, pf.DELLAGuide(model), simulations=2, draws=9, texts=10)
        >>> {name: len(ranks) for name, ranks in calibration.ranks.items()}
        {'z_1[0]': 20, 'z_1[1]': 20, 'log_p': 20}
    """
    check_at_least(1, simulations=simulations, draws=draws, texts=texts)
    collected: dict[str, list[np.ndarray]] = {}
    bar = progress_bar("calibrating", simulations, "simulation", progress)
    with bar as advance, seeded_eval(model, guide, seed=seed):
        arguments = _arguments(model, args, texts)
        for _ in range(simulations):
            truth = poutine.trace(model).get_trace(*arguments)
            data = _generated_batch(truth, arguments) if observe is None else observe(truth)
            for name, ranks in _ranks(model, guide, truth, data, draws, quantities).items():
                collected.setdefault(name, []).append(ranks)
            advance(1)
    joined = {name: np.concatenate(ranks) for name, ranks in collected.items()}
    if empty := [name for name, ranks in joined.items() if not len(ranks)]:
        raise ValueError(
            f"no text of {simulations * texts} had the length that was drawn for it, so {empty[0]} has no rank: give "
            "more simulations, or a fitted model."
        )
    return Calibration(joined, draws)


def _arguments(model: nn.Module, args: Sequence[Any] | None, texts: int) -> list[Any]:
    """The arguments with which the model draws everything."""
    if args is not None:
        return [arg._replace(tokens=None, mask=None) if isinstance(arg, Batch) else arg for arg in args]
    if getattr(getattr(model, "config", None), "max_condition_length", 0):
        raise ValueError("the model reads conditions: give those of some texts, args=[run.batch(texts, conditions)].")
    return [Batch.unobserved(texts, like=next(model.parameters(), torch.zeros(())))]


def _generated_batch(trace: Trace, arguments: Sequence[Any]) -> Batch:
    """The texts of a model's trace as a batch, with the conditions of the batch among the model's arguments.

    Texts whose length differs from their latent one have weight 0.
    """
    if "text" not in trace.nodes:
        raise ValueError(
            "the model has no site 'text' to make a batch of: give observe=..., a function from the model's trace to "
            "the argument of the guide."
        )
    tokens: Any = trace.nodes["text"]["value"]
    mask = text_mask(tokens, EOS)
    weight = torch.full((len(tokens),), 1 / len(tokens), device=tokens.device)
    if "length" in trace.nodes:
        length: Any = trace.nodes["length"]["value"]
        weight = torch.where(mask.sum(-1) == length, weight, 0)
        tokens, mask = tokens[:, : length.max()], mask[:, : length.max()]
    asked = next((arg for arg in arguments if isinstance(arg, Batch)), None)
    conditions = () if asked is None else (asked.condition_tokens, asked.condition_mask)
    return Batch(tokens, mask, weight, *conditions)


def _ranks(
    model: nn.Module, guide: nn.Module, truth: Trace, data: Any, draws: int, quantities: Quantities | None
) -> dict[str, np.ndarray]:
    """The ranks of one simulation: of local latents for each text with a weight, of global ones a single rank."""
    weight = data.weight if isinstance(data, Batch) else None
    with pyro.settings.context(validate_distributions_pyro=False, validate_distributions_torch=False):
        # The latents of a text of another length than was drawn, whose weight is 0, lie outside of their support.
        replayed = poutine.trace(poutine.replay(model, trace=truth)).get_trace(data)
    names = list(latent_sites(replayed))
    true = _quantities(replayed, names, weight, quantities)
    drawn = [_quantities(trace_pair(model, guide, data)[0], names, weight, quantities) for _ in range(draws)]
    result = {}
    for name, value in true.items():
        values = torch.stack([each[name] for each in drawn])
        below, ties = (values < value).sum(0), (values == value).sum(0)
        ranks = below + (torch.rand_like(value) * (ties + 1)).floor()
        if ranks.ndim and weight is not None:
            ranks = ranks[weight > 0]
        result[name] = np.atleast_1d(ranks.long().cpu().numpy())
    return result


def _quantities(trace: Trace, names: list[str], weight: Tensor | None, custom: Quantities | None) -> dict[str, Tensor]:
    """The quantities to rank, in float64: one value for each text, or a single one."""
    sites = {name: trace.nodes[name] for name in names}
    if custom is not None:
        return {name: _quantity(name, value, weight) for name, value in custom(sites).items()}
    entries = {key: value for name, site in sites.items() for key, value in _entries(name, site).items()}
    if len(entries) > MAX_QUANTITIES:
        raise ValueError(
            f"there are {len(entries)} entries of latents to rank: give at most {MAX_QUANTITIES} with quantities=...."
        )
    densities = ELBO(data_size=1 if weight is None else len(weight)).densities(trace, Trace()).log_p
    each = torch.stack(torch.broadcast_tensors(*densities.values())).sum(0).double()
    entries["log_p"] = each if all(is_local(site) for site in sites.values()) else each.sum()
    return {name: _quantity(name, value, weight) for name, value in entries.items()}


def _quantity(name: str, value: Any, weight: Tensor | None) -> Tensor:
    """A quantity in float64, checked: texts of weight 0 have no rank, whatever their value is."""
    try:
        result = torch.as_tensor(value).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the quantity {name!r} is a {type(value).__name__}: give a tensor or a number.") from error
    if result.ndim > 1 or result.ndim and weight is not None and len(result) != len(weight):
        texts = "text" if weight is None else f"of {len(weight)} texts"
        raise ValueError(
            f"the quantity {name!r} has shape {tuple(result.shape)}: give one value for each {texts}, or a single one."
        )
    counted = result[weight > 0] if weight is not None and result.ndim else result
    if counted.isnan().any():
        raise ValueError(f"the quantity {name!r} is NaN in a draw, which has no rank: give a number for each text.")
    return result


def _entries(name: str, site: Site) -> dict[str, Tensor]:
    """Each entry of a latent; the mean over its entries if their number differs between texts."""
    value, mask = site["value"], mask_of(site["fn"])
    first = 1 if is_local(site) else 0
    if mask is not None:
        mask = mask.reshape(*mask.shape, *(1,) * (value.ndim - mask.ndim)).expand(value.shape)
        total = torch.where(mask, value, 0).flatten(first).sum(-1)
        return {f"mean of {name}": total / mask.flatten(first).sum(-1)}
    if value.ndim == first:
        return {name: value}
    places = np.ndindex(*value.shape[first:])
    return {f"{name}[{', '.join(map(str, place))}]": value[(..., *place)] for place in places}
