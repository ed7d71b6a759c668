r"""How good a fitted model is: bounds of log p(x), what they are made of, what each latent carries, what comes back.

Whatever was trained, the bound is that of the model that is sampled: beta = 1, exact divergences, the length included.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...guides.della import DELLAGuide
from ...guides.nvae import MixturePosterior
from ...models.attention.mixture import Mixture
from ...models.batch import Batch
from ...models.transformer.text_distribution import AutoregressiveText
from ..data.loaders import sequential_batches
from ..data.readers import Pair
from ..data.texts import Texts
from ..generation.generate import reconstruct, sample
from ..objectives.bounds import importance_sweep, importance_weighted
from ..objectives.elbo import ELBO, Terms, trace_pair
from ..objectives.registry import held_out_objective, remarks
from ..runs.fitted import FittedModel, check_same_length
from ..utils.seeded_eval import seeded_eval
from .cross_attention import attention_shares
from .latent_information import latent_information
from .metrics import bleu, count_for_mass, effective_components
from .report import Estimate, Evaluation, Metric
from .summaries import (
    LEAST_ALPHA,
    Columns,
    accuracies,
    bounds,
    components,
    given_conditions,
    layers,
    parts,
    share,
    sweep,
)
from .text_metrics import diversity

__all__ = ["evaluate", "text_bounds"]

Split = Literal["train", "valid", "test"]
REFERENCES = 10  # held-out texts for each one that is made up
PENALTY = "penalty of "  # columns of what is charged in training, before free bits
DRAWS = 8  # for terms that are not importance-weighted: with exact divergences they hardly vary


def evaluate(
    run: FittedModel,
    texts: Sequence[str] | Sequence[Pair] | None = None,
    *,
    split: Split = "test",
    num_particles: int = 64,
    seed: int = 0,
    limit: int | None = None,
    reconstructions: int = 256,
    compared: int = 512,
    samples: int = 0,
    min_weight: float = 0.0,
    batch_size: int = 64,
) -> Evaluation:
    r"""Measure a run on held-out texts.

    Arguments:
        run: Any run.
        texts: What to measure it on; a split of its corpus by default. It is made of texts or of pairs
            (condition, text), as the corpus is; those longer than the max_length are treated as those of the corpus were.
        split: Which split.
        num_particles: Draws :math:`K` of the importance-weighted bound.
        seed: Of all noise.
        limit: At most so many texts, evenly spaced.
        reconstructions: How many of them are written again, for BLEU and exact match.
        compared: How many of them are compared with one another, for what each latent of a DELLA carries; of one text
            nothing of it can be told.
        samples: How many texts are made up and compared with each other and with held-out ones, for their variety.
        min_weight: Vectors of a mixture whose mean weight is below it leave before texts are written again; every other
            figure is of the whole mixture.
        batch_size: Texts at a time.

    Raises:
        ValueError: If there are no texts, a number is out of its range, or there is no mixture to drop vectors of.
    """
    numbers = {
        "num_particles": num_particles,
        "limit": limit,
        "reconstructions": reconstructions,
        "compared": compared,
        "batch_size": batch_size,
    }
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}: give a positive whole number.")
    if samples < 0 or samples == 1:
        raise ValueError(f"samples is {samples}: give 0 for none, or at least 2, which are compared with each other.")
    if samples and run.corpus.conditional:
        raise ValueError(
            f"samples is {samples}, but what this run writes answers to a condition: leave samples out, and compare "
            "run.sample(n, condition=...) by text_metrics.diversity."
        )
    chosen = _some(_texts(run, texts, split), limit)
    if not len(chosen):
        raise ValueError("there are no texts to evaluate on: give some, or another split.")
    written = {}
    if run.guide is not None or min_weight:  # first, because it is what may be refused
        written = _reconstructed(run, _some(chosen, reconstructions), min_weight, seed, batch_size)
    trained = run.config["objective"]
    objective = held_out_objective(trained, min(num_particles, DRAWS), len(run.corpus.train))
    with seeded_eval(run.model, run.guide, seed=seed):
        columns = _measure(run, chosen, objective, num_particles, batch_size)
    figures = bounds(columns, num_particles) | parts(columns, objective, remarks(trained)) | accuracies(columns)
    if run.corpus.conditional:
        figures = given_conditions(figures)
    if run.guide is not None:
        figures |= written | components(columns)
    if samples:
        references = _some(run.corpus.test, REFERENCES * samples)[:]
        figures |= diversity(sample(run, samples, seed=seed), references, seed=seed)
    about: dict[str, Any] = {
        "texts": len(chosen),
        "tokens": int(columns["tokens"].sum()),
        "bytes": int(columns["bytes"].sum()),
    }
    about |= {"split": split if texts is None else None, "samples": samples, "seed": seed, "step": run.step}
    if run.guide is not None:
        about |= {
            "num_particles": num_particles,
            "draws": objective.num_particles,
            "reconstructions": min(reconstructions, len(chosen)),
            "min_weight": min_weight,
        }
    if not isinstance(run.guide, DELLAGuide) or min(compared, len(chosen)) < 2:
        return Evaluation(figures, about)
    figures |= _by_latent(run, _some(chosen, compared), seed, batch_size)
    return Evaluation(figures, about | {"compared": min(compared, len(chosen))}, run.model.latents)


def text_bounds(
    run: FittedModel,
    texts: Sequence[str],
    num_particles: int = 64,
    *,
    conditions: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Float[Tensor, " texts"]:
    """The importance-weighted lower bound of each text's log p(x), in nats and float64; log p(x) if nothing is latent.

    Raises:
        ValueError: If a text does not fit the model's max_length.
    """
    check_same_length(texts, conditions)
    num_particles = 1 if run.guide is None else num_particles
    found = []
    with seeded_eval(run.model, run.guide, seed=seed):
        for start in range(0, len(texts), batch_size):
            chunk = slice(start, start + batch_size)
            batch = run.batch(texts[chunk], None if conditions is None else conditions[chunk])
            found.append(importance_weighted(run.model, run.guide, batch, num_particles, len(run.corpus.train)).cpu())
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def _measure(run: FittedModel, texts: Texts, objective: ELBO, num_particles: int, batch_size: int) -> Columns:
    """Everything that is measured: one number a text, in the order of the texts."""
    columns: dict[str, np.ndarray] = {"tokens": texts.lengths.astype(float), "bytes": texts.bytes.astype(float)}
    for indices, batch in sequential_batches(texts, batch_size):
        for name, values in _measure_batch(run, batch.to(run.model.device), objective, num_particles).items():
            column = columns.setdefault(name, np.zeros((len(texts), *values.shape[1:])))
            column[indices] = values[: len(indices)].double().cpu().numpy()  # rows beyond only fill up the batch
    return _charged(columns, objective)


def _measure_batch(run: FittedModel, batch: Batch, objective: ELBO, num_particles: int) -> dict[str, Tensor]:
    assert batch.tokens is not None and batch.mask is not None
    terms = objective.terms(run.model, run.guide, batch)
    drawn: Any = trace_pair(run.model, run.guide, batch)[0].nodes["text"]["fn"]
    values = {
        "reconstruction": -terms.log_likelihood,
        **{f"kl_{site}": kl for site, kl in terms.kl.items()},
        **{f"{PENALTY}{site}": penalty for site, penalty in terms.penalty.items()},
        "hits_sampled": _hits(drawn, batch.tokens, batch.mask),
    }
    if run.guide is None:
        return values
    swept = importance_sweep(run.model, run.guide, batch, sweep(num_particles), len(run.corpus.train))
    costs = {f"importance_weighted_{count}": -bound for count, bound in swept.items()}
    costs["importance_weighted"] = costs.pop(f"importance_weighted_{num_particles}")
    return values | costs | _measure_mean(run, batch, batch.tokens, batch.mask)


def _measure_mean(
    run: FittedModel, batch: Batch, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> dict[str, Tensor]:
    """What the mean of the posterior gives, and how many components it uses."""
    model: Any = run.model
    guide: Any = run.guide
    posterior = guide.encode(batch)
    memory = posterior.memory()
    hits = {"hits": _hits(model.likelihood(memory, mask), tokens, mask)}
    if not isinstance(memory, Mixture):
        return hits
    hits |= {
        "components": posterior.mask.sum(-1),
        "kept_attention": count_for_mass(attention_shares(model.decoder, tokens, mask, memory)),
    }
    if not isinstance(posterior, MixturePosterior):
        return hits
    return hits | {
        "kept_alpha": (posterior.mask & (posterior.log_alpha > math.log(LEAST_ALPHA))).sum(-1),
        "kept_entropy": effective_components(posterior.log_weights),
    }


def _charged(columns: dict[str, np.ndarray], objective: ELBO) -> Columns:
    """What was minimized in place of the penalties, text by text, with the weights at their full value.

    Free bits are those of the mean over all texts, so that the figure does not depend on who shares a batch with whom.
    """
    penalties = {name: torch.from_numpy(column) for name, column in columns.items() if name.startswith(PENALTY)}
    cost = torch.from_numpy(columns["reconstruction"])
    terms = Terms(-cost, {}, {name.removeprefix(PENALTY): penalty for name, penalty in penalties.items()})
    charged = objective.text_losses(terms, objective.kl_weights, torch.ones_like(cost))
    rest = {name: column for name, column in columns.items() if name not in penalties}
    return rest | {"objective": charged.numpy()}


def _hits(text: AutoregressiveText, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """How many tokens are the most probable ones, the true ones before them given."""
    return ((text.likelihood(tokens).predicted() == tokens) & mask).sum(-1)


def _reconstructed(run: FittedModel, texts: Texts, min_weight: float, seed: int, batch_size: int) -> dict[str, Metric]:
    options: dict[str, Any] = {"min_weight": min_weight, "seed": seed, "batch_size": batch_size}
    conditions = None if texts.conditions is None else texts.conditions[:]
    pairs = reconstruct(run, texts[:], conditions=conditions, **options)
    which = f"{len(pairs):,} greedy reconstructions, mean posterior"
    which += f" without vectors below {min_weight:g}" if min_weight else ""
    score = bleu([pair.text for pair in pairs], [pair.original for pair in pairs])
    exact = np.array([pair.exact for pair in pairs], dtype=float)
    return {
        "bleu": Metric(f"BLEU of {which}", {"of 100": Estimate(score)}),
        "exact_match": share(f"exact match of {which}", exact),
    }


def _by_latent(run: FittedModel, texts: Texts, seed: int, batch_size: int) -> dict[str, Metric]:
    batches = [batch.to(run.model.device) for _, batch in sequential_batches(texts, batch_size)]
    model: Any = run.model
    guide: Any = run.guide
    with seeded_eval(model, guide, seed=seed):
        return layers(latent_information(model, guide, batches), model.latents)


def _texts(run: FittedModel, texts: Sequence[str] | Sequence[Pair] | None, split: Split) -> Texts:
    if texts is None:
        if split not in get_args(Split):
            raise ValueError(f"there is no split {split!r}: give {', '.join(get_args(Split))}.")
        held: Texts = getattr(run.corpus, split)
        return held
    return run.corpus.encode([texts] if isinstance(texts, str) else texts)


def _some(texts: Texts, limit: int | None) -> Texts:
    """At most ``limit`` of the texts, evenly spaced."""
    if limit is None or limit >= len(texts):
        return texts
    return texts.select(np.linspace(0, len(texts) - 1, limit).round().astype(int))
