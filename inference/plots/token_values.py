"""Table of a number for each token of a text, under several names."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from torch import Tensor

from .style import FAMILIES, INK, SHADES, new_axes, printable

__all__ = ["token_values"]

CELL, ROW = 0.62, 0.42  # width and height of a cell of a new figure, in inches
SPREAD = 20  # ratio of values above which shades are logarithmic


def token_values(
    pieces: Sequence[str],
    values: Mapping[str, Float[Tensor, " n"] | Float[np.ndarray, " n"]],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw a table with a column for each token and a row for each name, darker where a value is larger.

    The values may be anything that tokens have: nats of information, log-likelihoods, weights. Shades are logarithmic
    if positive values differ by more than a factor of twenty.

    Arguments:
        pieces: The tokens, such as those of ``run.tokenizer.pieces(text)``.
        values: A row of numbers by its name, one number for each token.
        ax: Matplotlib axes; by default those of a new figure.

    Raises:
        ValueError: If there are no values, or the numbers of a row are not as many as the tokens.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> ax = token_values(["a", " text"], {"beta 1": torch.tensor([3.0, 250.0])}, ax=Figure().subplots())
        >>> [text.get_text() for text in ax.texts]
        ['3.0', '250']
    """
    if not isinstance(values, Mapping) or not values or not pieces:
        found = f"values are {values!r:.40} for {len(pieces)} tokens"
        raise ValueError(f"{found}: give rows of numbers by name, and tokens.")
    table = {name: _row(name, row, len(pieces)) for name, row in values.items()}
    cells = np.stack([*table.values()])
    ax = new_axes(1.2 + CELL * len(pieces), 0.7 + ROW * len(table))[0] if ax is None else ax
    ax.imshow(cells, cmap=SHADES, norm=_norm(cells), aspect="auto")
    for row, column in np.ndindex(*cells.shape):
        ax.text(column, row, _number(float(cells[row, column])), ha="center", va="center", fontsize="small", color=INK)
    ax.set_xticks(range(len(pieces)), map(printable, pieces), fontsize="small", parse_math=False, family=FAMILIES)
    ax.set_yticks(range(len(table)), map(printable, table), fontsize="small", parse_math=False, family=FAMILIES)
    ax.tick_params(length=0, labelcolor=INK)
    ax.spines[:].set_visible(False)
    return ax


def _row(name: str, row: object, tokens: int) -> Float[np.ndarray, " n"]:
    """The numbers of a row; NaN stands for none."""
    try:
        numbers = np.asarray(row.detach().cpu().double() if isinstance(row, Tensor) else row, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name!r} is {row!r:.60}: give a number for each token.") from None
    if numbers.shape != (tokens,):
        raise ValueError(f"{name!r} has shape {numbers.shape} for {tokens} tokens: give one number for each.")
    return numbers


def _norm(cells: Float[np.ndarray, "r n"]) -> Normalize:
    finite = cells[np.isfinite(cells)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return LogNorm(low, high) if low > 0 and high > SPREAD * low else Normalize(min(low, 0.0), high)


def _number(value: float) -> str:
    """Two or three digits; none after the point from 10 on.

    Examples:
        >>> _number(643.2), _number(8.61), _number(0.043)
        ('643', '8.6', '0.043')
    """
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
