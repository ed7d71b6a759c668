"""Bayesian Transformers in Pyro: attention as posterior inference, trained by stochastic variational inference."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

__all__ = [
    "Batch",
    "guides",
    "inference",
    "models",
]

# Where each name lives, as in an entry point. It is imported when it is first used (PEP 562), so that `import pyroformer`
# and the command line's --help do not wait for torch. The same names follow below for type checkers and editors.
_HOMES = {
    "Batch": "models.batch:Batch",
    "guides": "guides",
    "inference": "inference",
    "models": "models",
}

if TYPE_CHECKING:
    from . import guides, inference, models
    from .models.batch import Batch
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _HOMES[name].partition(":")
        value = import_module(f".{module}", __name__)
        value = getattr(value, attribute) if attribute else value
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "__doc__", "__file__", "__name__", "__path__", "__spec__"])
