r"""Draws of a posterior, a prior and made-up texts, with their densities, as ArviZ has them.

==================== ==========================================================================================
group                holds
==================== ==========================================================================================
posterior            draws of every latent site from the guide
prior                draws of the same sites from the model, for texts of the same lengths
posterior_predictive ``written``: what the decoder writes from posterior draws, if asked for
log_likelihood       log p(text | draw) of each text, ``per_text``, and of each token, ``per_token``
sample_stats         log p and log q of each draw, in all and by site: what :func:`~.diagnostics.khat` reads
observed_data        the ``tokens`` of the texts
constant_data        the tokens as strings, ``piece``, and the texts' ``length``
training             the metrics of the run over its steps
==================== ==========================================================================================

Draws of a guide are independent: r-hat and effective sample sizes say nothing about them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ...models.batch import Batch
from ...models.transformer.text_distribution import AutoregressiveText
from ..objectives.elbo import ELBO, trace_pair
from ..objectives.traces import as_numpy, displayed_value, is_local, latent_sites, mask_of
from ..runs.fitted import FittedModel
from ..utils.seeded_eval import seeded_eval
from .arviz_compat import from_groups

__all__ = ["posterior", "to_arviz"]

GIBIBYTE = 2**30
Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]  # name: (dimensions, values)


def posterior(
    run: FittedModel,
    texts: str | Sequence[str],
    conditions: str | Sequence[str] | None = None,
    draws: int = 100,
    *,
    predictive: int = 0,
    **options: Any,
) -> Any:
    """The posterior of some texts under a run, as :func:`to_arviz` has it, with strings and the run's training.

    Arguments:
        run: A run with a guide.
        texts: Which texts; none may be longer than the model's max_length.
        conditions: What each answers to, if the run was trained on pairs.
        draws: How many draws of each text's latents.
        predictive: From how many of them the decoder writes a text.
        options: Others of :func:`to_arviz`.

    Raises:
        ValueError: If nothing is latent in the model, a text does not fit its max_length, or the draws do not fit in
            ``limit``.
    """
    if run.guide is None:
        raise ValueError(f"a {type(run.model).__name__} has no latents, so no posterior to draw from.")
    several = [texts] if isinstance(texts, str) else list(texts)
    batch = run.batch(several, conditions)
    assert batch.mask is not None
    pieces = np.full(tuple(batch.mask.shape), "", dtype=object)
    for row, text in enumerate(several):
        found = run.tokenizer.pieces(text)
        pieces[row, : len(found)] = found
    extra: Any = {"constant_data": {"piece": (("text", "token"), pieces.astype(str))}, "training": _training(run)}
    return to_arviz(
        run.model,
        run.guide,
        batch,
        draws,
        predictive=predictive,
        names=several,
        write=run.tokenizer.decode_batch,
        extra=extra,
        **{"data_size": len(run.corpus.train)} | options,
    )


def to_arviz(
    model: Any,
    guide: Any,
    batch: Batch,
    draws: int = 100,
    *,
    seed: int = 0,
    sites: Collection[str] | None = None,
    prior: bool = True,
    predictive: int = 0,
    data_size: int | None = None,
    limit: int = GIBIBYTE,
    names: Sequence[str] | None = None,
    write: Any = None,
    extra: Mapping[str, Variables] | None = None,
) -> Any:
    r"""Draws from a guide with everything that diagnostics need: InferenceData (ArviZ 0.23) or a DataTree (1.x).

    Log weights are kept as weights. What does not exist in a text, such as components beyond its length, is NaN.

    Arguments:
        model: The generative model, ours or any other that observes ``text`` in the plate ``texts``.
        guide: Its posterior.
        batch: The texts; their draws are all kept, so that a few are enough.
        draws: How many draws of each text's latents.
        seed: Of the draws.
        sites: The latent sites whose draws are kept; all by default. Densities are always those of all.
        prior: Whether to draw from the prior as well.
        predictive: From how many of the draws the decoder writes a text.
        data_size: Number of texts that share the global sites, as in :class:`~pyroformer.ELBO`.
        limit: The most bytes that the draws of latents may take.
        names: What the texts are called; their numbers by default.
        write: Makes strings of rows of tokens; without it, made-up texts are kept as tokens.
        extra: Further groups or variables: dimensions and values by name, by group.

    Raises:
        ValueError: If a number is out of range, there is no such site, or the draws would take more than ``limit``.

    Examples:
        >>> from pyroformer.models.transformer.stacks import TransformerConfig
        >>> model = pf.NVAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> data = to_arviz(model, pf.NVAEGuide(model), pf.Batch.pad([[5, 6, 2], [7, 2]]), draws=10)
        >>> dict(data.posterior["vectors"].sizes)
        {'chain': 1, 'draw': 10, 'text': 2, 'component': 4, 'dimension': 16}
    """
    for name, number, least in (("draws", draws, 1), ("predictive", predictive, 0)):
        if number < least:
            raise ValueError(f"{name} is {number}: give a whole number of at least {least}.")
    if predictive > draws:
        raise ValueError(
            f"predictive is {predictive}, but there are {draws} draws to write from: give at most {draws}."
        )
    if batch.tokens is None or batch.mask is None:
        raise ValueError("the batch is unobserved: a posterior is one of texts.")
    elbo, kept = ELBO(data_size=data_size), _Groups(getattr(model, "dimensions", {}))
    with seeded_eval(model, guide, seed=seed):
        for number in range(draws):
            pair = trace_pair(model, guide, batch)
            latents = latent_sites(pair[1], sites)
            if number == 0:
                _check_size(latents, batch, draws * (2 if prior else 1), limit)
                masks = {name: mask_of(site["fn"]) for name, site in latents.items()}
            kept.add("posterior", latents, masks)
            if prior:
                kept.add("prior", latent_sites(poutine.trace(model).get_trace(batch), latents), masks)
            text: Any = pair[0].nodes["text"]["fn"]
            densities = elbo.densities(*pair)
            likelihood = {"per_text": densities.log_p["text"]}
            if isinstance(text, AutoregressiveText):
                tokens = text.likelihood(batch.tokens).token_log_prob(batch.tokens)
                likelihood["per_token"] = torch.where(batch.mask, tokens, torch.nan)
            kept.put("log_likelihood", likelihood)
            total: dict[str, Any] = {"log_p": sum(densities.log_p.values()), "log_q": sum(densities.log_q.values())}
            each = {f"log_p_{site}": value for site, value in densities.log_p.items()}
            each |= {f"log_q_{site}": value for site, value in densities.log_q.items()}
            kept.put("sample_stats", total | each)
            if number < predictive:
                kept.put("posterior_predictive", {"written": text.sample()})
    groups: dict[str, Variables] = {}
    groups |= {group: kept.stacked(group, write if group == "posterior_predictive" else None) for group in kept.names}
    groups["observed_data"] = {"tokens": (("text", "token"), batch.tokens.cpu().numpy())}
    groups["constant_data"] = {"length": (("text",), batch.lengths.cpu().numpy())}
    for group, variables in (extra or {}).items():
        groups[group] = groups.get(group, {}) | variables
    labels = {"text": np.array([str(name) for name in names])} if names is not None else {}
    about = {"model": type(model).__name__, "guide": type(guide).__name__, "seed": seed, "draws_are": "independent"}
    return from_groups({group: _dataset(variables, labels) for group, variables in groups.items()}, about)


class _Groups:
    """Draws that are collected one by one, with the names of their dimensions."""

    def __init__(self, dimensions: Mapping[str, tuple[str, ...]]) -> None:
        self.dimensions = dimensions
        self.found: dict[str, dict[str, list[np.ndarray]]] = {}
        self.named: dict[tuple[str, str], tuple[str, ...]] = {}

    @property
    def names(self) -> list[str]:
        return list(self.found)

    def add(self, group: str, sites: Mapping[str, Any], masks: Mapping[str, Tensor | None]) -> None:
        """Keeps one draw of latent sites, with NaN where a mask says that nothing is."""
        for name, site in sites.items():
            value, local = displayed_value(site, masks[name]), is_local(site)
            rest = value.ndim - local
            known = self.dimensions.get(name, ())
            dims = known if len(known) == rest else tuple(f"{name}_dim_{i}" for i in range(rest))
            self._keep(group, name, value, (*(("text",) if local else ()), *dims))

    def put(self, group: str, values: Mapping[str, Tensor]) -> None:
        """Keeps one draw of what there is one of for each text, or for each token of it."""
        for name, value in values.items():
            self._keep(group, name, as_numpy(value), ("text", "token")[: value.ndim])

    def stacked(self, group: str, write: Any = None) -> Variables:
        """All draws, with one chain, as strings if ``write`` makes strings of them."""
        result: Variables = {}
        for name, values in self.found[group].items():
            dims = self.named[group, name]
            if write is not None:
                values, dims = [np.array(write(torch.from_numpy(value)), dtype=str) for value in values], dims[:1]
            result[name] = (("chain", "draw", *dims), np.stack(values)[None])
        return result

    def _keep(self, group: str, name: str, value: np.ndarray, dims: tuple[str, ...]) -> None:
        self.found.setdefault(group, {}).setdefault(name, []).append(value)
        self.named[group, name] = dims


def _check_size(sites: Mapping[str, Any], batch: Batch, draws: int, limit: int) -> None:
    size = draws * sum(site["value"].numel() * max(4, site["value"].element_size()) for site in sites.values())
    if size > limit:
        raise ValueError(
            f"the draws of {batch.weight.shape[-1]} texts would take {size / GIBIBYTE:.2f} GiB, more than the "
            f"{limit / GIBIBYTE:.2f} GiB of limit: give fewer texts or draws, or name the sites to keep."
        )


def _dataset(variables: Variables, labels: Mapping[str, np.ndarray]) -> Any:
    import xarray

    dims = {name: size for at, values in variables.values() for name, size in zip(at, values.shape, strict=True)}
    coords = {name: labels.get(name, np.arange(size)) for name, size in dims.items()}
    return xarray.Dataset({name: (at, values) for name, (at, values) in variables.items()}, coords)


def _training(run: FittedModel) -> Variables:
    """The metrics of a run, as they were written."""
    try:
        metrics = run.folder.read_metrics()
    except ValueError:
        return {}
    return {name: (("row",), np.array(column)) for name, column in metrics.items()}
