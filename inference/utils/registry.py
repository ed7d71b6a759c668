"""The models by name, and objects by import path."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from ...models.utils.errors import one_line

__all__ = ["MODELS", "ModelClasses", "imported", "imported_class"]

C = TypeVar("C")


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


def imported_class(option: str, path: str, names: Iterable[str], example: str, base: type[C], bases: str) -> type[C]:
    """The class at the import path that is the value of an option.

    Arguments:
        option: The option's name, for the message.
        path: The import path.
        names: What the option takes in place of a path.
        example: A path as users write it.
        base: The class that it must derive from.
        bases: The classes that users derive from, for the message.

    Raises:
        ValueError: If it cannot be imported, with the reason, or does not derive from ``base``.
    """
    try:
        cls = imported(path)
    except Exception as error:  # whatever the module raises while it is imported
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(
            f"{option} is {path!r}, which cannot be imported ({reason}): choose one of {', '.join(names)}, or the "
            f"import path of a class, as in {example}."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{option} is {path!r}, which is no {option}: name a class that derives from {bases}.")
    return cls
