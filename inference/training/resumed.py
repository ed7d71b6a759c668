"""Options of a resumed run: those that it began with, and those that may change."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ..objectives.nvib import NVIB
from ..options import TrainingOptions
from ..runs.folder import RunFolder
from ..schedules import RUNGS

__all__ = ["MAY_CHANGE", "begun_with", "effective_options", "recorded_options", "resumed_options"]

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
    effective = effective_options(folder, config)
    new = asdict(TrainingOptions(**given))
    for name in given:
        same = name not in recorded or new[name] in (recorded[name], effective[name])
        if not same and name not in MAY_CHANGE:
            raise ValueError(
                f"{name} is {new[name]}, but {folder.path} was {begun_with(effective[name])}: leave it out to go on, "
                "or choose another out."
            )
    changed = {name: new[name] for name in given if name in MAY_CHANGE}
    if {"steps", "minutes"} & set(given):
        recorded |= {"steps": None, "minutes": None}
    return recorded | changed


def begun_with(value: Any) -> str:
    """What a run was begun with, in the words of an error."""
    return "begun without it" if value is None else f"begun with {value}"


def effective_options(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The training options in a run's configuration, with what it has by default in place of None.

    Raises:
        ValueError: If they are damaged, or written by another version.
    """
    recorded, objective = recorded_options(folder, config), config.get("objective") or {}
    defaults: dict[str, Any] = {"objective": objective.get("class_path", objective.get("name"))}
    if objective.get("name") == NVIB.name:
        weights = NVIB().kl_weights
        defaults |= {"lambda_d": weights["weights"], "lambda_g": weights["vectors"], "layer_weights": "linear"}
    if recorded.get("kl_schedule") == "ladder":
        defaults["ladder"] = list(RUNGS)
    return recorded | {name: value for name, value in defaults.items() if recorded.get(name) is None}


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
    if config.get("guide") is None:  # without latents, earlier versions took weights of a KL and did nothing with them
        recorded = recorded | {name: value for name, value in _NO_KL.items() if name in recorded}
    return dict(recorded)


_NO_KL = {"beta": 1.0, "kl_schedule": "constant"}
