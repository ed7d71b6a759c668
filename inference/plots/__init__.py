"""Plots of runs and diagnostics. Each function returns matplotlib axes and shows nothing."""

from .attention_map import attention
from .components_kept import components_kept
from .diagnostics.coverage_curve import coverage
from .diagnostics.khats import khats
from .diagnostics.khats_by_guide import khats_by_guide
from .diagnostics.predictive_intervals import predictive
from .diagnostics.prior_posterior import prior_posterior
from .diagnostics.prior_posterior_intervals import intervals
from .diagnostics.rank_histograms import ranks
from .latent_layers import active_units, layer_curves, layer_kl, swap_table
from .plane.em_paths import key_paths, query_paths
from .plane.gaussian_ellipse import gaussian
from .plane.mixture_map import mixture_map
from .plane.posterior_means import posterior_means
from .plane.vector_groups import vector_groups
from .save_all import save_all
from .token_values import token_values
from .training_curves import curves
from .traversal_table import traversal
from .vectors_kept import vectors_kept
from .weight_strip import weights

__all__ = [
    "active_units",
    "attention",
    "components_kept",
    "coverage",
    "curves",
    "gaussian",
    "intervals",
    "key_paths",
    "khats",
    "khats_by_guide",
    "layer_curves",
    "layer_kl",
    "mixture_map",
    "posterior_means",
    "predictive",
    "prior_posterior",
    "query_paths",
    "ranks",
    "save_all",
    "swap_table",
    "token_values",
    "traversal",
    "vector_groups",
    "vectors_kept",
    "weights",
]


def __dir__() -> list[str]:
    return __all__
