"""Groups of vectors, such as the components of a prior, projected to the plane."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from torch import Tensor

from ..style import COLORS, FRAME, INK, WORDS, new_axes, plain, printable
from .arrays import as_array

__all__ = ["vector_groups"]

WIDTH, HEIGHT = 7.6, 5.0  # size of a new figure, in inches
MARKERS = "os^Dvp"
NAMED = 3  # of the words of a group, the most frequent ones are written
BOX = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": FRAME, "alpha": 0.85, "linewidth": 0.5}
RIDGE = 1e-6  # of the largest variance, where a direction has none


def vector_groups(
    vectors: Float[Tensor, "n d"],
    groups: Int[Tensor, " n"],
    words: Sequence[str],
    *,
    named: int = NAMED,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw vectors in the plane that separates their groups most, with the most frequent words of each group.

    The plane is that of Fisher's linear discriminants, the two directions :math:`w` of largest

    .. math::
        \frac{w^\top S_\text{between} \, w}{w^\top S_\text{within} \, w}.

    The number of a group stands at the median of its vectors. The plane is chosen to show the groups apart; groups that
    overlap here may be apart in other directions.

    Arguments:
        vectors: The vectors.
        groups: The group of each vector, from 0.
        words: The word of each vector.
        named: How many words of a group are written, those of most vectors.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there are fewer than two groups or dimensions, or groups or words are not as many as the vectors.

    References:
        The use of multiple measurements in taxonomic problems (Fisher, 1936),
        https://doi.org/10.1111/j.1469-1809.1936.tb02137.x

    Examples:
        >>> from matplotlib.figure import Figure
        >>> vectors = torch.randn(40, 5) + 9 * torch.arange(40)[:, None].remainder(2)
        >>> ax = vector_groups(vectors, torch.arange(40) % 2, ["a", "the"] * 20, ax=Figure().subplots())
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['0: a', '1: the']
    """
    table, labels = as_array("vectors", vectors, None, None), as_array("groups", groups, None)
    if len(broken := labels[labels != labels.round()]):
        raise ValueError(f"groups has {broken[0]:g}: give the number of a group for each vector.")
    labels = labels.astype(int)
    if len(labels) != len(table) or len(words) != len(table):
        raise ValueError(f"there are {len(table)} vectors, {len(labels)} groups and {len(words)} words: give as many.")
    present, sizes = np.unique(labels, return_counts=True)
    if len(present) < 2 or table.shape[1] < 2:
        raise ValueError(
            f"there are {len(present)} groups in {table.shape[1]} dimensions: a plane needs 2 of each at least."
        )
    ax = new_axes(WIDTH, HEIGHT)[0] if ax is None else ax
    points = _discriminants(table, labels)
    for index, group in enumerate(present[np.argsort(-sizes, kind="stable")]):  # the largest in the first colors
        of_group = labels == group
        color, marker = COLORS[index % len(COLORS)], MARKERS[index // len(COLORS) % len(MARKERS)]
        count = Counter(word.strip() for word, here in zip(words, of_group, strict=True) if here)
        most = " ".join(printable(word) for word, _ in count.most_common(named))
        ax.plot(*points[of_group].T, marker, color=color, markersize=3, alpha=0.35, markeredgewidth=0)
        ax.plot([], [], marker, color=color, markersize=5, label=f"{group}: {most}")
        center = np.median(points[of_group], axis=0)
        ax.annotate(str(group), center, ha="center", va="center", fontsize="small", color=INK, bbox=BOX, zorder=3)
    legend = ax.legend(
        fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title="most frequent"
    )
    for text in legend.get_texts():
        text.set(**WORDS)
    ax.set(xlabel="first discriminant", ylabel="second discriminant")
    return plain(ax)


def _discriminants(table: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Coordinates along the two directions in which groups are furthest apart, in standard deviations within groups."""
    present, index = np.unique(labels, return_inverse=True)
    means = np.stack([table[labels == group].mean(0) for group in present])
    within = table - means[index]
    covariance = within.T @ within / len(table)
    variances, directions = np.linalg.eigh(covariance)
    whiten = directions / np.sqrt(np.maximum(variances, RIDGE * max(float(variances.max()), 1e-12)))
    centered = (means - table.mean(0)) @ whiten * np.sqrt(np.bincount(index) / len(table))[:, None]
    axes = np.linalg.svd(centered, full_matrices=False)[2][:2]
    points: np.ndarray = (table - table.mean(0)) @ whiten @ axes.T
    return points
