"""Which of two models is better, on texts that neither has seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..evaluation.evaluate import text_bounds
from ..run import Run

__all__ = ["Comparison", "compare"]


class Comparison(NamedTuple):
    r"""How much more probable one model finds held-out texts than another.

    ``difference`` is the mean of :math:`\log p_1(x) - \log p_2(x)` in nats per text, each an importance-weighted lower
    bound, with its paired standard error; ``each`` has the texts' own.
    """

    difference: float
    error: float
    each: np.ndarray


def compare(first: Run, second: Run, texts: Sequence[str], num_particles: int = 64, *, seed: int = 0) -> Comparison:
    r"""Compare two runs on held-out texts by their importance-weighted bounds of log p(x), text by text.

    Where a latent is a text's own, as in every model here, leaving the text out leaves its latent without data, so that
    leave-one-out by importance sampling (PSIS-LOO) means nothing; held-out texts do.

    Arguments:
        first: A run.
        second: Another, of any model and any tokenizer: texts are compared, not tokens.
        texts: Texts that neither was trained on.
        num_particles: Draws of the bound; one with more is tighter, so both take the same.
        seed: Of the draws.

    Raises:
        ValueError: If there are fewer than two texts, or one does not fit a max_length.
    """
    if len(texts) < 2:
        raise ValueError(f"there are {len(texts)} texts: a standard error needs at least 2.")
    each = (
        text_bounds(first, texts, num_particles, seed=seed) - text_bounds(second, texts, num_particles, seed=seed)
    ).numpy()
    return Comparison(float(each.mean()), float(each.std(ddof=1) / len(texts) ** 0.5), each)
