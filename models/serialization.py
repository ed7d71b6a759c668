"""Configurations: the class and the arguments of a module as plain data, from which it is built again."""

from collections.abc import Collection
from dataclasses import asdict, is_dataclass
from importlib import import_module
from inspect import signature
from typing import Any, TypeVar

from .utils.errors import one_line
from .utils.numbers import plain_number

__all__ = ["Configurable", "check_trust", "from_config", "public_path", "to_config"]

# The packages that users import from: what a configuration records does not depend on where a class lies.
PUBLIC = {
    "pyroformer.models.priors.": "pyroformer.priors",
    "pyroformer.models.": "pyroformer.models",
    "pyroformer.guides.": "pyroformer.guides",
}

R = TypeVar("R", bound="Configurable")


class Configurable:
    r"""Remembers the arguments that it was constructed with.

    Examples:
        >>> class Ball(Configurable):
        ...     def __init__(self, radius, color="red"):
        ...         pass
        >>> Ball(2.0).arguments
        {'radius': 2.0}
    """

    arguments: dict[str, Any]

    def __new__(cls: type[R], *args: Any, **kwargs: Any) -> R:
        self = super().__new__(cls)
        bound = signature(cls.__init__).bind_partial(self, *args, **kwargs)  # partial: unpickling passes nothing
        self.__dict__["arguments"] = dict(list(bound.arguments.items())[1:])
        return self


def to_config(value: Any, leave_out: Collection[str] = ()) -> Any:
    """The recipe of a module or value: ``{"class_path": ..., "init_args": {...}}`` down to plain data.

    Arguments:
        value: A :class:`Configurable` object, a dataclass or plain data.
        leave_out: Arguments that the recipe does not hold.

    Raises:
        ValueError: If it holds something that is neither.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> to_config(TransformerConfig(vocabulary=300, max_length=8))["init_args"]["vocabulary"]
        300
    """
    value = plain_number(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_config(item) for item in value]
    if isinstance(value, dict):
        return {key: to_config(item) for key, item in value.items()}
    if isinstance(value, Configurable):
        arguments = {name: to_config(item) for name, item in value.arguments.items() if name not in leave_out}
    elif is_dataclass(value) and not isinstance(value, type):
        arguments = to_config(asdict(value))
    else:
        kind = f"the class {value.__name__}" if isinstance(value, type) else _with_article(type(value).__name__)
        raise ValueError(
            f"{kind} cannot be written into a run's configuration: give numbers, names, or an instance of a class "
            "derived from a pyroformer prior or Guide, or train with pyroformer.SVI, which writes none."
        )
    return {"class_path": public_path(type(value)), "init_args": arguments}


def public_path(cls: type) -> str:
    """The import path of a class as users write it.

    Examples:
        >>> public_path(pf.NVAE), public_path(pf.priors.GaussianVectorPrior)
        ('pyroformer.models.NVAE', 'pyroformer.priors.GaussianVectorPrior')
    """
    for prefix, package in PUBLIC.items():
        if cls.__module__.startswith(prefix) and getattr(import_module(package), cls.__qualname__, None) is cls:
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def check_trust(path: str, trust: Collection[str] = ()) -> None:
    """Raises a ValueError for a class outside pyroformer unless its path or its module is in ``trust``."""
    if not path.startswith("pyroformer.") and not {path, path.rpartition(".")[0]} & set(trust):
        raise ValueError(
            f"the run uses {path}, which is code outside pyroformer: name it again to import it, with trust=[{path!r}]."
        )


def from_config(recipe: Any, trust: Collection[str] = (), **arguments: Any) -> Any:
    """Build the object that a recipe describes.

    Arguments:
        recipe: What :func:`to_config` gave.
        trust: Modules or class paths outside pyroformer that may be imported: importing is running their code.
        arguments: Arguments that the recipe leaves out.

    Raises:
        ValueError: If a class lies outside pyroformer and is not trusted, or does not exist.
    """
    if isinstance(recipe, list):
        return [from_config(item, trust) for item in recipe]
    if not isinstance(recipe, dict):
        return recipe
    if "class_path" not in recipe:
        return {key: from_config(item, trust) for key, item in recipe.items()}
    path = str(recipe["class_path"])
    module, _, name = path.rpartition(".")
    check_trust(path, trust)
    try:
        cls = getattr(import_module(module), name)
    except Exception as error:  # whatever the module raises while it is imported
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(
            f"the run uses {path}, which cannot be imported ({reason}): make it importable, or write the path of a "
            "class that is in its place in the run's config.yaml."
        ) from error
    if not (isinstance(cls, type) and (issubclass(cls, Configurable) or is_dataclass(cls))):
        raise ValueError(f"the run uses {path}, which is not something that a run can build.")
    given = recipe.get("init_args") or {}
    if not isinstance(given, dict):
        raise ValueError(f"the run's arguments of {path} are {given!r}: a mapping from names to values is needed.")
    try:
        return cls(**{key: from_config(item, trust) for key, item in given.items()} | arguments)
    except TypeError as error:
        raise ValueError(f"the run's arguments do not fit {path}: {str(error).rstrip('.')}.") from error


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
