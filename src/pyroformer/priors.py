"""The shipped priors and the roles to derive one's own from, by the path that users write: ``pyroformer.priors``."""

from .models.priors import *  # noqa: F403
from .models.priors import __all__ as __all__


def __dir__() -> list[str]:
    return __all__
