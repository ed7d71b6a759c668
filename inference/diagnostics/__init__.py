"""Diagnostics of variational posteriors: is the guide good, which model is better, do its texts look like real ones?"""

from .calibration import Calibration, calibrate
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
