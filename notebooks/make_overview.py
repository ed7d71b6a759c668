"""The README's figure, figures/overview.png, drawn from a run: ``python notebooks/make_overview.py RUN``.

The first panel needs no run; the other two depend on the run's folder alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import pyroformer as pf
from pyroformer.inference.plots.style import DEPTHS, FRAME, INK

HERE = Path(__file__).resolve().parent
TITLES = (
    "Attention is a posterior mean",
    "What a text leaves in its mixture",
    "What it costs, and what it gives back",
)
TOKENS = range(40, 60)  # length of the held-out text in the figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of an NVAE's run")
    parser.add_argument("--text", help="the text to shade; by default a held-out one")
    parser.add_argument("--out", type=Path, default=HERE / "figures" / "overview.png")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    overview(pf.load(arguments.run), arguments.text).savefig(arguments.out, dpi=200)


def overview(run: pf.Run, text: str | None = None) -> Figure:
    """Attention as denoising, the posterior of a text, and how rate was traded for distortion."""
    figure = Figure((10.2, 3.4), layout="constrained")
    denoising, strip, trade = figure.subplots(1, 3, width_ratios=(1, 1.25, 1))
    draw_denoising(denoising)
    pf.plots.weights(run, text or held_out(run), ax=strip)
    draw_rate(run, trade)
    for ax, title in zip((denoising, strip, trade), TITLES, strict=True):
        ax.set_title(title, loc="left", fontsize=11, color=INK)
    return figure


def draw_denoising(ax: Axes) -> None:
    """A query, the mixture, and the posterior mean of the vector that the query is an observation of."""
    mixture = pf.Mixture(
        log_weights=torch.tensor([0.3, 0.15, 0.4, 0.15]).log(),
        means=torch.tensor([[-2.3, 0.8], [-0.1, 1.7], [2.2, 0.7], [-0.3, -1.2]]),
        variances=torch.tensor([[0.3, 0.16], [0.22, 0.14], [0.3, 0.22], [0.34, 0.14]]),
        noise_variance=0.7,
    )
    pf.plots.posterior_means(torch.tensor([[0.85, 0.35]]), mixture, ax=ax)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def held_out(run: pf.Run) -> str:
    """The first held-out text in one line that fills the panel, with a capital and a full stop."""
    for text, length in zip(run.corpus.test, run.corpus.test.lengths, strict=True):
        whole = text[0].isupper() and text.endswith(".") and "\n" not in text
        if length in TOKENS and whole:
            return text
    return run.corpus.test[0]


def draw_rate(run: pf.Run, ax: Axes) -> None:
    """Rate and distortion of the held-out texts, from the first validation to the last."""
    table = run.folder.read_metrics()
    valid = [row for row, split in enumerate(table["split"]) if split == "valid"]
    columns = {
        name: np.array([float(column[row]) for row in valid])
        for name, column in table.items()
        if name != "split"
    }
    rate = np.sum([columns[f"kl_{site}"] for site in run.model.latents], axis=0)
    ax.plot(rate, columns["reconstruction"], color=FRAME, linewidth=1, zorder=1)
    points = ax.scatter(
        rate,
        columns["reconstruction"],
        c=columns["step"],
        cmap=DEPTHS,
        vmin=0,
        edgecolor=INK,
        linewidth=0.5,
    )
    bar = ax.figure.colorbar(points, ax=ax, pad=0.02, aspect=30)
    bar.set_label("step", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    ax.set_xlabel("rate: KL of the mixture, nats per token", fontsize=9)
    ax.set_ylabel("distortion: −log p(text | mixture)", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
