"""The models by name, and classes by import path."""

from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["MODELS", "ModelClasses", "imported"]


class ModelClasses(NamedTuple):
    """Where a model and its guide are; a guide of None means that nothing is latent."""

    model: str
    guide: str | None


MODELS = {
    "lm": ModelClasses("pyroformer.models.language_model:LanguageModel", None),
    "della": ModelClasses("pyroformer.models.della:DELLA", "pyroformer.guides.della:DELLAGuide"),
    "nvae": ModelClasses("pyroformer.models.nvae:NVAE", "pyroformer.guides.nvae:NVAEGuide"),
    "vae": ModelClasses("pyroformer.models.vae:VAE", "pyroformer.guides.vae:VAEGuide"),
}


def imported(path: str) -> Any:
    """What lies at ``package.module:name`` or ``package.module.name``."""
    module, _, name = path.replace(":", ".").rpartition(".")
    return getattr(import_module(module), name)
