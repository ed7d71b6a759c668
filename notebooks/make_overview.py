"""The README's figure, figures/overview.png, drawn from three runs::

    pyroformer fit lm --data builtin --out runs/lm --steps 2000
    pyroformer fit nvae --data builtin --out runs/nvae --steps 2000 --validations 25
    pyroformer fit nvae --data builtin --out runs/letters --objective nvib --guide.alpha relu --delta 0.15 \\
        --tokenizer bytes --max_length 48 --model.width 64 --model.heads 2 --steps 1200
    python notebooks/make_overview.py --nvae runs/nvae --language_model runs/lm --letters runs/letters

The first panel needs no run; the other two depend on the folders of the runs alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

import pyroformer as pf
from pyroformer.inference.plots.style import DEPTHS, FRAME, INK
from pyroformer.inference.plots.weight_strip import token_weights

HERE = Path(__file__).resolve().parent
TITLES = (
    "Attention is a posterior mean",
    "Which vectors a text keeps",
    "What it costs, and what it gives back",
)
TOKENS = range(30, 44)  # lengths of the held-out texts in the figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--nvae", type=Path, required=True, help="the folder of an NVAE's run"
    )
    parser.add_argument(
        "--language_model", type=Path, required=True, help="one of as many steps"
    )
    parser.add_argument("--letters", type=Path, required=True, help="an NVAE of bytes")
    parser.add_argument("--out", type=Path, default=HERE / "figures" / "overview.png")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    runs = (
        pf.load(run)
        for run in (arguments.nvae, arguments.language_model, arguments.letters)
    )
    overview(*runs).savefig(arguments.out, dpi=200)


def overview(nvae: pf.Run, language_model: pf.Run, letters: pf.Run) -> Figure:
    """Attention as denoising, the posteriors of texts, and what latents cost and give back."""
    figure = Figure((10.2, 3.4), layout="constrained")
    parts = figure.subfigures(1, 3, width_ratios=(1, 1.25, 1.05))
    draw_denoising(parts[0].subplots())
    draw_kept(letters, parts[1])
    draw_rate(nvae, language_model, parts[2].subplots())
    for part, title in zip(parts, TITLES, strict=True):
        part.suptitle(title, fontsize=11, color=INK)
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


def draw_kept(run: pf.Run, part: SubFigure) -> None:
    """Three texts with one scale of shades, and one color bar under the last."""
    texts = held_out(run)
    largest = max(float(token_weights(run, text).weights[1:].max()) for text in texts)
    for text, ax in zip(texts, part.subplots(len(texts), 1), strict=True):
        pf.plots.weights(run, text, vmax=largest, colorbar=text == texts[-1], ax=ax)


def held_out(run: pf.Run) -> list[str]:
    """The first three held-out texts that fill the panel, with a capital and a full stop."""
    texts = zip(run.corpus.test, run.corpus.test.lengths, strict=True)
    return [
        text
        for text, length in texts
        if length in TOKENS and text[0].isupper() and text.endswith(".")
    ][:3]


def draw_rate(run: pf.Run, language_model: pf.Run, ax: Axes) -> None:
    """Rate and distortion of the held-out texts, from the first validation to the last."""
    columns, loss = validations(run), validations(language_model)["reconstruction"][-1]
    rate = np.sum([columns[f"kl_{site}"] for site in run.model.latents], axis=0)
    ax.plot(
        (0, loss),
        (loss, 0),
        color=FRAME,
        linestyle="--",
        linewidth=1,
        label="language model",
    )
    ax.plot(rate, columns["reconstruction"], color=FRAME, linewidth=1, zorder=1)
    points = ax.scatter(
        rate,
        columns["reconstruction"],
        c=columns["step"],
        cmap=DEPTHS,
        vmin=0,
        edgecolor=INK,
        linewidth=0.5,
        label="NVAE",
    )
    bar = ax.figure.colorbar(points, ax=ax, pad=0.02, aspect=30)
    bar.set_label("step", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    ax.set_xlabel("rate: KL of the mixture, nats per token", fontsize=9)
    ax.set_ylabel("distortion: −log p(text | mixture)", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=-0.1)
    ax.legend(fontsize=8, frameon=False)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def validations(run: pf.Run) -> dict[str, np.ndarray]:
    """The metrics of the held-out texts, by name."""
    table = run.folder.read_metrics()
    valid = [row for row, split in enumerate(table["split"]) if split == "valid"]
    return {
        name: np.array([float(column[row]) for row in valid])
        for name, column in table.items()
        if name != "split"
    }


if __name__ == "__main__":
    main()
