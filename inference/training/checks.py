"""Checks before training: the model fits the corpus, and a resumed run continues as it began."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn

from ...guides.base import check_pair
from ...guides.encoders.text_encoder import TextEncoder
from ...models.base import Model
from ...models.batch import Batch
from ...models.priors.lengths import LengthPrior
from ...models.utils.choices import check_known
from ...models.utils.seeding import forked_rng
from ..data.corpus import Corpus
from ..objectives.elbo import Objective
from ..options import TrainingOptions
from ..runs.checkpoints import objective_state, read_checkpoint, read_unsharded
from ..runs.fingerprint import corpus_fingerprint
from ..runs.folder import RunFolder
from ..runs.joint_module import check_finite
from ..runs.old_runs import current_progress
from ..schedules import warmup_cosine
from .resumed import recorded_options
from .trainer import texts_per_step

__all__ = [
    "check_arguments",
    "check_checkpoint",
    "check_free_bits",
    "check_length_prior",
    "check_option_names",
    "check_progress",
    "check_same_corpus",
    "check_same_run",
    "check_sizes",
    "check_strategy",
    "check_texts_per_step",
    "introduce_texts",
    "patience_has_run_out",
    "progress_of",
    "rate_change",
]

ENDS = 2  # tokens that an encoder puts around a text
TEXTS_AT_A_TIME = 1000
JUMP = 1.5  # of the learning rate, from which on it is mentioned


def check_option_names(names: Iterable[str]) -> None:
    """Raises a ValueError for a keyword that is no training option.

    Examples:
        >>> check_option_names(["step"])
        Traceback (most recent call last):
        ValueError: fit has no option step: did you mean steps? help(pyroformer.fit) lists all.
    """
    known = [field.name for field in fields(TrainingOptions)]
    check_known("fit", names, [*known, "out", "resume", "callback"], "help(pyroformer.fit) lists all.")


def check_arguments(model: Any, guide: Any, corpus: Any) -> None:
    """Raises a ValueError if model, guide or corpus is something else or they do not belong together."""
    if isinstance(corpus, str | os.PathLike):
        raise ValueError(
            f"corpus is {str(corpus)!r}: read it first, with pyroformer.Corpus.from_file({str(corpus)!r})."
        )
    if not isinstance(corpus, Corpus):
        raise ValueError(
            f"corpus is a {type(corpus).__name__}: give a Corpus, such as pyroformer.Corpus.from_texts(texts)."
        )
    for name, value in {"model": model, "guide": guide}.items():
        if isinstance(value, type):
            made = f"{value.__name__}.for_corpus(corpus)" if name == "model" else f"{value.__name__}(model)"
            raise ValueError(f"{name} is the class {value.__name__}: give an instance, {made}.")
    if not isinstance(model, Model):
        raise ValueError(
            f"model is a {type(model).__name__}: give a Model, such as pyroformer.NVAE.for_corpus(corpus)."
        )
    model.check_conditions(corpus.conditional)
    if guide is not None and not isinstance(guide, nn.Module):
        raise ValueError(
            f"guide is a {type(guide).__name__}: give the guide of the model, or None if it has no latents."
        )
    if guide is None and model.latents:
        raise ValueError(
            f"guide is None, but {type(model).__name__} has the latents {', '.join(model.latents)}: give its guide."
        )
    check_pair(model, guide)


def check_same_corpus(folder: RunFolder, corpus: Corpus) -> None:
    """Raises a ValueError unless the corpus is that of a run to resume."""
    if not folder.corpus.exists() or folder.corpus.resolve() == corpus.folder.resolve():
        return
    own = Corpus.load(folder.corpus)
    if corpus_fingerprint(own) != corpus_fingerprint(corpus):
        raise ValueError(
            f"{folder.path} was begun with another corpus ({own.summary()}) than this one ({corpus.summary()}): "
            f"resume it with pyroformer.Corpus.load({str(folder.corpus)!r}), or choose another out."
        )


def check_progress(folder: RunFolder, options: TrainingOptions) -> None:
    """Raises a ValueError if a run to resume is longer than it should be, or has lost its checkpoint."""
    if not folder.last.exists():
        if folder.best.exists() and not folder.start.exists():  # with start.ckpt, it ended between the first two writes
            raise ValueError(
                f"{folder.last} is missing, the state to resume from: restore it, or fit anew with another out. "
                f"{folder.best}, the best weights, can still be used."
            )
        return
    step = folder.step()
    if options.steps is not None and options.steps < step:
        raise ValueError(f"steps is {options.steps}, but {folder.path} is at step {step}: give at least that many.")


def check_texts_per_step(folder: RunFolder, options: TrainingOptions) -> None:
    """Raises a ValueError if a step of a run to resume would have other texts than it had."""
    began = texts_per_step(TrainingOptions(**recorded_options(folder, folder.read_config())))
    now = texts_per_step(options)
    if folder.last.exists() and began != now:
        began = current_progress(read_unsharded(folder.last)["run"])["position"]["texts_per_step"]
    if began != now:
        raise ValueError(
            f"batch_size, accumulate_grad_batches and devices give {now} texts a step, but {folder.path} was begun "
            f"with {began}: give numbers whose product is that, or leave them out."
        )


def check_strategy(objective: nn.Module, options: TrainingOptions) -> None:
    """Raises a ValueError if the weights are to be sharded and cannot be."""
    if options.strategy == "fsdp":
        from .sharding import check_shardable  # its imports take half a second

        check_shardable(objective)


def rate_change(folder: RunFolder, options: TrainingOptions) -> str | None:
    """A line that says that the learning rate jumps, because a run to resume has another length than before."""
    checkpoint = read_unsharded(folder.last)
    before = TrainingOptions(**recorded_options(folder, folder.read_config()))
    old, new = (warmup_cosine(min(1.0, progress_of(checkpoint, each)[0])) for each in (before, options))
    if max(old, new) < JUMP * min(old, new):
        return None
    length = f"{options.steps:,} steps" if options.steps else f"{options.minutes:g} minutes"
    old, new = old * options.learning_rate, new * options.learning_rate
    return (
        f"the learning rate goes from {old:.2g} to {new:.2g}, since its schedule is now {length} long: the objective "
        "may rise for a while"
    )


def progress_of(checkpoint: Mapping[str, Any], options: TrainingOptions) -> tuple[float, float]:
    """The fraction of a run that a checkpoint has done, and its seconds."""
    seconds = float(checkpoint.get("run", {}).get("seconds", 0.0))
    return options.progress(checkpoint["global_step"], seconds), seconds


def patience_has_run_out(checkpoint: Mapping[str, Any], options: TrainingOptions, corpus: Corpus) -> bool:
    """Whether a run has ended before its time at a checkpoint, judged on the texts that it would go on with."""
    state = current_progress(checkpoint["run"])
    every = len(corpus.valid)  # of an older run, which does not tell its texts
    same = state.get("validation_texts", every) == min(options.validation_texts, every)
    return same and 0 < options.patience <= state["wait"]


def check_sizes(model: Model, corpus: Corpus) -> None:
    """Raises a ValueError if the model has fewer tokens or positions than the texts and conditions of the corpus."""
    config = getattr(model, "config", None)
    sizes = {
        "vocabulary": corpus.vocabulary,
        "max_length": corpus.max_length,
        "max_condition_length": corpus.max_condition_length,
    }
    for name, needed in sizes.items():
        size = getattr(config, name, None)
        if size is not None and size < needed:
            raise ValueError(
                f"the {name} of the model is {size}, that of the corpus {needed}: make the model with "
                f"{type(model).__name__}.for_corpus(corpus)."
            )


def check_length_prior(model: Model, corpus: Corpus) -> None:
    """Raises a ValueError if the prior of lengths lacks one that texts have, or has one that the model cannot have."""
    prior = getattr(model, "length_prior", None)
    if not isinstance(prior, LengthPrior):
        return
    config: Any = model.config
    longest = max(int(texts.lengths.max()) for texts in (corpus.train, corpus.valid))
    if not longest <= prior.max_length <= config.max_length:
        raise ValueError(
            f"the max_length of the length_prior is {prior.max_length}, but texts have up to {longest} tokens and the "
            f"model {config.max_length}: give a LengthPrior({config.max_length}), or make the model with "
            f"{type(model).__name__}.for_corpus(corpus)."
        )


def check_free_bits(objective: Objective, batch: Batch) -> None:
    """Raises a ValueError if dimensions have free bits, and those of a latent of these texts are not independent."""
    free_bits = objective.elbo.free_bits
    if free_bits is not None and free_bits.per == "dimension":
        with forked_rng(), torch.no_grad():
            objective.terms(batch.to(next(objective.parameters()).device))


def introduce_texts(guide: nn.Module | None, corpus: Corpus) -> None:
    """Tells a guide's pretrained encoder the tokenizer of the corpus, and has it check that it can read every text.

    Raises:
        ValueError: If it has another tokenizer already, or a text has more tokens than it reads.
    """
    for encoder in () if guide is None else guide.modules():
        if not isinstance(encoder, TextEncoder):
            continue
        encoder.set_tokenizer(corpus.tokenizer)
        for texts in (corpus.train, corpus.valid, corpus.test):
            longer = np.flatnonzero(texts.bytes > encoder.max_tokens - ENDS)  # others cannot have so many tokens
            for start in range(0, len(longer), TEXTS_AT_A_TIME):
                encoder.check(texts[int(index)] for index in longer[start : start + TEXTS_AT_A_TIME])


def check_checkpoint(folder: RunFolder, objective: nn.Module) -> None:
    """Raises a ValueError if the weights of the last checkpoint are not those of this model."""
    saved = objective_state(read_checkpoint(folder.last, moments=False), objective)
    expected = objective.state_dict()
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in expected.items()}:
        raise ValueError(f"{folder.last} is a checkpoint of another model than {folder.config_file} names.")
    check_finite({name: saved[name] for name, _ in objective.named_parameters()}, str(folder.last))


def check_same_run(folder: RunFolder, config: dict[str, Any]) -> None:
    """Raises a ValueError unless a resumed run has the model, the guide and the frozen weights that it began with."""
    before = folder.read_config()
    for part in ("model", "guide"):
        if before.get(part) != config[part]:
            raise ValueError(
                f"{folder.path} holds a run of another {part}: continue it with the same one, or choose another out."
            )
    if before.get("trained") != config.get("trained"):
        raise ValueError(
            f"{folder.path} trains {_trained(before)}, not {_trained(config)}: freeze what that run freezes, or choose "
            "another out."
        )
    if "frozen" in before and before["frozen"] != config.get("frozen"):
        raise ValueError(
            f"{folder.path} has other frozen weights than these: resume it from the run that it began with, or choose "
            "another out."
        )


def _trained(config: dict[str, Any]) -> str:
    return ", ".join(config.get("trained", ["everything"]))
