"""The picture of the curve: rate against distortion, and what copying costs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from curve_points import FAMILIES, JOINT, LANGUAGE_MODELS, Point
from matplotlib.patheffects import withStroke
from resumable import Result, metric

from pyroformer.inference.plots.style import COLORS

__all__ = ["plot"]

COPIES = 0.5  # the greatest distortion of a model that copies, in nats per token
LARGEST = 1500.0  # rate that is drawn: larger ones would compress the axis
SIDES = ((-5, 7, "right"), (5, -11, "left"), (7, 13, "left"), (-5, -11, "right"), (7, -10, "left"))  # of labels
STARS = {"tokens": "*", "language_model": "P", "mixture": "d", "flow": "v"}  # priors that are trained with the model
COLOR_OF = dict(zip(FAMILIES[len(LANGUAGE_MODELS) :], COLORS, strict=False))  # the color of each family
NAMES = {
    "nvae": "NVAE, exact KL",
    "nvib": "NVAE, published objective",
    "nvib relu": "the same, weights can be zero",
    "vae": "VAE",
}


def plot(results: Sequence[Result], path: Path, width: int = 96) -> None:
    """Rate against distortion, and what copying costs; gray lines are the losses of language models.

    On the left, a line joins the points of a family, labeled with their betas; hollow markers are variants (from
    scratch, or with free bits), squares have a second stage, and stars and crosses a prior that was trained with the
    model. Rates of thousands of nats are left out. On the right is the sum of rate and distortion of those that copy.
    """
    first = {Point.of(one): place(one) for one in reversed(results)}  # of several seeds
    figure_, (plane, costs) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained", width_ratios=(1.4, 1))
    models = [(Point.of(one), metric(one, "bound", "nats/token") or 1.0) for one in results]
    for point, loss in dict(reversed([each for each in models if each[0].family == "language model"])).items():
        rates, style = np.geomspace(1e-3, loss, 200), "--" if point.times == 1 else ":"
        label = "language model" + (f", {point.times}× the steps" if point.times > 1 else "")
        plane.plot(rates, loss - rates, color="0.6", linestyle=style, label=label)
        costs.axvline(loss, color="0.6", linestyle=style)
    draw(plane, {point: at for point, at in first.items() if at[0] < LARGEST}, width)
    plane.set(
        ylabel="distortion: -log p(x | z), nats per token", title="rate and distortion, by beta, the weight of the KL"
    )
    plane.margins(y=0.1)
    if plane.get_legend_handles_labels()[0]:
        plane.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0, 0.31))
    draw_costs(costs, {point: at for point, at in first.items() if at[1] < COPIES and point.family in COLOR_OF})
    figure_.savefig(path, dpi=150)


def draw_costs(axes: Any, points: Mapping[Point, tuple[float, float]]) -> None:
    """The sum of rate and distortion, of the cheapest point of each family and prior."""
    best: dict[tuple[str, str], tuple[float, Point]] = {}
    for point, at in points.items():
        kind = point.family, "as published" if as_published(point) else point.prior or point.joint
        best[kind] = min(best.get(kind, (math.inf, point)), (sum(at), point))
    rows = sorted(best.values(), reverse=True)
    for height, (cost, point) in enumerate(rows):
        mark = STARS.get(point.joint, "s" if point.prior else "o")
        axes.plot(cost, height, mark, color=COLOR_OF[point.family], markersize=11 if point.joint else 6)
        axes.annotate(
            f"{cost:#.3g}".rstrip("."), (cost, height), fontsize=8, xytext=(9, -3), textcoords="offset points"
        )
    axes.set_yticks(range(len(rows)), [described(point) for _, point in rows], fontsize=8)
    axes.set(xscale="log", xlabel="rate + distortion, nats per token", title="what copying a text costs")
    axes.margins(x=0.15, y=0.06)
    axes.grid(axis="y", alpha=0.3)


def as_published(point: Point) -> bool:
    """Whether the regularizers have the published strength."""
    return point.family == "nvib" and point.beta == 1.0


def described(point: Point) -> str:
    """The family of a point, and its prior."""
    if point.family.startswith("nvib"):
        if as_published(point):
            return "NVAE, as published"
        weights = ", weights can be zero" if point.family == "nvib relu" else ""
        return f"NVAE, published objective × {point.beta:g}{weights}"
    name = NAMES.get(point.family, point.family).removesuffix(", exact KL")
    if point.joint:
        return f"{name}, {JOINT[point.joint]}"
    name += f", beta {point.beta:g}" if point.beta else ""
    return f"{name}, then a prior ({point.prior})" if point.prior else name


def draw(axes: Any, points: Mapping[Point, tuple[float, float]], width: int) -> None:
    """All points and arrows on one pair of axes, with betas where there is room for them."""
    halo = [withStroke(linewidth=2, foreground="white")]  # so that labels are legible on lines
    for number, (family, color) in enumerate(COLOR_OF.items()):
        rows = [(point, at) for point, at in points.items() if point.family == family]
        best = {point.beta: point for point, _ in sorted(rows, key=lambda row: len(row[0].ladder)) if plain(point)}
        joined = sorted((point.weight(width), at) for point, at in rows if best.get(point.beta) == point)
        if joined:
            axes.plot(*zip(*(at for _, at in joined), strict=True), "o:", color=color, label=NAMES.get(family, family))
        for beta, at in joined:
            name = f"{float(f'{beta:.1g}'):g}"
            if family != "autoencoder" and at[1] > COPIES:
                x, y, align = SIDES[number % len(SIDES)]
                side = {"xytext": (x, y), "textcoords": "offset points", "ha": align}
                axes.annotate(name, at, fontsize=7, color=color, annotation_clip=True, path_effects=halo, **side)
        for point, at in rows:
            before = points.get(point._replace(prior=""))
            if point.prior and before:
                axes.annotate("", at, before, arrowprops={"arrowstyle": "->", "color": color, "linewidth": 0.8})
            if point.joint:
                look = {"markersize": 15 - 2 * number, "markeredgecolor": "white", "markeredgewidth": 0.5}
                axes.plot(*at, STARS[point.joint], color=color, zorder=3, **look)  # one is seen behind another
            elif point.prior:
                axes.plot(*at, "s", color=color, markersize=5)
            elif best.get(point.beta) != point:
                axes.plot(*at, "o", markerfacecolor="white", color=color, markersize=5)
    axes.set(xscale="log", xlabel="rate: KL of all latents, nats per token")
    axes.margins(x=0.08)


def place(result: Result) -> tuple[float, float]:
    """Rate, bounded away from zero for the logarithmic axis, and distortion."""
    rate, distortion = (metric(result, name, "nats/token") or 0.0 for name in ("rate", "reconstruction"))
    return max(rate, 1e-3), distortion


def plain(point: Point) -> bool:
    return (
        not (point.prior or point.joint or point.free_bits)
        and point.times == 1
        and point.schedule in ("linear", "constant")
    )
