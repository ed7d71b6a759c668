"""Distributions over log weights and lengths, and the mathematics that they rest on."""

from .log_dirichlet import Lengths, LogDirichlet, log_simplex
from .stick_breaking import LogStickBreaking

__all__ = ["Lengths", "LogDirichlet", "LogStickBreaking", "log_simplex"]


def __dir__() -> list[str]:
    return __all__
