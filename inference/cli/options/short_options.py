"""Options of ``fit`` that are short for those of a model: its attention, its prior, also by default, and its delta."""

from collections.abc import Mapping
from typing import Any

from ...utils.registry import MODELS, imported
from .option_help import options

__all__ = ["with_default_prior", "with_short_options"]


def with_short_options(
    name: str,
    model: Mapping[str, Any],
    *,
    attention: str | None = None,
    prior: str | None = None,
    delta: float | None = None,
) -> dict[str, Any]:
    """The options of a model, with those that were given by a short name.

    Raises:
        ValueError: If the model has no such option, or it is given by both names.

    Examples:
        >>> with_short_options("nvae", {"nvib_layers": 1}, attention="probabilistic", delta=0.3)
        {'nvib_layers': 1, 'attention': 'probabilistic', 'delta': 0.3}
        >>> with_short_options("vae", {"base_measure": "gaussian"})
        {'base_measure': {'class_path': 'pyroformer.priors.GaussianVectorPrior'}}
    """
    model = dict(model)
    if isinstance(named := model.get("base_measure"), str):
        model["base_measure"] = _recipe(named)
    if attention is not None:
        _set(model, "attention", attention, f"--attention is {attention}")
    if prior is not None:
        if not _has(name, "base_measure"):
            raise ValueError(f"--prior is {prior}, but {name} has no vectors with a base measure: leave it out.")
        _set(model, "base_measure", _recipe(prior), f"--prior is {prior}")
    if delta is not None:
        if not _has(name, "delta"):
            raise ValueError(f"--delta is {delta:g}, and {name} has no weights with a delta: leave it out.")
        _set(model, "delta", delta, f"--delta is {delta:g}", "weight_prior")
    return model


def with_default_prior(
    name: str, pretrained: bool, model: Mapping[str, Any], guide: Mapping[str, Any], training: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a model with the prior of ``for_corpus``, unless one is given or others are of the published one.

    Examples:
        >>> with_default_prior("nvae", False, {}, {}, {})
        {'base_measure': {'class_path': 'pyroformer.priors.TokenVectorPrior'}}
        >>> with_default_prior("nvae", False, {}, {"alpha": "relu"}, {"keep": 0.5})
        {'base_measure': {'class_path': 'pyroformer.priors.GaussianVectorPrior'}}
    """
    from ...objectives.nvib import NVIB
    from ...objectives.registry import objective_class

    if "base_measure" in model or not _has(name, "base_measure"):
        return dict(model)
    objective = training.get("objective")
    published = objective is not None and issubclass(objective_class(objective), NVIB)
    published |= guide.get("alpha") == "relu"
    published |= any(training.get(option) is not None for option in NVIB.own_options)
    prior = "gaussian" if published else imported(MODELS[name].model).default_prior(model, pretrained)
    return {**model, "base_measure": _recipe(prior)}


def _set(model: dict[str, Any], option: str, value: Any, typed: str, *others: str) -> None:
    """Sets an option of a model that was typed by a short name, unless it or another that decides the same is given."""
    for given in (option, *others):
        if given in model:
            raise ValueError(f"{typed}, and --model.{given} beside it decides the same: give one of them.")
    model[option] = value


def _recipe(prior: str) -> dict[str, str]:
    """The class of a base measure that a name stands for."""
    from ....models.priors.named import NAMED

    return {"class_path": f"pyroformer.priors.{NAMED[prior].__name__}"}


def _has(name: str, option: str) -> bool:
    """Whether the constructor of a model has an option."""
    return option in {each.name for each in options(MODELS[name].model)}
