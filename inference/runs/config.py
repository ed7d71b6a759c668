"""Configuration of a run, as written to its config.yaml."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from torch import nn

from ...models.base import Model
from ...models.serialization import to_config
from ..data.corpus import Corpus
from ..objectives.registry import describe_objective
from ..options import TrainingOptions
from .joint_module import frozen_fingerprint, joint_module, trainable_modules

__all__ = ["run_config"]


def run_config(model: Model, guide: nn.Module | None, corpus: Corpus, options: TrainingOptions) -> dict[str, Any]:
    """Everything that determines a run, as plain data: model, guide, corpus, objective and training options.

    If some parameters are frozen, it also has ``trained``, the names of the trainable modules, and ``frozen``, a
    fingerprint of the frozen weights.
    """
    modules = joint_module(model, guide)
    config = {
        "pyroformer": version("pyroformer"),
        "model": to_config(model),
        "guide": None if guide is None else to_config(guide, leave_out=["model"]),
        "corpus": corpus.summary(),
        "objective": describe_objective(model, options),
        "training": asdict(options),
    }
    trained = trainable_modules(modules)
    return config if trained == [""] else config | {"trained": trained, "frozen": frozen_fingerprint(modules)}
