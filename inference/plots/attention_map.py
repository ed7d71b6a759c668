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
from ..runs.fitted import check_run
from ..utils.seeded_eval import seeded_eval
from .style import DEPTHS, FRAME, INK, WORDS, new_axes, printable

__all__ = ["DecoderAttention", "attention", "attention_of_layers", "decoder_attention", "figure_size", "heat_map"]

CELL, SMALLEST_CELL, LARGEST = 0.2, 0.1, 14.0  # sizes of a new figure, in inches
FONT, SMALLEST_FONT = 8.0, 4.0  # sizes of the tokens, in points


class DecoderAttention(NamedTuple):
    """Attention of each layer and head: one row per generated token, one column for the prior and per input token.

    By place, it is that by which the output layer finds the vector of each token, as one layer of one head.
    """

    generated: list[str]
    inputs: list[str]
    weights: Float[np.ndarray, "layers heads m n"]
    by_place: bool = False


def decoder_attention(run: Run, text: str) -> DecoderAttention:
    """Cross-attention weights during a greedy reconstruction from the posterior mean.

    Weights are summed over components of the same token.

    Raises:
        ValueError: If the memory of the model is not a mixture, or the text is longer than its max_length.
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
    inputs = pieces(text)
    if posterior.token_weights() is not None:
        inputs = ["prior", *inputs]
    if memory.components % len(inputs):
        raise ValueError(
            f"the mixture has {memory.components} components for {len(inputs)} columns: give each column as many."
        )
    weights = weights.unflatten(-1, (len(inputs), -1)).sum(-1)
    by_place = distribution.decoder.reader is not None
    return DecoderAttention(pieces(tokens[0]), inputs, weights.cpu().numpy(), by_place)


def attention(run: Run, text: str, *, layer: int | None = None, ax: Axes | None = None) -> Axes:
    r"""Draw a heat map of the decoder's cross-attention during a greedy reconstruction of a text.

    .. math::
        w_{tn} = p(\text{component } n \mid \text{query } t)

    averaged over heads, and over layers if ``layer`` is None; where the output layer finds the vector of each token by
    its place, with the prior ``language_model``, the attention that finds it. Rows are generated tokens, columns input
    tokens.

    Arguments:
        run: A run of a model whose decoder attends to a mixture.
        text: The text to reconstruct.
        layer: Index of the layer, from 0; all layers by default.
        ax: Matplotlib axes; by default those of a new figure, as large as the text.

    Raises:
        ValueError: If the memory of the model is not a mixture, the text is longer than its max_length, or the layer
            does not exist.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = attention(run, "The food was good.", ax=Figure().subplots())
        >>> ax.get_title(), [label.get_text() for label in ax.get_xticklabels()][:4]
        ('vector that the output layer reads', ['prior', 'T', 'h', 'e'])
    """
    check_run(run)
    return attention_of_layers(decoder_attention(run, text), layer, ax=ax)


def attention_of_layers(result: DecoderAttention, layer: int | None = None, *, ax: Axes | None = None) -> Axes:
    """:func:`attention` from its numbers."""
    layers = len(result.weights)
    if layer is not None and not 0 <= layer < layers:
        raise ValueError(f"layer is {layer}: the decoder has layers 0 to {layers - 1}.")
    weights = result.weights if layer is None else result.weights[[layer]]
    ax = heat_map(result.generated, result.inputs, weights.mean((0, 1)), ax=ax)
    title = "mean of all layers and heads" if layer is None else f"layer {layer}, mean of its heads"
    title = "vector that the output layer reads" if result.by_place else title
    ax.set_title(title, fontsize=FONT)
    return ax


def heat_map(
    generated: Sequence[str], inputs: Sequence[str], weights: Float[np.ndarray, "m n"], *, ax: Axes | None = None
) -> Axes:
    """Draw attention weights as a heat map with tokens along its axes.

    Raises:
        ValueError: If the shape of the weights differs from the numbers of tokens.
    """
    if weights.shape != (len(generated), len(inputs)):
        raise ValueError(
            f"weights have shape {weights.shape} for {len(generated)} generated and {len(inputs)} input tokens: give "
            "one row and one column for each."
        )
    if ax is None:
        ax = new_axes(*figure_size(generated, inputs))[0]
    image = ax.imshow(weights, cmap=DEPTHS, vmin=0, interpolation="nearest")
    extent = ax.get_window_extent()
    cell = min(extent.width / len(inputs), extent.height / len(generated)) * 72 / ax.figure.dpi
    size = min(FONT, max(SMALLEST_FONT, 0.8 * cell))
    ax.set_xticks(range(len(inputs)), map(printable, inputs), rotation=90, fontsize=size, **WORDS)
    ax.set_yticks(range(len(generated)), map(printable, generated), fontsize=size, **WORDS)
    ax.tick_params(length=0, labelcolor=INK, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.set_xlabel("components of the posterior", color=INK, fontsize=FONT)
    ax.set_ylabel("generated", color=INK, fontsize=FONT)
    if list(inputs[:1]) == ["prior"]:
        ax.axvline(0.5, color=FRAME, linewidth=0.8)  # sets the prior's component apart
    ax.spines[:].set_color(FRAME)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, aspect=15, pad=0.03)
    bar.set_label("attention", fontsize=FONT, color=INK)
    bar.ax.tick_params(labelsize=FONT - 1)
    bar.outline.set_edgecolor(FRAME)
    return ax


def figure_size(generated: Sequence[str], inputs: Sequence[str]) -> tuple[float, float]:
    """Width and height of the figure of a heat map, in inches."""
    cell = min(CELL, max(SMALLEST_CELL, LARGEST / max(len(generated), len(inputs))))
    return cell * len(inputs) + 2.2, cell * len(generated) + 1.6
