"""Fraction of a mixture's components in use, over the strength of the regularization."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ..evaluation.report import Evaluation
from .style import COLORS, new_axes, plain

__all__ = ["components_kept"]

WIDTH, HEIGHT = 5.2, 3.8  # size of a new figure, in inches
SIZES = (9.0, 6.0, 3.0)  # of the markers; they differ so that overlapping lines stay visible
UNIT = "of the text's"
COUNTS = {
    "kept_alpha": "alpha above 0.1",
    "kept_entropy": "exp of the entropy of E[π]",
    "kept_attention": "with 99 % of the attention",
}


def components_kept(
    evaluations: Mapping[float, Evaluation], *, strength: str = "weight of the KL", ax: Axes | None = None
) -> Axes:
    """Draw the fraction of a text's components that are in use, over the strength of the regularization.

    There are three counts: components with a concentration above 0.1, as in the published code; the exponential of the
    entropy of the mean weights; and the components with 99 % of the decoder's attention. Bars are standard errors.

    Arguments:
        evaluations: Results of ``run.evaluate()``, by the regularization strength of the run.
        strength: Label of the strength.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there are fewer than two evaluations, or one is of a model without a mixture.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> evaluation = run.evaluate(num_particles=1)
        >>> ax = components_kept({0.1: evaluation, 1.0: evaluation}, ax=Figure().subplots())
        >>> ax.get_xlabel()
        'weight of the KL'
    """
    if len(evaluations) < 2:
        raise ValueError(f"there are {len(evaluations)} evaluations: give at least 2, of runs that differ in strength.")
    strengths = sorted(evaluations)
    counts = {name: label for name, label in COUNTS.items() if all(name in evaluations[x] for x in strengths)}
    if not counts:
        raise ValueError("an evaluation has no count of components: evaluate runs of an NVAE.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    for color, size, (name, label) in zip(COLORS, SIZES, counts.items(), strict=False):
        estimates = [evaluations[x][name].units[UNIT] for x in strengths]
        values = [np.nan if estimate.value is None else estimate.value for estimate in estimates]
        errors = [estimate.error or 0.0 for estimate in estimates]
        ax.errorbar(
            strengths, values, errors, color=color, marker="o", markersize=size, linewidth=size / 2, label=label
        )
    if strengths[0] > 0 and strengths[-1] > 10 * strengths[0]:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.minorticks_off()
    ax.set(xlabel=strength, ylabel="fraction of a text's components", ylim=(0, 1.05))
    ax.legend(fontsize="small", frameon=False, loc="lower left")
    return plain(ax, "Components in use")
