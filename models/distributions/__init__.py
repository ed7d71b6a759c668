"""Distributions over log weights and lengths, and the mathematics that they rest on."""

from .foreign import as_pyro
from .lengths import Lengths
from .log_dirichlet import LogDirichlet
from .log_logistic_normal import LogLogisticNormal
from .log_simplex import LogSimplex, LogStickBreakingTransform, breaking, log_simplex
from .presence import Presence, WherePresent
from .stick_breaking import LogStickBreaking

__all__ = [
    "Lengths",
    "LogDirichlet",
    "LogLogisticNormal",
    "LogSimplex",
    "LogStickBreaking",
    "LogStickBreakingTransform",
    "Presence",
    "WherePresent",
    "as_pyro",
    "breaking",
    "log_simplex",
]


def __dir__() -> list[str]:
    return __all__
