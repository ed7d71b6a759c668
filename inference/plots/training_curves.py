"""How a run trained: its objective, how well it reconstructs, and what its latents cost."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..objectives.registry import in_words
from ..run import Run
from .style import COLORS, INK, new_axes

__all__ = ["curves"]

WIDTH, HEIGHT = 5.2, 3.8  # of a panel of a figure of our own, in inches
SPREAD = 20  # ratio of values from which an axis is logarithmic

Columns = Mapping[str, Float[np.ndarray, " rows"]]


def curves(run: Run, *, axes: Iterable[Axes] | None = None) -> list[Axes]:
    r"""Draw the training curves of a run, in nats per token: held-out texts as dots, training as faint lines.

    The first axes hold the objective that was trained and the reconstruction term; the second ones the bound of
    log p(x), which is the reconstruction and every KL with weight 1, and its parts. Each label says whether it is a
    bound. A model without latents needs the first axes only.

    Arguments:
        run: Any run.
        axes: Two axes to draw into (one, without latents); by default those of a new figure of pyplot's.

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
    chosen = new_axes(WIDTH * panels, HEIGHT, panels) if axes is None else list(axes)
    if len(chosen) < panels:
        raise ValueError(f"{len(chosen)} axes were given for {panels} panels: give {panels}, or none.")

    first = {"objective": _objective_label(run.config["objective"], bool(latents))}
    if latents:
        first["reconstruction"] = "reconstruction: not a bound"
    _panel(chosen[0], columns, splits, first, "What was trained")
    if latents:
        second = {"bound": "−ELBO: bounds −log p(x)"} | {name: _kl_label(name) for name in latents}
        _panel(chosen[1], columns, splits, second, "The bound and its KL parts", offset=2)
    return chosen[:panels]


def _panel(
    ax: Axes, columns: Columns, splits: np.ndarray, labels: Mapping[str, str], title: str, offset: int = 0
) -> None:
    """One quantity a color; the axis is logarithmic where values differ much and can be."""
    shown = np.concatenate([columns[name] for name in labels if name in columns])
    shown = shown[np.isfinite(shown)]
    for index, (name, label) in enumerate(labels.items()):
        if name not in columns:
            continue
        color = COLORS[(index + offset) % len(COLORS)]
        train, valid = splits == "train", splits == "valid"
        ax.plot(columns["step"][train], columns[name][train], color=color, alpha=0.4, linewidth=1)
        ax.plot(columns["step"][valid], columns[name][valid], color=color, marker="o", markersize=3, label=label)
    if len(shown) and shown.min() > 0 and shown.max() > SPREAD * shown.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set(xlabel="step", ylabel="nats per token")
    ax.set_title(title, loc="left", fontsize="medium", color=INK)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize="small", frameon=False, title="● held-out   — training", title_fontsize="small")


def _objective_label(objective: Mapping[str, object], latent: bool) -> str:
    """What the objective is called, and whether it bounds anything: a KL weight below 1 undoes that."""
    weights = objective.get("kl_weights") or {}
    assert isinstance(weights, Mapping)
    if not latent:
        return "objective: −log p(x), exact"
    if objective.get("is_bound") and all(weight >= 1 for weight in weights.values()):
        return "objective: −ELBO, bounds −log p(x)"
    return f"objective: {'−ELBO, ' if objective.get('name') == 'elbo' else ''}{in_words(objective)}"


def _kl_label(name: str) -> str:
    site = name.removeprefix("kl_")
    return "−log p(length)" if site == "length" else f"KL of {site}"
