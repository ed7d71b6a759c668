"""Training curves: objective, reconstruction term, bound and its KL terms."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..objectives.registry import in_words, is_bound
from ..run import Run
from .style import COLORS, INK, new_axes

__all__ = ["curves"]

WIDTH, HEIGHT = 5.2, 3.8  # size of a panel of a new figure, in inches
SPREAD = 20  # ratio of values above which an axis is logarithmic
LENGTH = "kl_length"
ROUNDING = 1e-5  # nats per token, what float32 leaves of a term that is zero

Columns = Mapping[str, Float[np.ndarray, " rows"]]


def curves(run: Run, *, axes: Iterable[Axes] | None = None) -> list[Axes]:
    r"""Draw the training curves of a run, in nats per token: validation as dots, training as faint lines.

    The first axes have the training objective and the reconstruction term, the second ones the bound of log p(x), which
    is the reconstruction term plus every KL with weight 1, and its KL terms; that of the length is left out where it
    is zero up to rounding, as it is where vectors say where a text ends. The labels state which quantities are bounds.
    For a model without latents there are only the first axes.

    Arguments:
        run: Any run.
        axes: Two matplotlib axes (one for a model without latents); by default those of a new figure.

    Raises:
        ValueError: If the run has no metrics yet, or there are too few axes.
    """
    table = run.folder.read_metrics()
    splits = np.array(table.pop("split", []))
    columns = {
        name: np.array([x if isinstance(x, float) else np.nan for x in column]) for name, column in table.items()
    }
    if "objective" not in columns:
        raise ValueError(f"{run.folder.path} has no metrics yet: let fit run for longer.")
    latents = [name for name in columns if name.startswith("kl_")]
    panels = 2 if latents else 1
    drawn = new_axes(WIDTH * panels, HEIGHT, panels) if axes is None else list(axes)
    if len(drawn) < panels:
        raise ValueError(f"there are {len(drawn)} axes for {panels} panels: give {panels}, or none.")

    first = {"objective": _objective_label(run.config["objective"], bool(latents))}
    if latents:
        first["reconstruction"] = "reconstruction: not a bound"
    _panel(drawn[0], columns, splits, first, "Training objective")
    if latents:
        shown = [name for name in latents if name != LENGTH or not _is_zero(columns[name])]
        second = {"bound": "−ELBO: bounds −log p(x)"} | {name: _kl_label(name) for name in shown}
        _panel(drawn[1], columns, splits, second, "Bound and KL terms", offset=2)
    return drawn[:panels]


def _panel(
    ax: Axes, columns: Columns, splits: np.ndarray, labels: Mapping[str, str], title: str, offset: int = 0
) -> None:
    """Draw columns, each in its own color; the axis is logarithmic if positive values differ much."""
    values = np.concatenate([columns[name] for name in labels if name in columns])
    values = values[np.isfinite(values)]
    for index, (name, label) in enumerate(labels.items()):
        if name not in columns:
            continue
        color = COLORS[(index + offset) % len(COLORS)]
        train, valid = splits == "train", splits == "valid"
        style = "--" if index == 0 and len(labels) > 1 else "-"  # a sum is seen beside its largest part
        ax.plot(columns["step"][train], columns[name][train], style, color=color, alpha=0.4, linewidth=1)
        ax.plot(
            columns["step"][valid],
            columns[name][valid],
            style,
            color=color,
            marker="o",
            markersize=5 if index == 0 else 3,
            zorder=3 if index == 0 else 2,
            label=label,
        )
    if len(values) and values.min() > 0 and values.max() > SPREAD * values.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set(xlabel="step", ylabel="nats per token")
    ax.set_title(title, loc="left", fontsize="medium", color=INK)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize="small", frameon=False, title="● validation   — training", title_fontsize="small")


def _is_zero(values: Float[np.ndarray, " rows"]) -> bool:
    """Whether a term is zero everywhere up to rounding."""
    return bool((np.abs(values[np.isfinite(values)]) < ROUNDING).all())


def _objective_label(objective: Mapping[str, object], latent: bool) -> str:
    """Name of the objective, and whether it is a bound."""
    if not latent:
        return "objective: −log p(x), exact"
    words = in_words(objective, elbo="−ELBO")
    return f"objective: {words or '−ELBO'}, bounds −log p(x)" if is_bound(objective) else f"objective: {words}"


def _kl_label(name: str) -> str:
    return "−log p(length)" if name == LENGTH else f"KL of {name.removeprefix('kl_')}"
