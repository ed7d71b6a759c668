"""Checks before training: the model fits the corpus, and a resumed run continues as it began."""

from typing import Any

from torch import nn

from ...models.base import Model
from ..data.corpus import Corpus
from ..runs.folder import RunFolder, objective_state, read_checkpoint

__all__ = ["check_checkpoint", "check_same_run", "check_sizes"]


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


def check_checkpoint(folder: RunFolder, objective: nn.Module) -> None:
    """Raises a ValueError if the weights of the last checkpoint are not those of this model."""
    saved = objective_state(read_checkpoint(folder.last), objective)
    expected = objective.state_dict()
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in expected.items()}:
        raise ValueError(f"{folder.last} is a checkpoint of another model than {folder.config_file} names.")


def check_same_run(folder: RunFolder, config: dict[str, Any]) -> None:
    """Raises a ValueError unless a resumed run has the model, frozen weights and ``target_kl`` that it began with."""
    before = folder.read_config()
    for part in ("model", "guide"):
        if before.get(part) != config[part]:
            raise ValueError(
                f"{folder.path} holds a run of another {part}: continue it with the same one, or choose another --out."
            )
    if before.get("trained") != config.get("trained"):
        raise ValueError(
            f"{folder.path} trains {_trained(before)}, not {_trained(config)}: freeze what that run freezes, or choose "
            "another --out."
        )
    if "frozen" in before and before["frozen"] != config.get("frozen"):
        raise ValueError(
            f"{folder.path} has other frozen weights than these: resume it from the run that it began with, or choose "
            "another --out."
        )
    old, new = (each.get("training", {}).get("target_kl") for each in (before, config))
    if old != new:
        raise ValueError(
            f"target_kl is {new}, but {folder.path} was begun with {old}: go on with that, or choose another --out."
        )


def _trained(config: dict[str, Any]) -> str:
    return ", ".join(config.get("trained", ["everything"]))
