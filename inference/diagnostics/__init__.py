"""Diagnostics: quality of a guide, comparison of models, predictive checks of generated texts."""

from .calibrate import calibrate
from .calibration import Calibration
from .chains import as_chains
from .compare import Comparison, compare
from .khat import LEAST_DRAWS, khat
from .loo import LeaveOneOut, loo
from .predictive_checks import PredictiveCheck, check_texts, predictive_check, text_statistics

__all__ = [
    "LEAST_DRAWS",
    "Calibration",
    "Comparison",
    "LeaveOneOut",
    "PredictiveCheck",
    "as_chains",
    "calibrate",
    "check_texts",
    "compare",
    "khat",
    "loo",
    "predictive_check",
    "text_statistics",
]


def __dir__() -> list[str]:
    return __all__
