"""Colors, axes and text of the plots."""

from collections.abc import Iterable
from functools import cache
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import ColorType

__all__ = [
    "COLORS",
    "DEPTHS",
    "FAMILIES",
    "FRAME",
    "GRAY",
    "INK",
    "SHADES",
    "WORDS",
    "depth_shade",
    "drawable",
    "new_axes",
    "over_steps",
    "panels",
    "plain",
    "printable",
    "shade_limit",
]

INK = "#16202b"
FRAME = "#9aa5b1"
GRAY = "#7b8794"  # of what is beside the point: a prior, replicated texts, a text that another row has too

# Colors of Okabe and Ito, safe for color-blind readers, ordered so that neighbors differ in lightness too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")

# White to a middle blue, light enough for dark text: the contrast with INK is at least 5 : 1 everywhere.
SHADES: Colormap = LinearSegmentedColormap.from_list("pyroformer_shades", ["#ffffff", "#c6def3", "#5ba4d8"])

# The same and on to a dark blue, for cells without text.
DEPTHS: Colormap = LinearSegmentedColormap.from_list("pyroformer_depths", ["#ffffff", "#a9cfec", "#2f7fbf", "#08264a"])


# Fonts of texts: matplotlib's own, and what this machine has for the letters that it lacks.
_OTHERS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans JP",
    "Noto Sans SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
)
FAMILIES = ["DejaVu Sans", *sorted({font.name for font in fontManager.ttflist} & {*_OTHERS}, key=_OTHERS.index)]
WORDS: dict[str, Any] = {"parse_math": False, "family": FAMILIES}  # options of matplotlib for words of texts
MISSING = "□"  # in place of a letter that no font has


def depth_shade(index: int, count: int) -> ColorType:
    """The color of a layer, from 0: darker for higher ones, and in the middle for a single one."""
    return DEPTHS(0.35 + 0.65 * (index / (count - 1) if count > 1 else 0.5))


def shade_limit(weights: Iterable[float]) -> float:
    """The weight of a text's darkest shade: the largest, or twice the mean, so that equal weights are in the middle.

    Examples:
        >>> shade_limit([0.75, 0.25]), shade_limit([0.25] * 4), shade_limit([0.875, 0.0625, 0.0625])
        (1.0, 0.5, 0.875)
    """
    each = [*weights]
    return max(*each, 2 * sum(each) / len(each)) or 1.0


def new_axes(width: float, height: float, columns: int = 1, rows: int = 1) -> list[Axes]:
    """The axes of a new pyplot figure, row by row; its size is in inches."""
    import matplotlib.pyplot as plt  # here, since its import selects a backend

    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    return list(axes.flat)


def panels(axes: Iterable[Axes] | None, count: int, width: float, height: float) -> list[Axes]:
    """The first ``count`` of some axes, or those of a new figure with panels of this size, at most four in a row.

    Raises:
        ValueError: If there are fewer.
    """
    if axes is None:
        columns = min(count, 4)
        rows = ceil(count / columns)
        drawn = new_axes(width * columns, height * rows, columns, rows)
        for ax in drawn[count:]:
            ax.set_axis_off()
        return drawn[:count]
    given = list(axes)
    if len(given) < count:
        raise ValueError(f"there are {len(given)} axes for {count} panels: give {count}, or none.")
    return given[:count]


def over_steps(ax: Axes) -> None:
    """Label axes with nats per token over the steps of a training."""
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set(xlabel="step", ylabel="nats per token")


def plain(ax: Axes, title: str | None = None) -> Axes:
    """Add a faint grid to axes, remove the top and right spines, and set a title on the left."""
    if title is not None:
        ax.set_title(title, loc="left", fontsize="medium", color=INK)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def printable(piece: str) -> str:
    r"""The text of a token with white space and control characters made visible, as far as fonts have its letters.

    Examples:
        >>> printable("a\n b\t"), printable(" "), printable("\x07")
        ('a↵ b⇥', '␣', '\\x07')
    """
    if piece.isspace() and set(piece) == {" "}:
        return "␣" * len(piece)
    text = piece.replace("\n", "↵").replace("\t", "⇥")
    return drawable(
        "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    )


def drawable(text: str) -> str:
    """A text with a box in place of each letter that no font has, instead of matplotlib's warning and its own box.

    Examples:
        >>> drawable("Größe, δ ≤ 1"), drawable("\U00013000 is Egyptian")
        ('Größe, δ ≤ 1', '□ is Egyptian')
    """
    known = _letters()
    return "".join(letter if ord(letter) in known or letter == "\n" else MISSING for letter in text)


@cache
def _letters() -> frozenset[int]:
    """The letters of all fonts in ``FAMILIES``."""
    fonts = [get_font(findfont(FontProperties(family=family))) for family in FAMILIES]
    return frozenset(code for font in fonts for code in font.get_charmap())
