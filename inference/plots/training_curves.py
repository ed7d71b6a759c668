"""Training curves: objective, reconstruction term, bound and its KL terms."""

from collections.abc import Iterable, Mapping
from textwrap import fill
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from matplotlib.typing import ColorType

from ..evaluation.metrics.terms import INFINITE
from ..objectives.registry import in_words, is_bound
from ..run import Run
from ..runs.fitted import check_run
from .style import COLORS, depth_shade, over_steps, panels, plain

__all__ = ["curves", "metric_columns"]

WIDTH, HEIGHT = 5.2, 3.8  # size of a panel of a new figure, in inches
CHARACTERS = 46  # of a line of the legend, where it has several
SPREAD = 20  # ratio of values above which an axis is logarithmic
LENGTH = "kl_length"
ROUNDING = 1e-5  # nats per token, what float32 leaves of a term that is zero
NAMED: dict[str, ColorType] = dict(
    zip(("objective", "reconstruction", "bound", "kl_vectors", "kl_weights", LENGTH), COLORS, strict=True)
)

Columns = Mapping[str, Float[np.ndarray, " rows"]]


def curves(run: Run, *, axes: Iterable[Axes] | None = None) -> list[Axes]:
    r"""Draw the training curves of a run, in nats per token: validation as dots, training as faint lines.

    The first axes have the training objective and the reconstruction term, the second ones the bound of log p(x), which
    is the reconstruction term plus every KL with weight 1, and its KL terms; that of the length is left out where it
    is zero up to rounding, as it is where vectors say where a text ends. The labels state which quantities are bounds,
    and which are infinite, as vectors are switched off. The objective has no training line where training minimizes
    another quantity than is measured on held-out texts: while the weights of the KL are not the full ones, and with a
    target of the KL or a share of vectors to keep. For a model without latents there are only the first axes.

    Arguments:
        run: Any run.
        axes: Two matplotlib axes (one for a model without latents); by default those of a new figure.

    Raises:
        ValueError: If the run has no metrics yet, or there are too few axes.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> first, second = curves(run, axes=Figure().subplots(1, 2))
        >>> first.get_title(loc="left"), [text.get_text() for text in second.get_legend().get_texts()]
        ('Training objective', ['−ELBO: bounds −log p(x)', 'KL of vectors', 'KL of weights'])
    """
    check_run(run)
    columns, splits = metric_columns(run)
    if "objective" not in columns:
        raise ValueError(f"{run.folder.path} has no metrics yet: let fit run for longer.")
    latents = [name for name in columns if name.startswith("kl_")]
    drawn = panels(axes, 2 if latents else 1, WIDTH, HEIGHT)
    objective = run.config["objective"]
    first = {"objective": _objective_label(objective, bool(latents), "delta" in columns)}
    if latents:
        first["reconstruction"] = "reconstruction: not a bound"
    _panel(drawn[0], columns, splits, first, "Training objective", _same_on_held_out_texts(columns, objective))
    if latents:
        shown = [name for name in latents if name != LENGTH or not _is_zero(columns[name])]
        second = {"bound": "−ELBO: bounds −log p(x)"} | {name: _kl_label(name) for name in shown}
        _panel(drawn[1], columns, splits, second, "Bound and KL terms")
    return drawn


def metric_columns(run: Run) -> tuple[Columns, np.ndarray]:
    """The metrics of a run by name, a row for each report and validation and NaN for none; and the split of each row.

    Raises:
        ValueError: If the run has no metrics yet.
    """
    table = run.folder.read_metrics()
    splits = np.array(table.pop("split", []))
    columns = {
        name: np.array([x if isinstance(x, float) else np.nan for x in column]) for name, column in table.items()
    }
    return columns, splits


def _panel(
    ax: Axes,
    columns: Columns,
    splits: np.ndarray,
    labels: Mapping[str, str],
    title: str,
    comparable: Bool[np.ndarray, " rows"] | None = None,
) -> None:
    """Draw columns, each in its own color; the axis is logarithmic if positive values differ much.

    The first column, a sum, has training values only where they are ``comparable`` to those of validation.
    """
    labels = {name: label for name, label in labels.items() if name in columns}
    colors, valid = _colors(columns), splits == "valid"
    for index, (name, label) in enumerate(labels.items()):
        values, sum_of_all = columns[name], index == 0 and len(labels) > 1
        if np.isinf(values).any() and not np.isfinite(values).any():
            ax.plot([], [], linestyle="none", label=f"{label.partition(':')[0]}, {INFINITE}")
            continue
        train = (splits == "train") & (comparable if index == 0 and comparable is not None else True)
        style = "--" if sum_of_all else "-"  # a sum is seen beside its largest part
        ax.plot(columns["step"][train], values[train], style, color=colors[name], alpha=0.4, linewidth=1)
        ax.plot(
            columns["step"][valid],
            values[valid],
            style,
            color=colors[name],
            marker="o",
            markersize=5 if index == 0 else 3,
            zorder=3 if index == 0 else 2,
            label=f"{label}, infinite where it is not drawn" if np.isinf(values).any() else label,
        )
    drawn = np.concatenate([columns[name] for name in labels])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and drawn.min() > 0 and drawn.max() > SPREAD * drawn.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    over_steps(plain(ax, title))
    ax.legend(fontsize="small", frameon=False, title="● validation   — training", title_fontsize="small")


def _colors(columns: Columns) -> dict[str, ColorType]:
    """The color of each column: of a name wherever it is among them, and by depth for latents of layers."""
    others = [name for name in columns if name.startswith("kl_") and name not in NAMED]
    return NAMED | {name: depth_shade(index, len(others)) for index, name in enumerate(others)}


def _same_on_held_out_texts(columns: Columns, objective: Mapping[str, Any]) -> Bool[np.ndarray, " rows"]:
    """Where training minimizes what is measured on held-out texts.

    Held-out texts have the full weights of the KL, and are charged what is missing to a target of the KL, or the
    vectors beyond the share to keep.
    """
    charged = "target_kl" in objective or "delta" in columns
    weights = np.nan_to_num(columns.get("beta", np.full(len(columns["step"]), np.nan)), nan=np.inf)
    return (weights >= (1 - ROUNDING) * max(objective.get("kl_weights", {}).values(), default=0.0)) & (not charged)


def _is_zero(values: Float[np.ndarray, " rows"]) -> bool:
    """Whether a term is zero everywhere up to rounding."""
    return bool((np.abs(values[np.isfinite(values)]) < ROUNDING).all())


def _objective_label(objective: Mapping[str, Any], latent: bool, keeps: bool) -> str:
    """Name of the objective, whether it is a bound, and how that of held-out texts differs."""
    if not latent:
        return "objective: −log p(x), exact"
    words = in_words(objective, elbo="−ELBO")
    label = f"objective: {words or '−ELBO'}, bounds −log p(x)" if is_bound(objective) else f"objective: {words}"
    if not keeps and "target_kl" not in objective:
        return label
    charged = "vectors beyond the share are" if keeps else "at least the target is"
    return fill(f"{label}; held-out, {charged} charged", CHARACTERS)


def _kl_label(name: str) -> str:
    return "−log p(length)" if name == LENGTH else f"KL of {name.removeprefix('kl_')}"
