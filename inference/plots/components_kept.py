"""How many components of a mixture are left where it is regularized more."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ..evaluation.report import Evaluation
from .style import COLORS, INK, new_axes, plain

__all__ = ["components_kept"]

WIDTH, HEIGHT = 5.2, 3.8  # of a figure of our own, in inches
SIZES = (9.0, 6.0, 3.0)  # of the dots: where lines lie on one another, all can be seen
UNIT = "of the text's"
COUNTS = {
    "kept_alpha": "alpha above 0.1",
    "kept_entropy": "exp of the entropy of E[π]",
    "kept_attention": "holding 99 % of the attention",
}


def components_kept(
    evaluations: Mapping[float, Evaluation], *, strength: str = "weight of the KL", ax: Axes | None = None
) -> Axes:
    """Draw the share of a text's components that are in use, over the strength of the regularization.

    Three ways to count: components that have a concentration to speak of, as the published code counts; how many equal
    weights have the same entropy; how many hold nearly all of the decoder's attention. Bars are standard errors.

    Arguments:
        evaluations: What ``run.evaluate()`` found, by the strength that each run was trained with.
        strength: What that strength is called.
        ax: Where to draw; by default a new figure of pyplot's.

    Raises:
        ValueError: If there are fewer than two evaluations, or one is of a model without a mixture.
    """
    if len(evaluations) < 2:
        raise ValueError(f"there are {len(evaluations)} evaluations: give at least 2, of runs that differ in strength.")
    strengths = sorted(evaluations)
    shown = {name: label for name, label in COUNTS.items() if all(name in evaluations[x] for x in strengths)}
    if not shown:
        raise ValueError("an evaluation counted no components: evaluate runs of an NVAE.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    for color, size, (name, label) in zip(COLORS, SIZES, shown.items(), strict=False):
        found = [evaluations[x][name].units[UNIT] for x in strengths]
        values = [np.nan if quantity.value is None else quantity.value for quantity in found]
        errors = [quantity.error or 0.0 for quantity in found]
        ax.errorbar(
            strengths, values, errors, color=color, marker="o", markersize=size, linewidth=size / 2, label=label
        )
    if strengths[0] > 0 and strengths[-1] > 10 * strengths[0]:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.minorticks_off()
    ax.set(xlabel=strength, ylabel="share of a text's components", ylim=(0, 1.05))
    ax.set_title("Components in use", loc="left", fontsize="medium", color=INK)
    ax.legend(fontsize="small", frameon=False, loc="lower left")
    return plain(ax)
