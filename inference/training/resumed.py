"""The options and initial weights of a resumed run, and which options may change."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import nn

from ..objectives.nvib import NVIB
from ..options import TrainingOptions
from ..runs.folder import RunFolder
from ..schedules import RUNGS

__all__ = ["begun_with", "changed_option", "load_start", "recorded_options", "resumed_options"]

# Options that may change when a run is resumed: those of its duration and of the machine. The product of batch_size,
# accumulate_grad_batches and devices may not.
MAY_CHANGE = {
    "accumulate_grad_batches",
    "activation_checkpointing",
    "batch_size",
    "compile",
    "devices",
    "minutes",
    "patience",
    "precision",
    "steps",
    "strategy",
    "validation_texts",
    "validations",
}


def resumed_options(folder: RunFolder, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run in a folder, where they are not given anew; setting one of ``steps`` and ``minutes``
    replaces both.

    Raises:
        ValueError: If an option that may not change has another value than the run began with, or the configuration
            of the run is damaged.
    """
    if not folder.config_file.exists():
        return dict(given)
    config = folder.read_config()
    recorded = recorded_options(folder, config)
    effective = _effective_options(recorded, config)
    new = asdict(TrainingOptions(**given))
    for name in given:
        if name not in MAY_CHANGE and new[name] not in (recorded.get(name), effective[name]):
            raise changed_option(folder, name, new[name], begun_with(effective[name]))
    changed = {name: new[name] for name in given if name in MAY_CHANGE}
    if {"steps", "minutes"} & set(given):
        recorded |= {"steps": None, "minutes": None}
    return recorded | changed


def changed_option(folder: RunFolder, name: str, value: Any, begun: str) -> ValueError:
    """The error of an option that may not change and has another value than a run was begun with."""
    return ValueError(
        f"{name} is {value}, but {folder.path} was begun {begun}: leave it out to go on, or choose another out."
    )


def begun_with(value: Any) -> str:
    """What a run was begun with, in the words of an error."""
    return "without it" if value is None else f"with {value}"


def recorded_options(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The training options in a run's configuration.

    Raises:
        ValueError: If they are damaged, or written by another version.
    """
    recorded = config.get("training") or {}
    known = {field.name for field in fields(TrainingOptions)}
    if not isinstance(recorded, dict):
        raise ValueError(f"{folder.config_file} is damaged: its training options are {recorded!r}.")
    for name in recorded:
        if name not in known:
            written = config.get("pyroformer", "another version")
            raise ValueError(
                f"{folder.config_file} has the training option {name!r}, which this version does not know (it was "
                f"written by {written}): delete that line, or resume with the version that wrote it."
            )
    return recorded | {name: value for name, value in _idle(recorded, config).items() if name in recorded}


def load_start(folder: RunFolder, modules: nn.Module) -> None:
    """Load the weights that a run without a checkpoint began with into model and guide, or into one of them.

    Raises:
        ValueError: If there are none, or they are those of another model.
    """
    if not folder.start.exists():
        raise ValueError(
            f"{folder.path} has no checkpoint and not the weights that it began with: fit anew with another out."
        )
    own = {name.partition(".")[0] for name in modules.state_dict()}
    weights = folder.start_weights(modules).items()
    try:
        modules.load_state_dict({name: value for name, value in weights if name.partition(".")[0] in own})
    except RuntimeError as error:
        raise ValueError(
            f"{folder.start} has weights of another model than {folder.config_file} names: fit anew with another out."
        ) from error


def _effective_options(recorded: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The training options of a run, with what it has by default where none is recorded."""
    objective = config.get("objective") or {}
    defaults: dict[str, Any] = {"objective": objective.get("class_path", objective.get("name"))}
    if objective.get("name") == NVIB.name:
        weights = NVIB().kl_weights
        defaults |= {"lambda_d": weights["weights"], "lambda_g": weights["vectors"], "layer_weights": "linear"}
    if recorded.get("kl_schedule") == "ladder":
        defaults["ladder"] = list(RUNGS)
    chosen = {name: value for name, value in recorded.items() if value is not None}
    return asdict(TrainingOptions()) | defaults | chosen


def _idle(recorded: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of options that have no effect on a run, with which earlier versions took other values."""
    idle: dict[str, Any] = {}
    if config.get("guide") is None:
        idle |= {"beta": 1.0, "kl_schedule": "constant"}
    if not recorded.get("free_bits"):
        idle |= {"free_bits_per": "layer"}
    if not any(name.startswith("weights_") for name in (config.get("objective") or {}).get("kl_weights") or ()):
        idle |= {"layer_weights": None}  # no layer attends to a mixture
    return idle
