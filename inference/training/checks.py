"""Checks before training: model, guide, corpus and options belong together."""

import os
from typing import Any

import numpy as np
import torch
from torch import nn

from ...guides.base import check_pair
from ...guides.encoders.text_encoder import TextEncoder
from ...models.base import Model
from ...models.batch import Batch
from ...models.priors.lengths import LengthPrior
from ...models.utils.seeding import forked_rng
from ..data.corpus import Corpus
from ..objectives.elbo import Objective
from ..options import TrainingOptions

__all__ = [
    "check_arguments",
    "check_free_bits",
    "check_length_prior",
    "check_sizes",
    "check_strategy",
    "introduce_texts",
]

ENDS = 2  # tokens that an encoder puts around a text
TEXTS_AT_A_TIME = 1000


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
            f"model is a {type(model).__name__}: give a Model, such as pyroformer.NVAE.for_corpus(corpus), or train "
            "another model of Pyro with pyroformer.SVI."
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


def check_strategy(objective: nn.Module, options: TrainingOptions) -> None:
    """Raises a ValueError if the weights are to be sharded and cannot be."""
    if options.strategy == "fsdp":
        from .distributed.sharding import check_shardable  # its imports take half a second

        check_shardable(objective)


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
