"""The objectives by name or import path, and their descriptions in a run's configuration."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from ...models.base import Model
from ...models.serialization import check_trust, public_path
from ..options import TrainingOptions
from ..utils.registry import imported_class
from .description import keep_bound
from .elbo import ELBO, Objective
from .importance_weighted import ImportanceWeighted
from .keep_control import check_keep
from .nvib import NVIB
from .switched_off import check_never_off

__all__ = [
    "OBJECTIVES",
    "describe_objective",
    "held_out_objective",
    "in_words",
    "is_bound",
    "make_objective",
    "objective_class",
    "objective_name",
    "remarks",
]

OBJECTIVES: dict[str, type[ELBO]] = {cls.name: cls for cls in (ELBO, ImportanceWeighted, NVIB)}


def objective_class(name: str) -> type[ELBO]:
    """The class of an objective, by its name in ``OBJECTIVES`` or its import path.

    Raises:
        ValueError: If there is no such class, or it does not derive from :class:`ELBO`.

    Examples:
        >>> objective_class("iw").__name__
        'ImportanceWeighted'
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    return imported_class("objective", name, OBJECTIVES, "my_module.MyObjective", ELBO, "pyroformer.ELBO")


def objective_name(cls: type[ELBO]) -> str:
    """The name of an objective's class as an option: that in ``OBJECTIVES``, or else its import path.

    Examples:
        >>> objective_name(NVIB)
        'nvib'
    """
    return cls.name if cls in OBJECTIVES.values() else public_path(cls)


def describe_objective(model: Model, options: TrainingOptions) -> dict[str, Any]:
    """The objective of a model with these options, as plain data for the run's configuration.

    The description of an objective from outside pyroformer has its import path and its remarks as well, so that
    printing them later needs no foreign code.

    Raises:
        ValueError: If an option controls divergences that the objective or the model does not have, or the objective
            is not defined for the model's priors.

    Examples:
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = LanguageModel(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> describe_objective(model, TrainingOptions())
        {'name': 'elbo', 'is_bound': True, 'kl_weights': {}}
    """
    cls = _class_for(model, options)
    described = cls.describe(options, model)
    if cls in OBJECTIVES.values():
        return described
    return described | {"class_path": public_path(cls), "remarks": cls.remarks(described)}


def make_objective(model: Model, guide: nn.Module | None, options: TrainingOptions, data_size: int) -> Objective:
    """The objective that the options name, or else the default of the model, with model and guide.

    Raises:
        ValueError: If an option does not fit the objective, the model or the guide.
    """
    cls = _class_for(model, options)
    objective = cls.from_options(options, model, data_size)(model, guide)
    if cls.penalties is ELBO.penalties:
        check_never_off(guide, cls.name)
    if options.keep is not None:
        check_keep(model, guide)
    return objective


def held_out_objective(
    described: Mapping[str, Any], num_particles: int, data_size: int, trust: Collection[str] = ()
) -> ELBO:
    """The objective of a run, for held-out texts.

    With ``target_kl`` there is no moving weight here: a KL below the target is charged as the target.

    Arguments:
        described: The description in the run's configuration.
        num_particles: Draws of each text's latents.
        data_size: Number of training texts.
        trust: Modules or class paths outside pyroformer that may be imported.

    Raises:
        ValueError: If the objective is no class, or a class outside pyroformer that is not trusted.
    """
    path = described.get("class_path")
    if path is not None:
        if not isinstance(path, str):
            raise ValueError(f"the run's configuration names {path!r} where it names a class: restore its config.yaml.")
        check_trust(path, trust)
    cls = OBJECTIVES[described["name"]] if path is None else objective_class(path)
    if "target_kl" in described:
        sites = described["kl_weights"]
        described = {**described, "free_bits": described["target_kl"], "free_bits_per": "total"}
        described["kl_weights"] = dict.fromkeys(sites, 1.0)
    return cls.from_description(described, num_particles, data_size)


def remarks(described: Mapping[str, Any]) -> list[str]:
    """The differences of a run's objective from the ELBO with every KL weight 1, in words and without its name."""
    recorded: list[str] | None = described.get("remarks")
    return OBJECTIVES[described["name"]].remarks(described) if recorded is None else recorded


def is_bound(described: Mapping[str, Any]) -> bool:
    """Whether minus the loss of a run's objective is a bound of log p(x).

    Examples:
        >>> is_bound({"name": "elbo", "kl_weights": {"z": 4.0}}), is_bound({"name": "elbo", "kl_weights": {"z": 0.5}})
        (True, False)
    """
    if OBJECTIVES.get(described["name"]) is ELBO:  # older runs recorded that a weight above 1 is none
        return keep_bound(described["kl_weights"]) and not {"free_bits", "target_kl"} & set(described)
    return bool(described["is_bound"])


def in_words(described: Mapping[str, Any], elbo: str = "") -> str:
    """A run's objective in words, if it is not the ELBO or another bound of log p(x); empty if it is.

    Arguments:
        described: The description in the run's configuration.
        elbo: The name of the ELBO itself, to which the remarks are added.

    Examples:
        >>> in_words({"name": "elbo", "kl_weights": {"z": 1.0}})
        ''
        >>> in_words({"name": "elbo", "kl_weights": {"z_1": 0.5, "z_2": 0.5}, "kl_reduction": "mean"})
        'KL averaged over 2 latents: effective beta = 0.5, not a bound'
        >>> in_words({"name": "elbo", "kl_weights": {"z": 4.0}})
        'beta = 4'
        >>> in_words({"name": "elbo", "kl_weights": {"z": 1.0}, "free_bits": 2.0, "free_bits_per": "layer"})
        'free bits: 2 nats a layer, not a bound'
    """
    words, bound = remarks(described), is_bound(described)
    is_elbo = OBJECTIVES.get(described["name"]) is ELBO
    plain = not words if is_elbo else bound
    if plain:
        return ""
    return ", ".join(filter(None, [elbo if is_elbo else described["name"], *words, "" if bound else "not a bound"]))


def _class_for(model: Model, options: TrainingOptions) -> type[ELBO]:
    """The class of the objective that the options name, or else of the model's default.

    Raises:
        ValueError: If it does not read an option that belongs to another objective.
    """
    cls = objective_class(options.objective or model.objective)
    owners = {option: owner.name for owner in OBJECTIVES.values() for option in owner.own_options}
    for option, owner in owners.items():
        if getattr(options, option) is not None and option not in cls.own_options:
            raise ValueError(
                f"{option} is {getattr(options, option)}, an option of the objective {owner}, and the objective "
                f"{cls.name} does not read it: leave it out, or choose the objective {owner}."
            )
    return cls
