"""Vectors that stay when the dial of NVIB attention is turned."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ..nvib.kept import Kept
from .running_text import text_width
from .style import INK, depth_shade, new_axes, plain

__all__ = ["vectors_kept"]

WIDTH, HEIGHT = 5.2, 3.4  # size of the axes of a new figure, in inches
POINTS = 8.33  # font size of the legend
ROWS, HANDLE = 18, 0.6  # of a column of the legend: its lines, and the inches beside its labels


def vectors_kept(
    places: Sequence[float],
    kept: Sequence[Mapping[str, Kept]],
    *,
    dial: str = "vectors against the prior, nats",
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of vectors that stay, and the attention to the prior's component, of each layer over the dial.

    The dial is drawn as it is turned: from the side where the prior has no say. Darker lines are higher layers; the
    parts that all names share are left out.

    Arguments:
        places: Places of the dial, such as values of ``tau_nats`` of :func:`~pyroformer.nvib.regularize`.
        kept: What :func:`~pyroformer.nvib.kept` returned at each of them.
        dial: Label of the dial.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there are no places, they are not as many as the results, or results are of different layers.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> from pyroformer.inference.nvib.kept import Kept
        >>> names = ["layers.0.self_attn", "layers.1.self_attn"]
        >>> kept = [dict.fromkeys(names, Kept(0.0, 1.0)), dict.fromkeys(names, Kept(0.6, 0.3))]
        >>> ax = vectors_kept([5.0, -5.0], kept, ax=Figure().subplots())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['vectors that stay', 'attention to the prior', 'layer 0', 'layer 1']
    """
    if not isinstance(places, Sequence) or not isinstance(kept, Sequence):
        raise ValueError(f"places are {places!r:.40} and kept {kept!r:.40}: give a list of each.")
    if not kept or len(places) != len(kept):
        raise ValueError(f"there are {len(kept)} results for {len(places)} places of the dial: give one for each.")
    if different := next((result for result in kept if result.keys() != kept[0].keys()), None):
        raise ValueError(f"results are of layers {', '.join(kept[0])} and of {', '.join(different)}: give one model's.")
    labels = _short(list(kept[0]))
    columns = -(-(len(labels) + 2) // ROWS)
    if ax is None:
        longest = max(map(text_width, ["attention to the prior", *labels]))
        ax = new_axes(WIDTH + columns * (longest * POINTS / 72 + HANDLE), HEIGHT)[0]
    for style, label in (("o-", "vectors that stay"), ("s:", "attention to the prior")):
        ax.plot([], [], style, color=INK, markersize=4, label=label)
    for index, (name, label) in enumerate(zip(kept[0], labels, strict=True)):
        color = depth_shade(index, len(labels))
        vectors, prior = [result[name].vectors for result in kept], [result[name].prior for result in kept]
        ax.plot(places, vectors, "o-", color=color, markersize=4)
        ax.plot(places, prior, "s:", color=color, markersize=3)
        ax.plot([], [], color=color, linewidth=4, label=label)
    ax.set(xlabel=dial, ylabel="share", ylim=(-0.03, 1.03))
    ax.invert_xaxis()
    ax.legend(fontsize=POINTS, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5), ncols=columns)
    return plain(ax, "Vectors that stay; attention to the prior")


def _short(names: Sequence[str]) -> list[str]:
    """The names of layers without the parts that all share, between dots; a number is that of a layer.

    Examples:
        >>> _short(["h.0.attn", "h.1.attn"]), _short(["encoder.0.attn", "decoder.0.attn"]), _short(["h.0.attn"])
        (['layer 0', 'layer 1'], ['encoder', 'decoder'], ['h.0.attn'])
    """
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    first = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), 0)
    last = next((i for i in range(shortest - first) if len({part[-1 - i] for part in parts}) > 1), 0)
    cut = [".".join(part[first : len(part) - last]) for part in parts]
    return [f"layer {name}" if name.isdecimal() else name for name in cut]
