r"""Export of posterior, prior and posterior predictive draws, with their log densities, to ArviZ.

==================== ==========================================================================================
group                contents
==================== ==========================================================================================
posterior            draws of every latent site from the guide, and of those that only the model draws
prior                draws of the same sites from the model, for texts of the same lengths
posterior_predictive texts decoded from posterior draws, if ``predictive`` is above 0: their ``tokens`` and their
                     ``length``, as in ``observed_data``
generated            the same as strings, ``texts``
log_likelihood       log p(text | draw) of each text, ``per_text``, and of each token, ``per_token``; the name of the
                     group is ``conditional_log_likelihood`` where a latent is local to texts
sample_stats         log p and log q of each draw, in total and by site: the input of :func:`~.diagnostics.khat`
observed_data        the ``tokens`` of the texts, padded with 0, and their ``length``
constant_data        the tokens as strings, ``piece``, and the texts' ``length``
training             the metrics of the run over its steps
==================== ==========================================================================================

Every group has the attributes of ArviZ's schema, the seed, and the step and the folder of the run. Of a single text,
``component`` and ``token`` have its tokens as coordinates, so that rows of tables and plots are named. A predictive
check is ``arviz.plot_ppc(data, var_names=["length"])``, in ArviZ 1 ``plot_ppc_interval``.

A NUL character, which neither NumPy nor NetCDF stores, becomes the escape ``\x00`` in names and generated texts. Where
latents are local to texts, leave-one-out does not apply: the likelihood is conditional on the text's own latents. ArviZ
finds none under that name, so that ``arviz.loo``, and ``waic`` before ArviZ 1, refuse the data, and the attribute
``warning`` says why.

Draws of a guide are independent: r-hat and effective sample sizes do not apply to them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from ...models.batch import EOS, PAD, Batch
from ...models.transformer.text_distribution import AutoregressiveText, text_mask
from ...models.utils.numbers import check_at_least
from ..data.entries import Conditions, TextSource, as_texts
from ..objectives.bounds import with_global_sites_fixed
from ..objectives.elbo import ELBO, Densities
from ..objectives.trace_pair import trace_pair
from ..objectives.traces import drawn_by_model, is_local, latent_sites, masks_in
from ..runs.fitted import FittedModel
from ..utils.progress import progress_bar
from ..utils.seeded_eval import seeded_eval
from .arviz_compat import ArviZData, from_groups
from .draws import Draws, draw_attributes, point_sites
from .labels import Variables, labeled_dataset, storable

__all__ = ["posterior", "to_arviz"]

GIBIBYTE = 2**30
_NO_LOO = (
    "no leave-one-out or WAIC from this group: {} is local to each text, and its posterior without the text is the "
    "prior. Compare runs with pyroformer.diagnostics.compare on held-out texts."
)


def posterior(
    run: FittedModel,
    texts: TextSource,
    conditions: Conditions | None = None,
    draws: int = 100,
    *,
    seed: int = 0,
    sites: str | Collection[str] | None = None,
    include_prior: bool = True,
    predictive: int = 0,
    fix_global: bool = False,
    max_bytes: int = GIBIBYTE,
    progress: bool | None = None,
) -> ArviZData:
    """Posterior draws for some texts under a run: :func:`to_arviz`, with token strings and the training metrics.

    Arguments:
        run: A run with a guide.
        texts: The texts.
        conditions: The condition of each text, if the run was trained on pairs.
        draws: Number of posterior draws for each text.
        seed: Random seed.
        sites: The latent site or sites to export; all by default.
        include_prior: Whether to draw from the prior as well.
        predictive: Number of draws from which a text is decoded.
        fix_global: Whether all draws have the same values of the global sites, as in :func:`to_arviz`.
        max_bytes: Maximal size of the latent draws in bytes.
        progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.

    Raises:
        ValueError: If the model has no latents, a text is longer than the model's max_length, a site does not exist, or
            the draws would take more than ``max_bytes``.
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
        seed=seed,
        sites=sites,
        include_prior=include_prior,
        predictive=predictive,
        data_size=len(run.corpus.train),
        fix_global=fix_global,
        max_bytes=max_bytes,
        names=texts,
        pieces=[storable(piece) for piece in run.tokenizer.pieces(texts[0])] if len(texts) == 1 else None,
        write=run.tokenizer.decode_batch,
        extra=extra,
        attributes={"step": run.step, "run": str(run.folder.path)},
        progress=progress,
    )


def to_arviz(
    model: nn.Module,
    guide: nn.Module,
    batch: Batch,
    draws: int = 100,
    *,
    seed: int = 0,
    sites: str | Collection[str] | None = None,
    include_prior: bool = True,
    predictive: int = 0,
    data_size: int | None = None,
    fix_global: bool = False,
    max_bytes: int = GIBIBYTE,
    names: Sequence[str] | None = None,
    pieces: Sequence[str] | None = None,
    write: Callable[[Tensor], Sequence[str]] | None = None,
    extra: Mapping[str, Variables] | None = None,
    attributes: Mapping[str, Any] | None = None,
    progress: bool | None = False,
) -> ArviZData:
    r"""Posterior draws and log densities, for ArviZ: InferenceData (ArviZ 0.23) or a DataTree (1.x).

    Log weights are exported as weights. Entries that a text does not have, such as components beyond its length, are
    NaN. Where components may be absent, the weight of one that is absent in a draw is 0 and its vector NaN.

    Arguments:
        model: A generative model that observes ``text`` in the plate ``texts``.
        guide: Its guide.
        batch: The texts; use few, since every draw of their latents is stored.
        draws: Number of posterior draws for each text.
        seed: Random seed.
        sites: The latent site or sites to export; all by default. Log densities are always those of all sites.
        include_prior: Whether to draw from the prior as well.
        predictive: Number of draws from which a text is decoded.
        data_size: Number of texts that share the global sites, as in :class:`~pyroformer.ELBO`.
        fix_global: Whether all draws have the same values of the global sites, those of one draw: only then do texts
            have a :func:`~pyroformer.inference.diagnostics.khat` each where there are such sites.
        max_bytes: Maximal size of the latent draws in bytes.
        names: Names of the texts; their indices by default. Equal ones are numbered, "ok" and "ok (2)", and then stand
            in the coordinate ``string`` as they are.
        pieces: The tokens of the text as strings, if there is one text: coordinates of ``token`` and ``component``.
        write: Function from token ids to strings; without it, generated texts are exported as token ids alone.
        extra: Further variables by group: dimensions and values by name.
        attributes: Further attributes of every group.
        progress: Whether to show a progress bar on standard error; None for terminals and notebooks only.

    Raises:
        ValueError: If an argument is out of range, a site does not exist, or the draws would take more than
            ``max_bytes``.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = pf.NVAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> data = to_arviz(model, pf.NVAEGuide(model), pf.Batch.pad([[5, 6, 2], [7, 2]]), draws=10)
        >>> dict(data.posterior["vectors"].sizes)
        {'chain': 1, 'draw': 10, 'text': 2, 'component': 4, 'dimension': 16}
    """
    _check(batch, draws, predictive)
    sites = [sites] if isinstance(sites, str) else sites
    elbo, collected = ELBO(data_size=data_size), Draws(getattr(model, "dimensions", {}))
    bar = progress_bar("drawing", draws, "draw", progress)
    with bar as advance, seeded_eval(model, guide, seed=seed):
        drawn_from = with_global_sites_fixed(guide, batch) if fix_global else guide
        for index in range(draws):
            model_trace, guide_trace = trace_pair(model, drawn_from, batch)
            own = drawn_by_model(model_trace)
            latents = _latents(guide_trace, own, sites)
            if index == 0:
                _check_size(latents, batch, draws * (2 if include_prior else 1), max_bytes)
            masks = masks_in(guide_trace, latents)
            collected.add_latents("posterior", latents, masks)
            if include_prior:
                sampled = [name for name in latents if name not in own]
                _add_prior(collected, poutine.trace(model).get_trace(batch), sampled, masks)
            text: Any = model_trace.nodes["text"]["fn"]
            densities = elbo.densities(model_trace, guide_trace)
            collected.add("log_likelihood", _log_likelihood(densities, text, batch))
            collected.add("sample_stats", _sample_stats(densities))
            if index < predictive:
                _add_generated(collected, text, write)
            advance(1)
        points = point_sites(model, drawn_from, batch)
    texts = None if names is None else [storable(str(name)) for name in names]
    datasets = {
        group: labeled_dataset(variables, texts, None if group == "posterior_predictive" else pieces)  # other tokens
        for group, variables in _groups(collected, batch, extra or {}).items()
    }
    if local := [name for name, site in latent_sites(guide_trace).items() if is_local(site)]:
        datasets["conditional_log_likelihood"] = _without_loo(datasets.pop("log_likelihood"), local[0])
    datasets["sample_stats"].attrs.update(points | ({"global_sites": "fixed"} if fix_global else {}))
    return from_groups(datasets, draw_attributes(model, guide, seed) | dict(attributes or {}))


def _latents(guide_trace: Trace, own: Mapping[str, Any], sites: Collection[str] | None) -> dict[str, Any]:
    """The latent sites of a guide and those, ``own``, that it leaves to the model, or some of them."""
    if sites is None:
        return latent_sites(guide_trace) | dict(own)
    chosen = latent_sites(guide_trace, [name for name in sites if name not in own])
    return chosen | {name: site for name, site in own.items() if name in sites}


def _add_prior(
    collected: Draws, trace: Trace, sites: Collection[str], posterior_masks: Mapping[str, Tensor | None]
) -> None:
    """Add a draw of sites from the model, masked as those of the posterior unless it draws what is present."""
    latents = latent_sites(trace, sites)
    collected.add_latents("prior", latents, masks_in(trace, latents) if "presence" in trace.nodes else posterior_masks)


def _add_generated(collected: Draws, text: Any, write: Callable[[Tensor], Sequence[str]] | None) -> None:
    """Add a draw of the texts: tokens and lengths, named as in ``observed_data``, and elsewhere strings, which ArviZ
    would take for numbers.
    """
    tokens, group = text.sample(), "posterior_predictive"
    if not isinstance(text, AutoregressiveText):
        return collected.add(group, {"tokens": tokens})
    tokens = torch.where(text_mask(tokens, EOS), tokens, PAD)
    places = torch.arange(1, tokens.shape[-1] + 1, device=tokens.device)
    lengths = torch.where(tokens == PAD, 0, places).amax(-1)  # a text of a given length may lack an end
    tokens = tokens[..., : int(lengths.max())]
    collected.add(group, {"tokens": tokens, "length": lengths})
    if write is not None:
        collected.add_strings("generated", "texts", write(tokens))


def _groups(collected: Draws, batch: Batch, extra: Mapping[str, Variables]) -> dict[str, Variables]:
    """The draws, the texts that they are of, and further variables."""
    assert batch.tokens is not None
    groups = {group: collected.stacked(group) for group in collected.groups}
    lengths = (("text",), batch.lengths.cpu().numpy())
    groups["observed_data"] = {"tokens": (("text", "token"), batch.tokens.cpu().numpy()), "length": lengths}
    groups["constant_data"] = {"length": lengths}
    return groups | {group: groups.get(group, {}) | variables for group, variables in extra.items()}


def _without_loo(likelihood: Any, local: str) -> Any:
    """The dataset of a likelihood, with a warning that the site ``local`` leaves nothing for leave-one-out."""
    for part in (likelihood, *likelihood.data_vars.values()):
        part.attrs["warning"] = _NO_LOO.format(local)
    return likelihood


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


def _check(batch: object, draws: int, predictive: int) -> None:
    check_at_least(1, draws=draws)
    check_at_least(0, predictive=predictive)
    if predictive > draws:
        raise ValueError(
            f"predictive is {predictive}, but there are {draws} draws to decode from: give at most {draws}."
        )
    if not isinstance(batch, Batch):
        raise ValueError(
            f"batch is a {type(batch).__name__}: give a Batch, or for a model whose latents are all global take "
            "pyroformer.inference.posterior.global_latents.global_posterior."
        )
    if batch.tokens is None or batch.mask is None:
        raise ValueError("the batch is unobserved: a posterior is one of texts.")


def _check_size(sites: Mapping[str, Any], batch: Batch, draws: int, max_bytes: int) -> None:
    size = draws * sum(site["value"].numel() * max(4, site["value"].element_size()) for site in sites.values())
    if size > max_bytes:
        raise ValueError(
            f"the draws of {batch.weight.shape[-1]} texts would take {size / GIBIBYTE:.2f} GiB, more than "
            f"{max_bytes / GIBIBYTE:.2f} GiB: give fewer texts or draws, or the sites to export, or max_bytes={size}."
        )


def _pieces(run: FittedModel, texts: Sequence[str], batch: Batch) -> np.ndarray:
    """The tokens of each text as strings, padded with empty ones."""
    assert batch.mask is not None
    result = np.full(tuple(batch.mask.shape), "", dtype=object)
    for row, text in zip(result, texts, strict=True):
        pieces = run.tokenizer.pieces(text)
        row[: len(pieces)] = [storable(piece) for piece in pieces]
    return result.astype(str)


def _training(run: FittedModel) -> Variables:
    """The metrics of a run, if it has any."""
    try:
        metrics = run.folder.read_metrics()
    except ValueError:
        return {}
    return {name: (("chain", "row"), np.array(column)[None]) for name, column in metrics.items()}  # a chain for a fit
