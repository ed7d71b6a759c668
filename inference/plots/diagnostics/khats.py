"""Plot of Pareto k-hat for each text."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from ...diagnostics.khat import USABLE, khat
from ...posterior.arviz_compat import ArviZData
from ..style import COLORS, FRAME, INK, WORDS, new_axes, plain, printable

__all__ = ["LARGEST", "draw_scale", "khats", "khats_of_texts"]

GOOD = 0.5  # k-hat below which the guide is close to the posterior
LARGEST = 5.0  # k-hat beyond which a text is an arrow at the edge
NAMED = 25  # maximal number of texts that are shown beside their dots
CHARACTERS = 48  # of a text beside its dot
GRADES = ((COLORS[2], "good"), (COLORS[5], "usable with weights"), (COLORS[1], "unreliable"))


def khats(data: ArviZData, site: str | None = None, *, ax: Axes | None = None) -> Axes:
    r"""Draw Pareto k-hat of each text, the worst on top.

    Below 0.5 the guide is close to the text's posterior; up to 0.7 importance weighting can correct it; above 0.7 it is
    unreliable. k-hat grows with the number of dimensions, so that it is large for all long texts. One beyond 5, or
    infinite, is an arrow at the edge.

    Arguments:
        data: Result of :func:`~pyroformer.to_arviz` or ``run.posterior``, with a few hundred draws.
        site: A latent site, or None for all latents and the text; see
            :func:`~pyroformer.inference.diagnostics.khat`.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If the data has no log densities, too few draws, no such site, or only global latents.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> import xarray
        >>> from pyroformer.inference.posterior.arviz_compat import from_groups
        >>> log_p, log_q = ((("chain", "draw", "text"), np.random.randn(1, 50, 2)) for _ in range(2))
        >>> stats = xarray.Dataset({"log_p": log_p, "log_q": log_q}, {"text": ["one", "two"]})
        >>> data = from_groups({"sample_stats": stats}, {})
        >>> ax = khats(data, ax=Figure().subplots())
        >>> sorted(label.get_text() for label in ax.get_yticklabels())
        ['one', 'two']
    """
    values, names = khats_of_texts(data, site)
    order = np.argsort(values)
    values, names = values[order], [names[index] for index in order]
    named = len(values) <= NAMED
    ax = new_axes(7.0 if named else 5.2, 1.2 + 0.22 * len(values) if named else 3.8)[0] if ax is None else ax
    grades = (values >= GOOD).astype(int) + (values > USABLE)
    for marker, here in (("o", values <= LARGEST), (">", values > LARGEST)):
        colors = [GRADES[grade][0] for grade in grades[here]]
        shown = np.minimum(values[here], LARGEST)
        ax.scatter(shown, np.flatnonzero(here), s=28 if named else 10, c=colors, marker=marker, zorder=3)
    draw_scale(ax, site)
    for grade, (color, label) in enumerate(GRADES):
        ax.scatter([], [], s=28, color=color, label=f"{label}: {(grades == grade).sum()}")
    if named:
        labels = [_short(name) for name in names]
        ax.set_yticks(range(len(values)), labels, fontsize="small", **WORDS)
        ax.set_ylim(-0.7, len(values) - 0.3)
    else:
        ax.set_ylabel("texts, sorted")
    ax.set_xlim(min(0.0, values.min() - 0.1), max(1.0, min(values.max(), LARGEST) + 0.1))
    ax.legend(
        fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=1.6, ncols=3
    )
    return plain(ax)


def draw_scale(ax: Axes, site: str | None) -> None:
    """Name the axis of k-hat, and draw the lines between its grades, with their numbers on their outer sides."""
    ax.set_xlabel("Pareto k-hat" if site is None else f"Pareto k-hat of {site}")
    for limit, label, side in ((GOOD, f"good < {GOOD:g}", "right"), (USABLE, f"{USABLE:g} < unreliable", "left")):
        ax.axvline(limit, color=FRAME, linestyle="--", linewidth=1)
        ax.annotate(
            label, (limit, 1.0), (0, 3), xycoords=ax.get_xaxis_transform(), textcoords="offset points", ha=side,
            fontsize="small", color=INK,
        )  # fmt: skip


def khats_of_texts(data: ArviZData, site: str | None) -> tuple[Float[np.ndarray, " texts"], list[str]]:
    """The k-hat of each text, and the texts.

    Raises:
        ValueError: As :func:`khats`.
    """
    result = khat(data, site)
    if not result.dims:
        raise ValueError(f"all latents are global, so there is a single k-hat, {float(result):.2f}: print it.")
    return result.values, [str(text) for text in result["text"].values]


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
