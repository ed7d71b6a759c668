"""Axes of a figure that pyplot does not keep, and the words on them."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def own_axes(size: tuple[float, float] = (6, 4)) -> Axes:
    return Figure(size).subplots()


def labels(ax: Axes) -> list[str]:
    return [str(text.get_text()) for text in ax.get_legend().get_texts()]


def words(ax: Axes) -> list[str]:
    return [str(text.get_text()) for text in ax.texts]
