r"""Export of posterior, prior and posterior predictive draws, with their log densities, to ArviZ.

==================== ==========================================================================================
group                contents
==================== ==========================================================================================
posterior            draws of every latent site from the guide
prior                draws of the same sites from the model, for texts of the same lengths
posterior_predictive ``generated``: texts decoded from posterior draws, if ``predictive`` is above 0
log_likelihood       log p(text | draw) of each text, ``per_text``, and of each token, ``per_token``
sample_stats         log p and log q of each draw, in total and by site: the input of :func:`~.diagnostics.khat`
observed_data        the ``tokens`` of the texts
constant_data        the tokens as strings, ``piece``, and the texts' ``length``
training             the metrics of the run over its steps
==================== ==========================================================================================

A NUL character, which neither NumPy nor NetCDF stores, becomes the escape ``\x00`` in names and generated texts. Where
latents are local to texts, ``log_likelihood`` has the attribute ``warning``: leave-one-out does not apply.

Draws of a guide are independent: r-hat and effective sample sizes do not apply to them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from ...models.batch import Batch
from ...models.transformer.text_distribution import AutoregressiveText
from ..data.entries import Conditions, TextSource, as_texts
from ..objectives.elbo import ELBO, Densities
from ..objectives.trace_pair import trace_pair
from ..objectives.traces import as_numpy, displayed_value, is_local, latent_sites, mask_of
from ..runs.fitted import FittedModel
from ..utils.errors import check_at_least
from ..utils.seeded_eval import seeded_eval
from .arviz_compat import ArviZData, draw_attributes, from_groups, storable, unique_labels

__all__ = ["posterior", "to_arviz"]

GIBIBYTE = 2**30
_NO_LOO = (
    "no leave-one-out or WAIC from this group: {} is local to each text, and its posterior without the text is the "
    "prior. Compare runs with pyroformer.diagnostics.compare on held-out texts."
)
Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]  # name: (dimensions, values)


def posterior(
    run: FittedModel,
    texts: TextSource,
    conditions: Conditions | None = None,
    draws: int = 100,
    *,
    predictive: int = 0,
    **options: Any,
) -> ArviZData:
    """Posterior draws for some texts under a run: :func:`to_arviz`, with token strings and the training metrics.

    Arguments:
        run: A run with a guide.
        texts: The texts.
        conditions: The condition of each text, if the run was trained on pairs.
        draws: Number of posterior draws for each text.
        predictive: Number of draws from which a text is decoded.
        options: Further options of :func:`to_arviz`.

    Raises:
        ValueError: If the model has no latents, a text is longer than the model's max_length, or the draws would take
            more than ``limit`` bytes.
    """
    if run.guide is None:
        raise ValueError(f"a {type(run.model).__name__} has no latents, so no posterior to draw from.")
    texts = as_texts(texts)
    batch = run.batch(texts, conditions)
    extra: dict[str, Variables] = {
        "constant_data": {"piece": (("text", "token"), _pieces(run, texts, batch))},
        "training": _training(run),
    }
    return to_arviz(
        run.model,
        run.guide,
        batch,
        draws,
        predictive=predictive,
        names=texts,
        write=run.tokenizer.decode_batch,
        extra=extra,
        **{"data_size": len(run.corpus.train)} | options,
    )


def to_arviz(
    model: nn.Module,
    guide: nn.Module,
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
    write: Callable[[Tensor], Sequence[str]] | None = None,
    extra: Mapping[str, Variables] | None = None,
) -> ArviZData:
    r"""Posterior draws and log densities, for ArviZ: InferenceData (ArviZ 0.23) or a DataTree (1.x).

    Log weights are exported as weights. Entries that a text does not have, such as components beyond its length, are
    NaN.

    Arguments:
        model: A generative model that observes ``text`` in the plate ``texts``.
        guide: Its guide.
        batch: The texts; use few, since every draw of their latents is stored.
        draws: Number of posterior draws for each text.
        seed: Random seed.
        sites: The latent sites to export; all by default. Log densities are always those of all sites.
        prior: Whether to draw from the prior as well.
        predictive: Number of draws from which a text is decoded.
        data_size: Number of texts that share the global sites, as in :class:`~pyroformer.ELBO`.
        limit: Maximal size of the latent draws in bytes.
        names: Names of the texts; their indices by default. Equal ones are numbered, "ok" and "ok (2)", and then stand
            in the coordinate ``string`` as they are.
        write: Function from token ids to strings; without it, generated texts are exported as token ids.
        extra: Further variables by group: dimensions and values by name.

    Raises:
        ValueError: If an argument is out of range, a site does not exist, or the draws would take more than ``limit``.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = pf.NVAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> data = to_arviz(model, pf.NVAEGuide(model), pf.Batch.pad([[5, 6, 2], [7, 2]]), draws=10)
        >>> dict(data.posterior["vectors"].sizes)
        {'chain': 1, 'draw': 10, 'text': 2, 'component': 4, 'dimension': 16}
    """
    _check_counts(draws, predictive)
    if batch.tokens is None or batch.mask is None:
        raise ValueError("the batch is unobserved: a posterior is one of texts.")
    elbo, collected = ELBO(data_size=data_size), _Draws(getattr(model, "dimensions", {}))
    with seeded_eval(model, guide, seed=seed):
        for index in range(draws):
            model_trace, guide_trace = trace_pair(model, guide, batch)
            latents = latent_sites(guide_trace, sites)
            if index == 0:
                _check_size(latents, batch, draws * (2 if prior else 1), limit)
                masks = {name: mask_of(site["fn"]) for name, site in latents.items()}
            collected.add_latents("posterior", latents, masks)
            if prior:
                collected.add_latents("prior", latent_sites(poutine.trace(model).get_trace(batch), latents), masks)
            text: Any = model_trace.nodes["text"]["fn"]
            densities = elbo.densities(model_trace, guide_trace)
            collected.add("log_likelihood", _log_likelihood(densities, text, batch))
            collected.add("sample_stats", _sample_stats(densities))
            if index < predictive:
                collected.add("posterior_predictive", {"generated": text.sample()})
    groups: dict[str, Variables] = {
        group: collected.stacked(group, write if group == "posterior_predictive" else None)
        for group in collected.groups
    }
    groups["observed_data"] = {"tokens": (("text", "token"), batch.tokens.cpu().numpy())}
    groups["constant_data"] = {"length": (("text",), batch.lengths.cpu().numpy())}
    for group, variables in (extra or {}).items():
        groups[group] = groups.get(group, {}) | variables
    texts = None if names is None else [storable(str(name)) for name in names]
    datasets = {group: _dataset(variables, texts) for group, variables in groups.items()}
    local = [name for name, site in latents.items() if is_local(site)]
    if local:
        datasets["log_likelihood"].attrs["warning"] = _NO_LOO.format(local[0])
    return from_groups(datasets, draw_attributes(model, guide, seed))


class _Draws:
    """Draws collected one by one, with the names of their dimensions."""

    def __init__(self, dimensions: Mapping[str, tuple[str, ...]]) -> None:
        self.dimensions = dimensions
        self.groups: dict[str, dict[str, list[np.ndarray]]] = {}
        self.dims: dict[tuple[str, str], tuple[str, ...]] = {}

    def add_latents(self, group: str, sites: Mapping[str, Any], masks: Mapping[str, Tensor | None]) -> None:
        """Add one draw of latent sites, with NaN where a mask is False."""
        for name, site in sites.items():
            value, local = displayed_value(site, masks[name]), is_local(site)
            rest = value.ndim - local
            known = self.dimensions.get(name, ())
            dims = known if len(known) == rest else tuple(f"{name}_dim_{i}" for i in range(rest))
            self._append(group, name, value, (*(("text",) if local else ()), *dims))

    def add(self, group: str, values: Mapping[str, Tensor]) -> None:
        """Add one draw of quantities with one value for each text, or for each token of each text."""
        for name, value in values.items():
            self._append(group, name, as_numpy(value), ("text", "token")[: value.ndim])

    def stacked(self, group: str, write: Callable[[Tensor], Sequence[str]] | None = None) -> Variables:
        """All draws of a group as one chain; as strings if ``write`` is a function from tokens to strings."""
        result: Variables = {}
        for name, values in self.groups[group].items():
            dims = self.dims[group, name]
            if write is not None:
                values, dims = [_strings(write(torch.from_numpy(value))) for value in values], dims[:1]
            result[name] = (("chain", "draw", *dims), np.stack(values)[None])
        return result

    def _append(self, group: str, name: str, value: np.ndarray, dims: tuple[str, ...]) -> None:
        self.groups.setdefault(group, {}).setdefault(name, []).append(value)
        self.dims[group, name] = dims


def _log_likelihood(densities: Densities, text: Any, batch: Batch) -> dict[str, Tensor]:
    result = {"per_text": densities.log_p["text"]}
    if isinstance(text, AutoregressiveText):
        assert batch.tokens is not None and batch.mask is not None
        tokens = text.likelihood(batch.tokens).token_log_prob(batch.tokens)
        result["per_token"] = torch.where(batch.mask, tokens, torch.nan)
    return result


def _sample_stats(densities: Densities) -> dict[str, Tensor]:
    """Log p and log q of a draw, in total and by site."""
    zero = torch.zeros(())
    stats = {"log_p": sum(densities.log_p.values(), zero), "log_q": sum(densities.log_q.values(), zero)}
    stats |= {f"log_p_{site}": value for site, value in densities.log_p.items()}
    return stats | {f"log_q_{site}": value for site, value in densities.log_q.items()}


def _check_counts(draws: int, predictive: int) -> None:
    check_at_least(1, draws=draws)
    check_at_least(0, predictive=predictive)
    if predictive > draws:
        raise ValueError(
            f"predictive is {predictive}, but there are {draws} draws to decode from: give at most {draws}."
        )


def _check_size(sites: Mapping[str, Any], batch: Batch, draws: int, limit: int) -> None:
    size = draws * sum(site["value"].numel() * max(4, site["value"].element_size()) for site in sites.values())
    if size > limit:
        raise ValueError(
            f"the draws of {batch.weight.shape[-1]} texts would take {size / GIBIBYTE:.2f} GiB, more than the "
            f"{limit / GIBIBYTE:.2f} GiB of limit: give fewer texts or draws, or name the sites to export."
        )


def _dataset(variables: Variables, texts: Sequence[str] | None) -> Any:
    """A dataset with labels of its texts: equal ones are numbered, and the coordinate ``string`` has them unchanged."""
    import xarray

    dims = {name: size for at, values in variables.values() for name, size in zip(at, values.shape, strict=True)}
    coords: dict[str, Any] = {name: np.arange(size) for name, size in dims.items()}
    if texts is not None and "text" in dims:
        labels = unique_labels(texts)
        coords["text"] = np.array(labels)
        if labels != list(texts):
            coords["string"] = ("text", np.array(texts))
    return xarray.Dataset({name: (at, values) for name, (at, values) in variables.items()}, coords)


def _pieces(run: FittedModel, texts: Sequence[str], batch: Batch) -> np.ndarray:
    """The tokens of each text as strings, padded with empty ones."""
    assert batch.mask is not None
    result = np.full(tuple(batch.mask.shape), "", dtype=object)
    for row, text in zip(result, texts, strict=True):
        pieces = run.tokenizer.pieces(text)
        row[: len(pieces)] = [storable(piece) for piece in pieces]
    return result.astype(str)


def _strings(texts: Sequence[str]) -> np.ndarray:
    return np.array([storable(text) for text in texts], dtype=str)


def _training(run: FittedModel) -> Variables:
    """The metrics of a run, if it has any."""
    try:
        metrics = run.folder.read_metrics()
    except ValueError:
        return {}
    return {name: (("row",), np.array(column)) for name, column in metrics.items()}
