"""The resolved configuration of a run."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from torch import nn

from ...models.base import Model
from ...models.serialization import to_config
from ..data.corpus import Corpus
from ..objectives.elbo import ELBO
from ..objectives.registry import describe_objective
from ..options import TrainingOptions
from .partial import frozen_fingerprint, trainable_modules

__all__ = ["run_config"]


def run_config(model: Model, guide: nn.Module | None, corpus: Corpus, options: TrainingOptions) -> dict[str, Any]:
    """The resolved configuration of a run, as plain data; with what is trained and what held, where some parts are."""
    modules = ELBO()(model, guide)
    trained = trainable_modules(modules)
    config = {
        "pyroformer": version("pyroformer"),
        "model": to_config(model),
        "guide": None if guide is None else to_config(guide, leave_out=["model"]),
        "corpus": corpus.describe(),
        "objective": describe_objective(model, options),
        "training": asdict(options),
    }
    return config if trained == [""] else config | {"trained": trained, "held": frozen_fingerprint(modules)}
