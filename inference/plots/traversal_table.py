"""Table of a latent traversal."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from ..generation.decoding import Decoding
from ..generation.generate import GREEDY
from ..generation.traversal import VALUES, Traversal, traverse
from ..run import Run
from ..runs.fitted import check_run
from .style import GRAY, INK
from .text_table import Row, text_table

__all__ = ["traversal", "traversal_table"]


def traversal(
    run: Run,
    text: str,
    latent: int = 1,
    dimension: int | None = None,
    values: Sequence[float] = VALUES,
    *,
    ax: Axes | None = None,
    decoding: Decoding = GREEDY,
    seed: int = 0,
    condition: str | int | None = None,
) -> Axes:
    """Draw a table of the texts decoded with one entry of a latent at several values.

    The bold row has the entry at its posterior mean. Texts that equal the one above are gray.

    Arguments:
        run: A run whose posterior has moments, such as one of a DELLA or a VAE.
        text: The text to encode.
        latent: Index of the latent, from 1: of a DELLA the layer, from below; of a VAE the token.
        dimension: Index of the entry, from 0; by default the one with the smallest posterior variance.
        values: Values of the entry.
        ax: Matplotlib axes; by default those of a new figure, as high as the table.
        decoding: Decoding strategy; greedy by default.
        seed: Random seed of the sampled tokens.
        condition: The condition of the text, if the run was trained on pairs.

    Raises:
        ValueError: If the posterior has no moments, the latent or entry does not exist, there are no values, or the
            text is longer than the model's max_length.

    Examples:
        >>> from matplotlib.figure import Figure
        >>> model = pf.DELLA.for_corpus(run.corpus, width=16, layers=2, heads=2)
        >>> layered = pf.fit(model, pf.DELLAGuide(model), run.corpus, steps=1)
        >>> ax = traversal(layered, "The food was good.", latent=1, values=[-3.0, 3.0], ax=Figure().subplots())
        >>> len(ax.texts[1::2])  # both values, and the mean
        3
    """
    check_run(run)
    result = traverse(run, text, latent, dimension, values, decoding=decoding, seed=seed, condition=condition)
    return traversal_table(result, ax=ax)


def traversal_table(result: Traversal, *, ax: Axes | None = None) -> Axes:
    """Draw a result of :func:`~pyroformer.inference.generation.traversal.traverse`."""
    rows, above = [], None
    for value, text, at_mean in result.rows():
        weight, color = ("bold" if at_mean else "normal"), (GRAY if text == above and not at_mean else INK)
        rows.append(Row(f"{value:+.2f}".replace("-", "−"), text, weight, weight, color))
        above = text
    return text_table(rows, f"latent {result.latent}, entry {result.dimension}", ax=ax)
