"""Plots of runs and diagnostics. Each function returns matplotlib axes and shows nothing."""

from .attention_map import attention
from .components_kept import components_kept
from .em_paths import key_paths, query_paths
from .khats import khats
from .latent_layers import active_units, layer_curves, layer_kl, swap_table
from .predictive_intervals import predictive
from .prior_posterior import prior_posterior
from .rank_histograms import ranks
from .save_all import save_all
from .training_curves import curves
from .traversal_table import traversal
from .weight_strip import weights

__all__ = [
    "active_units",
    "attention",
    "components_kept",
    "curves",
    "key_paths",
    "khats",
    "layer_curves",
    "layer_kl",
    "predictive",
    "prior_posterior",
    "query_paths",
    "ranks",
    "save_all",
    "swap_table",
    "traversal",
    "weights",
]


def __dir__() -> list[str]:
    return __all__
