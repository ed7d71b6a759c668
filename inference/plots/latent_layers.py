"""What each layer's latent carries, over the training and at its end; and what it does to a text."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..evaluation.report import Evaluation
from ..generation.interpolation import swaps
from ..run import Run
from .style import COLORS, DEPTHS, FRAME, INK, new_axes, plain

__all__ = ["active_units", "layer_curves", "layer_kl", "swap_table"]

WIDTH, HEIGHT = 5.2, 3.8  # of a figure of our own, in inches
LINE = 0.21  # height of a line of the table, in inches
LETTERS = 78  # in a line of the table


def layer_curves(run: Run, *, ax: Axes | None = None) -> Axes:
    """Draw the KL of each layer's latent over the training, on held-out texts; darker lines are higher layers.

    Arguments:
        run: A run whose model has several latents.
        ax: Where to draw; by default a new figure of pyplot's.

    Raises:
        ValueError: If the run has no metrics yet, or nothing is latent.
    """
    table: Mapping[str, Any] = run.folder.read_metrics()
    held_out = np.array(table.get("split", [])) == "valid"
    names = [f"kl_{site}" for site in run.model.latents if f"kl_{site}" in table]
    if not names or not held_out.any():
        raise ValueError(f"{run.folder.path} has no KL on held-out texts yet: fit a model with latents for longer.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    steps = np.asarray(table["step"], dtype=float)[held_out]
    for number, name in enumerate(names):
        values = np.array([x if isinstance(x, float) else np.nan for x in table[name]])[held_out]
        ax.plot(steps, values, color=_shade(number, len(names)), marker="o", markersize=3, label=name[3:])
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set(xlabel="step", ylabel="nats per token", ylim=(0, None))
    ax.set_title("KL of each latent, held-out texts", loc="left", fontsize="medium", color=INK)
    ax.legend(fontsize="small", frameon=False, ncols=1 + (len(names) - 1) // 6)
    return plain(ax)


def layer_kl(evaluation: Evaluation, *, ax: Axes | None = None) -> Axes:
    r"""Draw the KL of each latent and its two parts: what it tells of the text, and how far it is from the prior.

    .. math::
        \text{KL} = \text{mutual_information} + \text{marginal_kl}

    The parts are measured on fewer texts than the KL, so that they add up to it only nearly. The dashed line is the
    most that all latents together can tell of so many texts.

    Arguments:
        evaluation: Of a run whose layers have latents.
        ax: Where to draw; by default a new figure of pyplot's.

    Raises:
        ValueError: If the evaluation says nothing of single latents.
    """
    if not evaluation.latents:
        raise ValueError("the evaluation says nothing of single latents: evaluate a run whose layers have latents.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    places = np.arange(len(evaluation.latents))
    for number, (measure, label) in enumerate(
        [("kl", "KL"), ("mutual_information", "mutual_information"), ("marginal_kl", "marginal_kl")]
    ):
        values = [evaluation[f"{measure}_{latent}"]["nats/text"] or 0.0 for latent in evaluation.latents]
        ax.bar(
            places + (number - 1) * 0.27, values, 0.27, color=INK if number == 0 else COLORS[number - 1], label=label
        )
    texts = evaluation.about["compared"]
    ax.axhline(math.log(texts), color=FRAME, linestyle="--", linewidth=1, label=f"ln {texts:,} texts")
    ax.axhline(0, color=FRAME, linewidth=0.8)
    ax.set_xticks(places, evaluation.latents)
    ax.set(xlabel="latent", ylabel="nats per text")
    ax.set_title("What each latent carries", loc="left", fontsize="medium", color=INK)
    ax.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4)
    return plain(ax)


def active_units(evaluation: Evaluation, *, ax: Axes | None = None) -> Axes:
    """Draw how many dimensions of each latent tell texts apart, at both thresholds.

    Arguments:
        evaluation: Of a run whose layers have latents.
        ax: Where to draw; by default a new figure of pyplot's.

    Raises:
        ValueError: If the evaluation counted no active units.
    """
    names = [name for name in evaluation if name.startswith("active_")]
    if not names:
        raise ValueError("the evaluation counted no active units: evaluate a run whose layers have latents.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    units = [unit for unit in evaluation[names[0]].units if unit.startswith("above")]
    places, width = np.arange(len(names)), 0.8 / len(units)
    for number, unit in enumerate(units):
        counts = [evaluation[name][unit] or 0.0 for name in names]
        ax.bar(places + (number + 0.5) * width - 0.4, counts, width, color=_shade(number, len(units)), label=unit)
    ax.set_xticks(places, [name.removeprefix("active_") for name in names])
    ax.set(xlabel="latent", ylabel="dimensions", ylim=(0, max(evaluation[name]["of"] or 1.0 for name in names)))
    ax.set_title("Active units", loc="left", fontsize="medium", color=INK)
    beneath: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": len(units)}
    title = "variance of the posterior mean"
    ax.legend(fontsize="small", frameon=False, title=title, title_fontsize="small", **beneath)
    return plain(ax)


def swap_table(run: Run, text: str, other: str, *, condition: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw what becomes of a text when the latent of one layer after the other is another text's.

    Arguments:
        run: A run whose layers have latents of their own.
        text: The text that is changed.
        other: The text whose latents come in.
        condition: What both texts answer to, if the run was trained on pairs.
        ax: Where to draw; by default a new figure of pyplot's, as high as the table needs.

    Raises:
        ValueError: If the run's latents belong to no layers, or a text does not fit its max_length.
    """
    rows = [("text", text), ("other", other)]
    for found in swaps(run, text, other, condition=condition):
        inside = "all latents" if len(found.layers) > 1 else "".join(f"z_{number}" for number in found.layers)
        rows.append((f"{inside} of the other" if inside else "written from its own", found.text))
    lines = [(name, textwrap.wrap(written, LETTERS) or [""]) for name, written in rows]
    height = sum(len(wrapped) + 0.6 for _, wrapped in lines)
    ax = new_axes(9.0, LINE * (height + 1))[0] if ax is None else ax
    ax.set(xlim=(0, 1), ylim=(height, 0))
    ax.set_axis_off()
    y = 0.0
    for name, wrapped in lines:
        ax.text(0.0, y + 0.3, name, va="top", fontsize="small", color=INK, weight="bold")
        ax.text(0.22, y + 0.3, "\n".join(wrapped), va="top", fontsize="small", color=INK, parse_math=False)
        y += len(wrapped) + 0.6
        ax.axhline(y, color=FRAME, linewidth=0.5)
    return ax


def _shade(number: int, of: int) -> tuple[float, float, float, float]:
    return DEPTHS(0.35 + 0.65 * (number / max(1, of - 1)))
