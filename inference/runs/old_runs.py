"""Translation of configurations and weights of older runs to current names.

Configurations of older runs have class paths, arguments and options that have since been renamed. Such runs load and
resume; new files have the current names only.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

__all__ = ["current_config", "current_progress", "current_state"]

_PRIORS = {
    "pyroformer.models.empirical": {"KernelBase": "KernelVectorPrior"},
    "pyroformer.models.heavy_tails": {
        "LaplaceBase": "LaplaceVectorPrior",
        "LinearLaplace": "LinearLaplace",
        "LinearStudentT": "LinearStudentT",
        "StudentTBase": "StudentTVectorPrior",
    },
    "pyroformer.models.priors": {
        "BoundedDirichletProcess": "BoundedDirichletProcess",
        "GaussianBase": "GaussianVectorPrior",
        "LengthPrior": "LengthPrior",
        "LinearGaussian": "LinearGaussian",
        "StandardGaussian": "StandardGaussian",
    },
    "pyroformer.models.sequence_priors": {
        "AutoregressiveBase": "AutoregressiveVectorPrior",
        "IndependentBase": "IndependentVectorPrior",
    },
    "pyroformer.models.vector_priors": {"MixtureBase": "MixtureVectorPrior"},
    "pyroformer.models.weight_priors": {
        "GEM": "GEM",
        "GammaDirichletProcess": "GammaDirichletProcess",
        "PitmanYor": "PitmanYor",
        "SymmetricDirichlet": "SymmetricDirichlet",
    },
}

CLASSES = {
    **{
        f"{module}.{old}": f"pyroformer.priors.{new}" for module, names in _PRIORS.items() for old, new in names.items()
    },
    "pyroformer.models.config.TransformerConfig": "pyroformer.models.TransformerConfig",
    "pyroformer.models.della.DELLA": "pyroformer.models.DELLA",
    "pyroformer.models.language_model.LanguageModel": "pyroformer.models.LanguageModel",
    "pyroformer.models.nvae.NVAE": "pyroformer.models.NVAE",
    "pyroformer.models.vae.VAE": "pyroformer.models.VAE",
    "pyroformer.guides.della.DELLAGuide": "pyroformer.guides.DELLAGuide",
    "pyroformer.guides.nvae.NVAEGuide": "pyroformer.guides.NVAEGuide",
    "pyroformer.guides.vae.VAEGuide": "pyroformer.guides.VAEGuide",
}
NETWORK = "pyroformer.models.TransformerConfig"
ARGUMENTS = {
    "condition": "max_condition_length",
    "deviation": "std",
    "freedom": "df",
    "kappa": "samples_per_component",
    "null_unit": "null_component",
    "window": "max_length",
}
OPTIONS = {
    "accumulate": "accumulate_grad_batches",
    "clip": "gradient_clip_val",
    "kl_weight": "kl_schedule",
    "particles": "num_particles",
}
ADDED = {  # fields of a TransformerConfig that older configurations lack, with what those networks are
    "qkv_bias": None,
    "norm": "layer",
    "rotary_base": 10_000.0,
    "rotary_scaling": "none",
    "rotary_factor": 1.0,
    "rotary_low": 1.0,
    "rotary_high": 4.0,
    "rotary_length": 8192,
    "key_value_heads": None,
    "head_size": None,
    "query_key_norm": False,
    "adapter_rank": 0,
    "key_pseudo_counts": 1.0,
    "key_tolerance": None,
    "key_density": "gaussian",
    "key_assignment": "soft",
    "key_distance": None,
}
VALUES = {"key_precision": {"unit": "key"}}  # of fields of a TransformerConfig
PARTS = {"held": "frozen"}  # keys of the configuration
PROGRESS = {"looks": "validations_done", "waited": "wait"}  # keys of the training progress in a checkpoint
MODULES = {  # components of parameter and buffer names
    "condition": "condition_encoder",
    "freedom": "df",
    "log_delta": "log_value",
    "log_deviation": "log_std",
    "log_weight": "log_value",
}


def current_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration with current class paths, arguments and options.

    Examples:
        >>> old = {"class_path": "pyroformer.models.heavy_tails.StudentTBase", "init_args": {"width": 8, "freedom": 5.}}
        >>> current_config({"model": old})["model"]
        {'class_path': 'pyroformer.priors.StudentTVectorPrior', 'init_args': {'width': 8, 'df': 5.0}}
    """
    renamed = {PARTS.get(key, key): _current_value(value) for key, value in config.items()}
    for part in ("training", "objective"):
        if isinstance(options := renamed.get(part), dict):
            renamed[part] = {OPTIONS.get(key, key): value for key, value in options.items()}
    return renamed


def current_progress(progress: Mapping[str, Any]) -> dict[str, Any]:
    """The progress of training in a checkpoint, with current names."""
    return {PROGRESS.get(key, key): value for key, value in progress.items()}


def current_state(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Weights with current names, where the expected names include these.

    Examples:
        >>> current_state({"prior.log_deviation": torch.zeros(2)}, ["prior.log_std"]).keys()
        dict_keys(['prior.log_std'])
    """
    return {name if name in expected else _current_name(name, expected): value for name, value in state.items()}


def _current_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_current_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    path = value.get("class_path")
    if not isinstance(path, str) or not isinstance(value.get("init_args", {}), dict):
        return {key: _current_value(item) for key, item in value.items()}
    if path == NETWORK:
        fields = {key: VALUES.get(key, {}).get(str(item), item) for key, item in value.get("init_args", {}).items()}
        return {**value, "init_args": ADDED | fields}
    if path not in CLASSES:
        return {key: _current_value(item) for key, item in value.items()}
    arguments = {ARGUMENTS.get(key, key): _current_value(item) for key, item in value.get("init_args", {}).items()}
    return _current_value({**value, "class_path": CLASSES[path], "init_args": arguments})


def _current_name(name: str, expected: Collection[str]) -> str:
    new = ".".join(MODULES.get(part, part) for part in name.split("."))
    return new if new in expected else name
