"""Cross-attention of the decoder while it reconstructs a text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ...models.attention.mixture import Mixture
from ..evaluation.cross_attention import cross_attention
from ..generation.generate import GREEDY, encode_batch, text_distribution, write
from ..run import Run
from ..utils.seeded_eval import seeded_eval
from .style import DEPTHS, FRAME, INK, new_axes, printable

__all__ = ["DecoderAttention", "attention", "decoder_attention", "heat_map"]

CELL, SMALLEST_CELL, LARGEST = 0.2, 0.1, 14.0  # of a figure of our own, in inches
FONT, SMALLEST_FONT = 8.0, 4.0  # of the tokens, in points


class DecoderAttention(NamedTuple):
    """Attention of every layer and head: a row for each token written, a column for the prior and each token read."""

    written: list[str]
    read: list[str]
    weights: Float[np.ndarray, "layers heads m n"]


def decoder_attention(run: Run, text: str) -> DecoderAttention:
    """What each token of a greedy reconstruction was read from, with the mean posterior.

    Vectors that belong to one token are taken together.

    Raises:
        ValueError: If the run's decoder attends to no mixture, or the text does not fit its max_length.
    """
    with seeded_eval(run.model, run.guide, seed=0):
        posterior = None if run.guide is None else encode_batch(run, run.batch([text]))
        memory = None if posterior is None else posterior.memory()
        if posterior is None or not isinstance(memory, Mixture):
            name = type(run.model).__name__
            raise ValueError(f"a {name} attends to no mixture: fit an nvae to see its attention.")
        distribution = text_distribution(run, memory)
        tokens = write(distribution, GREEDY, memory.means.new_zeros(1, run.corpus.max_length))
        weights = cross_attention(distribution.decoder, tokens, memory)[:, 0]
    pieces = run.tokenizer.pieces
    read = pieces(text)
    if posterior.token_weights() is not None:
        read = ["prior", *read]
    if memory.components % len(read):
        raise ValueError(f"the mixture has {memory.components} components for {len(read)} columns: give each as many.")
    weights = weights.unflatten(-1, (len(read), -1)).sum(-1)
    return DecoderAttention(pieces(tokens[0]), read, weights.cpu().numpy())


def attention(run: Run, text: str, *, layer: int | None = None, ax: Axes | None = None) -> Axes:
    r"""Draw what the decoder attended to at each token of a reconstruction: rows are written, columns were read.

    .. math::
        w_{tn} = p(\text{component } n \mid \text{query } t)

    averaged over heads, and over layers unless one is named.

    Arguments:
        run: A run of a model whose decoder attends to a mixture.
        text: What to reconstruct, greedily.
        layer: The layer to show, from 0; all of them by default.
        ax: Where to draw; by default a new figure of pyplot's, as large as the text needs.

    Raises:
        ValueError: If the run's decoder attends to no mixture, the text does not fit, or there is no such layer.
    """
    found = decoder_attention(run, text)
    layers = len(found.weights)
    if layer is not None and not 0 <= layer < layers:
        raise ValueError(f"layer is {layer}: the decoder has layers 0 to {layers - 1}.")
    weights = found.weights if layer is None else found.weights[[layer]]
    ax = heat_map(found.written, found.read, weights.mean((0, 1)), ax=ax)
    ax.set_title(
        "mean of all layers and heads" if layer is None else f"layer {layer}, mean of its heads", fontsize=FONT
    )
    return ax


def heat_map(
    written: Sequence[str], read: Sequence[str], weights: Float[np.ndarray, "m n"], *, ax: Axes | None = None
) -> Axes:
    """Draw attention weights as a grid of cells, with tokens along its edges.

    Raises:
        ValueError: If the weights have another shape than the tokens ask for.
    """
    if weights.shape != (len(written), len(read)):
        raise ValueError(f"weights of shape {weights.shape} for {len(written)} tokens written and {len(read)} read.")
    if ax is None:
        ax = new_axes(*figure_size(written, read))[0]
    image = ax.imshow(weights, cmap=DEPTHS, vmin=0, interpolation="nearest")
    extent = ax.get_window_extent()
    cell = min(extent.width / len(read), extent.height / len(written)) * 72 / ax.figure.dpi
    size = min(FONT, max(SMALLEST_FONT, 0.8 * cell))
    ax.set_xticks(range(len(read)), map(printable, read), rotation=90, fontsize=size, parse_math=False)
    ax.set_yticks(range(len(written)), map(printable, written), fontsize=size, parse_math=False)
    ax.tick_params(length=0, labelcolor=INK, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.set_xlabel("read (components of the posterior)", color=INK, fontsize=FONT)
    ax.set_ylabel("written", color=INK, fontsize=FONT)
    ax.axvline(0.5, color=FRAME, linewidth=0.8)  # the prior's component stands apart
    ax.spines[:].set_color(FRAME)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, aspect=15, pad=0.03)
    bar.set_label("attention", fontsize=FONT, color=INK)
    bar.ax.tick_params(labelsize=FONT - 1)
    bar.outline.set_edgecolor(FRAME)
    return ax


def figure_size(written: Sequence[str], read: Sequence[str]) -> tuple[float, float]:
    """Width and height, in inches, that a heat map wants."""
    cell = min(CELL, max(SMALLEST_CELL, LARGEST / max(len(written), len(read))))
    return cell * len(read) + 2.2, cell * len(written) + 1.6
