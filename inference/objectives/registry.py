"""What a run trains: its options as plain data for its configuration, and that as an objective and in words."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...models.base import Model
from ...models.distributions.log_dirichlet import LogDirichlet
from ...models.priors.roles import SequencePrior
from ..options import TrainingOptions
from .elbo import ELBO, Objective
from .importance_weighted import ImportanceWeighted
from .kl_control import FreeBits
from .nvib import NVIB

__all__ = ["describe_objective", "held_out_objective", "in_words", "make_objective", "remarks"]


def describe_objective(model: Model, options: TrainingOptions) -> dict[str, Any]:
    """The objective of a model with these options, as plain data.

    Raises:
        ValueError: If an option controls divergences that the objective or the model does not have, or the objective
            is not defined for the model's priors.

    Examples:
        >>> from pyroformer.models.language_model import LanguageModel
        >>> from pyroformer.models.transformer.stacks import TransformerConfig
        >>> model = LanguageModel(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> describe_objective(model, TrainingOptions())
        {'name': 'elbo', 'is_bound': True, 'kl_weights': {}}
    """
    name = options.objective or model.objective
    control = _control(options)
    draws = _draws(name, model, options)
    base = getattr(model, "base_measure", None)
    if name == NVIB.name and isinstance(base, SequencePrior):
        raise ValueError(
            f"the objective {name} compares every vector with the same distribution, and {type(base).__name__} has another for "
            "each: choose the objective elbo."
        )
    if name == NVIB.name:
        _check_dirichlet(model)
    for option in control:
        if name != ELBO.name:
            raise ValueError(f"{option} is about the KL, and the objective {name} has none: choose the objective elbo.")
        if not model.latents:
            raise ValueError(f"{option} is about the KL of latents, and {type(model).__name__} has none: leave it out.")
    if name == NVIB.name:
        weights = NVIB(beta=options.beta).kl_weights
    elif name == ImportanceWeighted.name:
        weights = {}
    else:
        sites = len(model.latents) if options.kl_reduction == "mean" else 1
        weights = dict.fromkeys(model.latents, options.beta / sites)
    exact = name != NVIB.name and not {"free_bits", "target_kl"} & set(control)
    is_bound = exact and all(weight == 1 for weight in weights.values())
    return {"name": name, "is_bound": is_bound, "kl_weights": weights} | control | draws


def make_objective(model: Model, guide: nn.Module | None, options: TrainingOptions, data_size: int) -> Objective:
    """The objective that the options name, or that the model was published with."""
    described = describe_objective(model, options)
    return _elbo(described, described.get("num_particles", 1), data_size)(model, guide)


def held_out_objective(described: Mapping[str, Any], draws: int, data_size: int) -> ELBO:
    """What a run minimized, as far as held-out texts can tell.

    A weight that moved towards a target has no part in it: a divergence below the target is charged as the target.
    """
    if "target_kl" in described:
        sites = described["kl_weights"]
        described = {**described, "free_bits": described["target_kl"], "free_bits_per": "total"}
        described["kl_weights"] = dict.fromkeys(sites, 1.0)
    return _elbo(described, draws, data_size)


def in_words(described: Mapping[str, Any]) -> str:
    """What keeps an objective from being a bound of log p(x); nothing where it is one.

    Examples:
        >>> in_words({"name": "elbo", "kl_weights": {"z": 1.0}})
        ''
        >>> in_words({"name": "elbo", "kl_weights": {"z_1": 0.5, "z_2": 0.5}, "kl_reduction": "mean"})
        'KL averaged over 2 latents: effective beta = 0.5, not a bound'
        >>> in_words({"name": "elbo", "kl_weights": {"z": 1.0}, "free_bits": 2.0, "free_bits_per": "layer"})
        'free bits: 2 nats a layer, not a bound'
    """
    name, words = described["name"], remarks(described)
    if name == ImportanceWeighted.name:
        return ""
    if name != ELBO.name:
        words = [name, *words]
    return ", ".join([*words, "not a bound"]) if words else ""


def remarks(described: Mapping[str, Any]) -> list[str]:
    """How an objective differs from the ELBO with every weight 1, beyond its name."""
    if described["name"] == ImportanceWeighted.name:
        return [f"{described['particles']} draws"]
    if described["name"] != ELBO.name:
        return []
    weights = described["kl_weights"]
    beta = " and ".join(f"{weight:.3g}" for weight in sorted(set(weights.values())))
    words = []
    if described.get("kl_reduction") == "mean" and len(weights) > 1:
        words.append(f"KL averaged over {len(weights)} latents: effective beta = {beta}")
    elif any(weight != 1 for weight in weights.values()):
        words.append(f"beta = {beta}")
    if "free_bits" in described:
        group = {"total": "in total"}.get(described["free_bits_per"], f"a {described['free_bits_per']}")
        words.append(f"free bits: {described['free_bits']:g} nats {group}")
    if "target_kl" in described:
        words.append(f"KL held at {described['target_kl']:g} nats a text")
    return words


def _check_dirichlet(model: Model) -> None:
    """The published regularizer is one of concentrations."""
    prior = getattr(model, "weight_prior", None)
    if prior is None:
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        distribution = prior(torch.ones(1, 2, dtype=torch.bool, device=model.device))
    if not isinstance(distribution, LogDirichlet):
        raise ValueError(
            f"the objective {NVIB.name} is about Dirichlet weights, and {type(prior).__name__} gives a "
            f"{type(distribution).__name__}: choose the objective elbo."
        )


def _draws(name: str, model: Model, options: TrainingOptions) -> dict[str, int]:
    """How many draws a text's latents have, if there are several."""
    num_particles = options.num_particles
    if num_particles > 1 and not model.latents:
        raise ValueError(
            f"particles is {num_particles}, which are draws of latents, and {type(model).__name__} has none: leave it out."
        )
    if name == ImportanceWeighted.name:
        if num_particles == 1:
            raise ValueError(f"particles is 1: the objective {name} weighs several draws, give 2 or more.")
        for option, alone in {"beta": 1.0, "kl_schedule": "constant"}.items():
            if getattr(options, option) != alone:
                raise ValueError(
                    f"{option} is {getattr(options, option)}, which weighs a KL, and the objective {name} has none: "
                    "choose the objective elbo."
                )
    return {"num_particles": num_particles} if num_particles > 1 else {}


def _control(options: TrainingOptions) -> dict[str, Any]:
    """The options beyond a weight that change what the KL counts, those only that are on."""
    control: dict[str, Any] = {}
    if options.kl_reduction == "mean":
        control["kl_reduction"] = options.kl_reduction
    if options.free_bits > 0:
        control |= {"free_bits": options.free_bits, "free_bits_per": options.free_bits_per}
    if options.target_kl is not None:
        control["target_kl"] = options.target_kl
    return control


def _elbo(described: Mapping[str, Any], draws: int, data_size: int) -> ELBO:
    weights = described["kl_weights"]
    if described["name"] == NVIB.name:
        return NVIB(num_particles=draws, data_size=data_size, **weights)
    free_bits = None
    if described["name"] == ImportanceWeighted.name:
        return ImportanceWeighted(described["num_particles"], data_size)  # another number is another objective
    if "free_bits" in described:
        free_bits = FreeBits(described["free_bits"], tuple(weights), described["free_bits_per"])
    return ELBO(num_particles=draws, kl_weights=weights, data_size=data_size, free_bits=free_bits)
