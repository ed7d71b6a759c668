r"""Text with each token shaded by its weight in the posterior mixture."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from ...guides.posteriors import TextPosterior
from ...models.nvae import NVAE
from ...models.transformer.mixtures.posterior import MixturePosterior
from ...models.utils.choices import check_choice
from ...models.utils.numbers import declared_number
from ..generation.generate import encode
from ..run import Run
from ..runs.fitted import check_run
from .running_text import MARGIN, Placed, letters, set_in_lines, text_width
from .style import FRAME, INK, SHADES, new_axes, shade_limit

__all__ = ["Stack", "TokenWeights", "strip", "token_weights", "weights"]

Stack = Literal["encoder", "decoder"]
BEGINNING = "<bos>"  # of the text, in place of a token

# Lengths are in ems; y points up, and the baseline of the first line is at 0.
ABOVE, BELOW = 0.92, 0.3  # height and depth of a box from its baseline
PITCH = 1.6  # distance between baselines
NOTE = 0.58  # font size of the concentrations under the tokens
LEGEND, PRIOR = 3.2, 1.4  # height of what is under the text: the prior with a color bar, or alone
BAR = 13.0  # length of the color bar
NARROWEST = 22.0  # shortest line, for the legend to fit
OFF = 0.005  # concentrations below are written as 0
ALIKE = 0.9  # of the largest weight, above which weights have one shade
POINTS, INCHES = 11.0, 7.2  # font size and width of a new figure


class TokenWeights(NamedTuple):
    """Weights in the posterior mixture of a text, summed over components of the same token; the prior's come first."""

    pieces: list[str]
    weights: Float[np.ndarray, " components"]
    log_alpha: Float[np.ndarray, " components"] | None  # None if the posterior has no concentrations


def token_weights(run: Run, text: str, layer: int | None = None, stack: Stack = "encoder") -> TokenWeights:
    r"""The posterior mean weight of each token of a text, and of the prior's component.

    .. math::
        E[\pi_i \mid x] = \alpha_i / \sum_j \alpha_j

    Raises:
        ValueError: If the posterior, or that of the ``layer`` of the ``stack``, has no mixture weights, or the text is
            longer than the model's max_length.
    """
    check_choice("stack", stack, get_args(Stack))
    if stack == "decoder" and layer is None:
        raise ValueError("stack is decoder, and there is no layer: say which layer of it, from 1, is drawn.")
    pieces = run.tokenizer.pieces(text)
    posterior = None if run.guide is None else encode(run, [text])
    if layer is not None:
        posterior = _of_layer(run, text, posterior, layer, stack)
    if stack == "decoder":
        pieces = [BEGINNING, *pieces[:-1]]  # the tokens that the decoder reads
    weights = None if posterior is None else posterior.token_weights()
    if posterior is None or weights is None:
        raise ValueError(f"a {type(run.model).__name__} has no mixture weights to draw: fit an nvae to see some.")
    both = torch.cat([(1 - weights.sum(-1, keepdim=True)).clamp(min=0), weights], -1)[0]
    mixture, log_alpha = posterior.mixture(), None
    if mixture is not None:
        log_alpha = mixture.log_alpha[0].double().unflatten(-1, (len(both), -1)).logsumexp(-1).cpu()
    return TokenWeights(pieces, both.cpu().numpy(), None if log_alpha is None else log_alpha.numpy())


def weights(
    run: Run,
    text: str,
    *,
    alpha: bool = False,
    layer: int | None = None,
    stack: Stack = "encoder",
    vmax: float | None = None,
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw a text with each token shaded by its posterior mean weight.

    The prior's component has a dashed box under the text. Weights that are all alike have a middle shade, and the color
    bar says so where they are within a tenth of the largest, as those of a posterior that says nothing by its weights.
    Texts that are compared need one ``vmax``, and then one color bar will do.

    Arguments:
        run: A run whose posterior is a mixture with a component for each token.
        text: The text to encode.
        alpha: Whether to show the concentration of each token under it; below 0.005, as of a vector that is switched
            off, it is written as 0.
        layer: The layer, from 1, whose mixture is drawn, where layers have some; the text's by default.
        stack: Whether that is a layer of the ``encoder`` or of the ``decoder``, which begins with the beginning of the
            text and has none for the last token.
        vmax: The weight of the darkest shade; by default the largest of a token, or twice their mean if that is more.
        colorbar: Whether to draw the color bar beside the prior's box.
        ax: Matplotlib axes; by default those of a new figure, as high as the text.

    Raises:
        ValueError: If the posterior has no mixture weights, or no concentrations and ``alpha`` is True, the ``layer``
            has no mixture, ``vmax`` is not above 0 and finite, or the text is longer than the model's max_length.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = weights(run, "The food was good.", ax=Figure().subplots())
        >>> ax.axison  # boxes and letters alone
        False
    """
    check_run(run)
    vmax = declared_number("vmax", vmax, float | None)
    if vmax is not None and not 0 < vmax < math.inf:
        raise ValueError(f"vmax is {vmax:g}: give the weight of the darkest shade, above 0, or leave it out.")
    mixture = token_weights(run, text, layer, stack)
    if alpha and mixture.log_alpha is None:
        raise ValueError(f"the posterior of a {type(run.model).__name__} has no concentrations: leave alpha out.")
    return strip(mixture.pieces, mixture.weights, mixture.log_alpha if alpha else None, vmax, colorbar, ax=ax)


def _of_layer(run: Run, text: str, posterior: TextPosterior | None, layer: int, stack: Stack) -> MixturePosterior:
    """The posterior of the mixture of a layer of the encoder or the decoder."""
    mixture = None if posterior is None else posterior.mixture()
    known: Mapping[int, MixturePosterior] = {} if mixture is None else mixture.lower
    option = "nvib_layers"
    if stack == "decoder":
        model, option, known = run.model, "nvib_decoder_layers", {}
        if isinstance(model, NVAE) and mixture is not None:
            known = model.decoder_layers(mixture.memory(), run.batch([text]))
    if layer not in known:
        there = f"layers with one are {', '.join(map(str, known))}" if known else f"fit an nvae with {option} for some"
        raise ValueError(f"layer is {layer}, and that layer of the {stack} has no mixture: {there}.")
    return known[layer]


def strip(
    pieces: Sequence[str],
    weights: Float[np.ndarray, " components"],
    log_alpha: Float[np.ndarray, " components"] | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw tokens as running text, shaded by their weights; the first weight is the prior's.

    The scale of the shades is that of the tokens, without the prior. Boxes and letters are paths in data coordinates,
    so that they scale together.

    Raises:
        ValueError: If the number of weights is not that of the tokens plus one.
    """
    if len(weights) != len(pieces) + 1:
        raise ValueError(f"{len(weights)} weights for {len(pieces)} tokens: give one for the prior and one for each.")
    notes = [] if log_alpha is None else [_concentration(value) for value in np.exp(log_alpha).tolist()]
    pitch = PITCH + (NOTE + 0.25 if notes else 0)

    def layout(width: float) -> tuple[list[Placed], float]:
        placed = set_in_lines(pieces, width, notes[1:], NOTE)
        return placed, ABOVE + (placed[-1].line + 1) * pitch + (LEGEND if colorbar else PRIOR)

    if ax is None:
        placed, height = layout(INCHES * 72 / POINTS)
        needed = max(box.x + box.width for box in placed) + 2 * MARGIN
        ax = new_axes(max(needed, NARROWEST) * POINTS / 72, height * POINTS / 72)[0]
    width = _width_that_fits(layout, ax)
    placed, height = layout(width)
    width = max(width, *(box.x + box.width for box in placed))
    ax.set(xlim=(-MARGIN, width + MARGIN), ylim=(ABOVE - height, ABOVE + MARGIN))
    ax.set_aspect("equal", anchor="NW")
    ax.set_axis_off()

    legend = -(placed[-1].line + 1) * pitch - 0.5
    boxes = [Placed("prior", 0.0, text_width("prior") + 2 * MARGIN, 0), *placed]
    baselines = [legend, *(-box.line * pitch for box in placed)]
    limit = shade_limit(weights[1:].tolist()) if vmax is None else vmax
    shades = _draw_boxes(ax, boxes, baselines, weights, limit)
    outlines = [letters(box.text, box.x + MARGIN, y) for box, y in zip(boxes, baselines, strict=True)]
    number = f"{weights[0]:.2g}"
    if notes:  # under the prior, as under each token
        outlines.append(letters(f"{notes[0]} = alpha", boxes[0].x, legend - BELOW - NOTE, NOTE))
    outlines.append(letters(number, boxes[0].width + 0.5, legend))
    for note, box, y in zip(notes[1:], placed, baselines[1:], strict=False):
        outlines.append(letters(note, box.x + (box.width - NOTE * text_width(note)) / 2, y - BELOW - NOTE, NOTE))
    ax.add_patch(PathPatch(Path.make_compound_path(*outlines), facecolor=INK, linewidth=0))
    if colorbar:
        left = boxes[0].width + 0.5 + text_width(number) + 2.0
        _draw_color_bar(ax, shades, min(left, width - BAR - 1), legend)
    return ax


def _concentration(alpha: float) -> str:
    """Two digits; 0 for one that is as good as switched off.

    Examples:
        >>> _concentration(12.34), _concentration(0.043), _concentration(2.1e-9)
        ('12', '0.043', '0')
    """
    return f"{alpha:.2g}" if alpha >= OFF else "0"


def _width_that_fits(layout: Callable[[float], tuple[list[Placed], float]], ax: Axes) -> float:
    """The shortest line with which the text fits into the axes, for the largest font up to ``POINTS``."""
    extent = ax.get_window_extent()
    width = max(extent.width * 72 / ax.figure.dpi / POINTS, NARROWEST)
    while layout(width)[1] > width * extent.height / extent.width and width < 1000:
        width *= 1.05
    return width


def _draw_boxes(
    ax: Axes,
    boxes: Sequence[Placed],
    baselines: Sequence[float],
    weights: Float[np.ndarray, " components"],
    limit: float,
) -> PatchCollection:
    """Draw boxes, shaded up to a limit; the first is dashed."""
    rectangles = [
        Rectangle((box.x, y - BELOW), box.width, ABOVE + BELOW) for box, y in zip(boxes, baselines, strict=True)
    ]
    collection = PatchCollection(
        rectangles,
        cmap=SHADES,
        norm=Normalize(0, limit),
        edgecolor=FRAME,
        linewidth=[1.0] + [0.4] * (len(boxes) - 1),
        linestyle=["--"] + ["-"] * (len(boxes) - 1),
    )
    collection.set_array(weights)
    ax.add_collection(collection, autolim=False)
    return collection


def _draw_color_bar(ax: Axes, shades: PatchCollection, x: float, y: float) -> None:
    """Draw a color bar in the coordinates of the text, beside the prior's box."""
    left, right = ax.get_xlim()
    em = ax.get_window_extent().width * 72 / ax.figure.dpi / (right - left)
    inset = ax.inset_axes((x, y - BELOW, BAR, 0.5), transform=ax.transData)
    weights = np.asarray(shades.get_array())
    over = weights.max() > shades.norm.vmax
    bar = ax.figure.colorbar(shades, cax=inset, orientation="horizontal", extend="max" if over else "neither")
    bar.ax.locator_params(nbins=3)
    bar.ax.tick_params(labelsize=0.75 * em, labelcolor=INK, color=FRAME, length=2)
    bar.outline.set_edgecolor(FRAME)
    title = "posterior mean weight" + (": all alike" if weights.min() > ALIKE * weights.max() else "")
    bar.ax.set_title(title, fontsize=0.75 * em, color=INK, pad=3)
