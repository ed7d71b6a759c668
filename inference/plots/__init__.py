"""Pictures of a run: one function each, which returns matplotlib axes and shows nothing."""

from .attention_map import attention
from .layers import active_units, layer_curves, swap_table
from .saving import save_all
from .training_curves import curves
from .weight_strip import weights

__all__ = ["active_units", "attention", "curves", "layer_curves", "save_all", "swap_table", "weights"]
