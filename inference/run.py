"""A fitted model with everything that belongs to it, and the way back from its folder."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.base import Model
from ..models.batch import Batch
from ..models.recipe import build, describe
from .corpus import Corpus
from .elbo import ELBO
from .folder import RunFolder, read_checkpoint
from .options import TrainingOptions

__all__ = ["Run", "load", "run_config"]


class Run:
    r"""What :func:`~pyroformer.fit` and :func:`~pyroformer.load` return.

    Arguments:
        model: The fitted model.
        guide: Its fitted posterior, or None.
        corpus: The texts it was fitted to, with their tokenizer.
        folder: Where it lives.
        config: Its resolved configuration.
        step: The step whose weights it holds.
    """

    def __init__(
        self,
        model: Model,
        guide: nn.Module | None,
        corpus: Corpus,
        folder: RunFolder,
        config: dict[str, Any],
        step: int,
    ) -> None:
        self.model, self.guide, self.corpus = model, guide, corpus
        self.folder, self.config, self.step = folder, config, step

    @property
    def tokenizer(self) -> Any:
        return self.corpus.tokenizer

    def batch(self, texts: Collection[str]) -> Batch:
        """Texts as one batch on the model's device.

        Raises:
            ValueError: If there is no text, or one is longer than the model's window.
        """
        if isinstance(texts, str):
            texts = [texts]
        if not texts:
            raise ValueError("no text was given: give at least one.")
        ids = self.tokenizer.encode_batch(list(texts))
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) > self.corpus.window:
                raise ValueError(
                    f"{text[:40]!r}... has {len(tokens)} tokens, the model's window is {self.corpus.window}: shorten it."
                )
        return Batch.pad(ids).to(self.model.device)


def load(path: str | Path, *, trust: Collection[str] = (), device: str | torch.device = "cpu") -> Run:
    """The run in a folder, with its best weights.

    Arguments:
        path: The folder that ``fit`` wrote.
        trust: Modules or class paths outside pyroformer that the run's configuration may import.
        device: Where the model goes.

    Raises:
        ValueError: If there is no run, its checkpoint is damaged, or it needs code that is not trusted.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    model = build(config["model"], trust)
    guide = build(config["guide"], trust, model=model) if config.get("guide") else None
    checkpoint = read_checkpoint(folder.best if folder.best.exists() else folder.last)
    objective = ELBO()(model, guide)
    state = {name.removeprefix("objective."): value for name, value in checkpoint["state_dict"].items()}
    try:
        objective.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder.best} is a checkpoint of another model than {folder.config_file} names.") from error
    objective.to(device).eval()
    return Run(model, guide, Corpus.open(folder.corpus), folder, config, int(checkpoint["global_step"]))


def run_config(
    model: Model, guide: nn.Module | None, corpus: Corpus, options: TrainingOptions, objective: ELBO
) -> dict[str, Any]:
    """The resolved configuration of a run, as plain data."""
    from .. import __version__

    return {
        "pyroformer": __version__,
        "model": describe(model),
        "guide": None if guide is None else describe(guide, leave_out=["model"]),
        "corpus": corpus.describe(),
        "objective": {"name": objective.name, "is_bound": objective.is_bound, "kl_weights": objective.kl_weights},
        "training": asdict(options),
    }
