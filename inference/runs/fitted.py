"""A fitted model with its guide, corpus and folder."""

from collections.abc import Collection, Sequence
from os import PathLike
from typing import Any

from torch import nn

from ...models.base import Model
from ...models.batch import Batch
from ..data.corpus import Corpus
from ..data.entries import Conditions, TextSource, as_conditions, as_texts
from ..data.tokenizer import Tokenizer
from .folder import RunFolder

__all__ = ["FittedModel", "check_run", "check_same_length"]


class FittedModel:
    """The state of a run, on which the functions of ``inference`` operate.

    :class:`~pyroformer.Run` adds these functions as methods.

    Arguments:
        model: The fitted model.
        guide: Its fitted guide, or None for a model without latents.
        corpus: The training corpus, with its tokenizer.
        folder: The folder of the run.
        config: The configuration of the run.
        step: The training step of the weights.
        trust: Modules or class paths outside pyroformer that may be imported for the run, such as its objective.
    """

    def __init__(
        self,
        model: Model,
        guide: nn.Module | None,
        corpus: Corpus,
        folder: RunFolder,
        config: dict[str, Any],
        step: int,
        trust: Collection[str] = (),
    ) -> None:
        self.model, self.guide, self.corpus = model, guide, corpus
        self.folder, self.config, self.step, self.trust = folder, config, step, trust

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the corpus."""
        return self.corpus.tokenizer

    def batch(self, texts: TextSource, conditions: Conditions | None = None) -> Batch:
        """Texts as one batch on the model's device, with their conditions if the run was trained on pairs.

        Raises:
            ValueError: If there is no text, an entry is not one, one is longer than the model's max_length, or the
                number of conditions differs from that of the texts.
        """
        texts = as_texts(texts)
        if not texts:
            raise ValueError("there are no texts: give at least one.")
        ids = self.tokenizer.encode_batch(texts)
        _check_lengths(texts, ids, self.corpus.max_length)
        return Batch.pad(ids, conditions=self.conditions(conditions)).to(self.model.device)

    def conditions(self, conditions: Conditions | None) -> list[list[int]] | None:
        """Token ids of conditions, without end-of-text tokens; None if the run was trained without conditions.

        Raises:
            ValueError: If conditions are missing, superfluous, unknown, or longer than the model's max_length.
        """
        tokenizer = self.corpus.condition_tokenizer
        if tokenizer is None:
            if conditions is not None:
                raise ValueError("the run was trained on texts without conditions: leave the conditions out.")
            return None
        if conditions is None:
            raise ValueError("the run was trained on pairs: give the condition of each text as well.")
        conditions = as_conditions(conditions)
        ids = [tokens[:-1] for tokens in tokenizer.encode_batch(conditions)]
        _check_lengths(conditions, ids, self.corpus.max_length)
        return ids


def check_run(run: object) -> None:
    """Raises a ValueError unless it is a run, as where a model is given in its place.

    Examples:
        >>> check_run("runs/mine")
        Traceback (most recent call last):
        ValueError: run is 'runs/mine': give the run that fit or load returns, as in pf.load('runs/mine').
    """
    if not isinstance(run, FittedModel):
        value = repr(str(run)) if isinstance(run, str | PathLike) else f"of type {type(run).__name__}"
        raise ValueError(f"run is {value}: give the run that fit or load returns, as in pf.load('runs/mine').")


def check_same_length(texts: Collection[str], conditions: Collection[str] | None) -> None:
    """Raises a ValueError unless there is one condition for each text, or none at all."""
    if conditions is not None and len(conditions) != len(texts):
        raise ValueError(f"there are {len(conditions)} conditions for {len(texts)} texts: give one for each.")


def _check_lengths(texts: Sequence[str], ids: Sequence[list[int]], max_length: int) -> None:
    for text, tokens in zip(texts, ids, strict=True):
        if len(tokens) > max_length:
            raise ValueError(
                f"{text[:40]!r}... has {len(tokens)} tokens, the model's max_length is {max_length}: shorten it."
            )
