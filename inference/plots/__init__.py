"""Pictures of a run: one function each, which returns matplotlib axes and shows nothing."""

from .attention_map import attention
from .saving import save_all
from .training_curves import curves
from .weight_strip import weights

__all__ = ["attention", "curves", "save_all", "weights"]
