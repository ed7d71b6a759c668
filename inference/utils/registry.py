"""The models by name, and objects by import path."""

from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["MODELS", "ModelClasses", "imported"]


class ModelClasses(NamedTuple):
    """Import paths of a model and of its guide; the guide is None if the model has no latents."""

    model: str
    guide: str | None


MODELS = {
    "lm": ModelClasses("pyroformer.models.language_model:LanguageModel", None),
    "della": ModelClasses("pyroformer.models.della:DELLA", "pyroformer.guides.della:DELLAGuide"),
    "nvae": ModelClasses("pyroformer.models.nvae:NVAE", "pyroformer.guides.nvae:NVAEGuide"),
    "vae": ModelClasses("pyroformer.models.vae:VAE", "pyroformer.guides.vae:VAEGuide"),
}


def imported(path: str) -> Any:
    """The object at ``package.module:name`` or ``package.module.name``.

    Examples:
        >>> imported("pyroformer.models.nvae:NVAE") is pf.NVAE
        True
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    return getattr(import_module(module), name)
