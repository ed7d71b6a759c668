"""Vectors that stay when the dial of NVIB attention is turned."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ..nvib.kept import Kept
from .style import COLORS, INK, new_axes, plain

__all__ = ["vectors_kept"]

WIDTH, HEIGHT = 5.2, 3.4  # size of a new figure, in inches


def vectors_kept(
    places: Sequence[float],
    kept: Sequence[Mapping[str, Kept]],
    *,
    dial: str = "vectors against the prior, nats",
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of vectors that stay, and the attention to the prior's component, of each layer over the dial.

    The dial is drawn as it is turned: from the side where the prior has no say.

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
        >>> kept = [{"self_attn": Kept(0.0, 1.0)}, {"self_attn": Kept(0.6, 0.3)}]
        >>> ax = vectors_kept([5.0, -5.0], kept, ax=Figure().subplots())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['self_attn: vectors that stay', 'self_attn: attention to the prior']
    """
    if not isinstance(places, Sequence) or not isinstance(kept, Sequence):
        raise ValueError(f"places are {places!r:.40} and kept {kept!r:.40}: give a list of each.")
    if not kept or len(places) != len(kept):
        raise ValueError(f"there are {len(kept)} results for {len(places)} places of the dial: give one for each.")
    if different := next((result for result in kept if result.keys() != kept[0].keys()), None):
        raise ValueError(f"results are of layers {', '.join(kept[0])} and of {', '.join(different)}: give one model's.")
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    for index, name in enumerate(kept[0]):
        color = COLORS[index % len(COLORS)]
        vectors, prior = [result[name].vectors for result in kept], [result[name].prior for result in kept]
        ax.plot(places, vectors, "o-", color=color, markersize=4, label=f"{name}: vectors that stay")
        ax.plot(places, prior, "s:", color=color, markersize=4 - index % 2, label=f"{name}: attention to the prior")
    ax.set(xlabel=dial, ylabel="share", ylim=(-0.03, 1.03))
    ax.set_title("Vectors that stay; attention to the prior", loc="left", fontsize="medium", color=INK)
    ax.invert_xaxis()
    ax.legend(fontsize="small", frameon=False)
    return plain(ax)
