"""Diagnostics of variational posteriors: is the guide good, which model is better, do its texts look like real ones?"""

from .calibration import Calibration, calibrate
from .fits import as_chains
from .held_out import Comparison, compare
from .importance import LEAST_DRAWS, khat
from .leave_one_out import LeaveOneOut, loo
from .predictive import PredictiveCheck, check_texts, predictive_check, text_statistics

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
