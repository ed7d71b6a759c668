"""Plots of latents of layers: KL over training, KL and its parts, active units, swaps."""

import math

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ..evaluation.report import Evaluation
from ..generation.interpolation import swap_rows
from ..run import Run
from ..runs.fitted import check_run
from .style import COLORS, FRAME, GRAY, INK, depth_shade, new_axes, over_steps, plain
from .text_table import Row, text_table
from .training_curves import metric_columns

__all__ = ["active_units", "layer_curves", "layer_kl", "swap_table"]

WIDTH, HEIGHT = 5.2, 3.8  # size of a new figure, in inches
BAR = 0.6  # width of a bar
PARTS = {"mutual_information": "mutual information", "marginal_kl": "KL of the marginal"}


def layer_curves(run: Run, *, ax: Axes | None = None) -> Axes:
    """Draw the KL of each layer's latent over training, on validation texts; darker lines are higher layers.

    Arguments:
        run: A run whose model has latents.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the run has no metrics yet, or its model has no latents.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> model = pf.DELLA.for_corpus(run.corpus, width=16, layers=2, heads=2)
        >>> layered = pf.fit(model, pf.DELLAGuide(model), run.corpus, steps=1)
        >>> ax = layer_curves(layered, ax=Figure().subplots())
        >>> [line.get_label() for line in ax.lines[:2]]
        ['z_1', 'z_2']
    """
    check_run(run)
    columns, splits = metric_columns(run)
    valid = splits == "valid"
    names = [f"kl_{site}" for site in run.model.latents if f"kl_{site}" in columns]
    if not names or not valid.any():
        raise ValueError(f"{run.folder.path} has no KL of validation texts yet: fit a model with latents for longer.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    for index, name in enumerate(names):
        color, values = depth_shade(index, len(names)), columns[name][valid]
        ax.plot(columns["step"][valid], values, color=color, marker="o", markersize=3, label=name[3:])
    over_steps(ax)
    ax.axhline(0, color=FRAME, linewidth=0.8, zorder=1).sticky_edges.y.append(0)  # limits stay free for shared axes
    ax.legend(fontsize="small", frameon=False, ncols=1 + (len(names) - 1) // 6)
    return plain(ax, "KL of each latent, validation texts")


def layer_kl(evaluation: Evaluation, *, ax: Axes | None = None) -> Axes:
    r"""Draw the KL of each latent as a line, over the stack of its parts, mutual information and KL of the marginal.

    .. math::
        \mathrm E_x \text{KL}(q(z \mid x) \, \| \, p(z)) = I_q(z; x) + \text{KL}(q(z) \, \| \, p(z))

    All three are of the texts that are compared. The stack ends at the line, except where texts answer to conditions,
    and where an estimate is negative, which is drawn below zero. The dashed line is the maximal mutual information with
    that number of texts of all latents together.

    Arguments:
        evaluation: Evaluation of a run whose latents belong to layers.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the evaluation has no metrics of single latents.

    References:
        ELBO Surgery: Yet Another Way to Carve Up the Variational Evidence Lower Bound (Hoffman and Johnson, 2016),
        http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Examples:
        >>> from matplotlib.figure import Figure
        >>> model = pf.DELLA.for_corpus(run.corpus, width=16, layers=2, heads=2)
        >>> layered = pf.fit(model, pf.DELLAGuide(model), run.corpus, steps=1)
        >>> ax = layer_kl(layered.evaluate(run.corpus.train[:4], num_particles=1), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['z_1', 'z_2']
    """
    if not evaluation.latents:
        raise ValueError(
            "the evaluation has no metrics of single latents: evaluate a run whose latents belong to layers."
        )
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    places = np.arange(len(evaluation.latents))
    compared = all(f"compared_kl_{latent}" in evaluation for latent in evaluation.latents)
    above, below = np.zeros(len(places)), np.zeros(len(places))
    for color, (metric, label) in zip(COLORS, PARTS.items(), strict=False):
        values = _nats_per_text(evaluation, metric)
        ax.bar(places, values, BAR, np.where(values < 0, below, above), color=color, label=label)
        above, below = above + np.maximum(values, 0), below + np.minimum(values, 0)
    values = _nats_per_text(evaluation, "compared_kl" if compared else "kl")
    ax.hlines(values, places - 0.6 * BAR, places + 0.6 * BAR, color=INK, linewidth=2, label="KL")
    most = math.log(texts := evaluation.about["compared"])
    label = f"ln {texts:,}: most information of all latents together"
    ax.axhline(most, color=FRAME, linestyle="--", linewidth=1, label=label)
    ax.axhline(0, color=FRAME, linewidth=0.8)
    ax.set_xticks(places, evaluation.latents, fontsize="small")
    ax.set(xlabel="latent", ylabel="nats per text")
    ax.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return plain(ax, "KL of each latent and its parts")


def _nats_per_text(evaluation: Evaluation, metric: str) -> Float[np.ndarray, " latents"]:
    return np.array([evaluation[f"{metric}_{latent}"]["nats/text"] or 0.0 for latent in evaluation.latents])


def active_units(evaluation: Evaluation, *, ax: Axes | None = None) -> Axes:
    """Draw the number of active units of each latent, at both thresholds.

    Arguments:
        evaluation: Evaluation of a run whose latents belong to layers.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the evaluation has no active units.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> model = pf.DELLA.for_corpus(run.corpus, width=16, layers=2, heads=2)
        >>> layered = pf.fit(model, pf.DELLAGuide(model), run.corpus, steps=1)
        >>> ax = active_units(layered.evaluate(run.corpus.train[:4], num_particles=1), ax=Figure().subplots())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['above 0.01', 'above 0.2']
    """
    names = [name for name in evaluation if name.startswith("active_")]
    if not names:
        raise ValueError("the evaluation has no active units: evaluate a run whose latents belong to layers.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    units = [unit for unit in evaluation[names[0]].units if unit.startswith("above")]
    places, width = np.arange(len(names)), 0.8 / len(units)
    for index, unit in enumerate(units):
        counts = [evaluation[name][unit] or 0.0 for name in names]
        bars = ax.bar(
            places + (index + 0.5) * width - 0.4, counts, width, color=depth_shade(index, len(units)), label=unit
        )
        ax.bar_label(bars, fmt="{:.0f}", padding=1, fontsize="small", color=INK)
    ax.set_xticks(places, [name.removeprefix("active_") for name in names], fontsize="small")
    ax.set(xlabel="latent", ylabel="dimensions", ylim=(0, 1.08 * max(evaluation[name]["of"] or 1.0 for name in names)))
    ax.legend(
        title="variance of the posterior mean",
        title_fontsize="small",
        fontsize="small",
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        ncols=len(units),
    )
    return plain(ax, "Active units")


def swap_table(run: Run, text: str, other: str, *, condition: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw a table of a text decoded with the latent of each layer replaced by that of another text.

    Texts that equal the reconstruction from the text's own latents are gray.

    Arguments:
        run: A run whose latents belong to layers.
        text: The text to change.
        other: The text that the new latents come from.
        condition: The condition of both texts, if the run was trained on pairs.
        ax: Matplotlib axes; by default those of a new figure, as high as the table.

    Raises:
        ValueError: If the latents do not belong to layers, or a text is longer than the model's max_length.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> model = pf.DELLA.for_corpus(run.corpus, width=16, layers=2, heads=2)
        >>> layered = pf.fit(model, pf.DELLAGuide(model), run.corpus, steps=1)
        >>> ax = swap_table(layered, "The food was good.", "The room was bad.", ax=Figure().subplots())
        >>> [text.get_text() for text in ax.texts[4::2]]
        ['reconstruction', 'z_1 of other', 'z_2 of other', 'all latents of other']
    """
    check_run(run)
    rows = swap_rows(run, text, other, condition=condition)
    given, swapped, unchanged = rows[:3], rows[3:], rows[2][1]
    cells = [Row(name, content, name_weight="bold") for name, content in given]
    for name, content in swapped:
        cells.append(Row(name, content, name_weight="bold", color=GRAY if content == unchanged else INK))
    return text_table(cells, ax=ax)
