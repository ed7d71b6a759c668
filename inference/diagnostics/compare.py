"""Comparison of two models on held-out texts."""

from html import escape
from typing import NamedTuple

import numpy as np

from ..data.entries import Conditions, TextSource
from ..data.pairs import unzip_pairs
from ..evaluation.evaluate import text_bounds
from ..run import Run

__all__ = ["Comparison", "compare"]


class Comparison(NamedTuple):
    r"""Difference of two models' log-likelihoods of held-out texts.

    Arguments:
        difference: Mean of :math:`\log p_1(x) - \log p_2(x)` in nats per text, both importance-weighted lower bounds.
        error: Its paired standard error.
        each: The difference of each text.

    Examples:
        >>> Comparison(3.0, 0.5, np.array([2.0, 4.0]))
        Comparison(3.00 ± 0.50 nats a text over 2 texts: the first is better)
    """

    difference: float
    error: float
    each: np.ndarray

    def __repr__(self) -> str:
        better = f"the {'first' if self.difference > 0 else 'second'} is better"
        verdict = better if abs(self.difference) > 2 * self.error else "no difference beyond two standard errors"
        difference = f"{self.difference:,.2f} ± {self.error:,.2f} nats a text"
        return f"Comparison({difference} over {len(self.each):,} texts: {verdict})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>"


def compare(
    first: Run,
    second: Run,
    texts: TextSource,
    num_particles: int = 64,
    *,
    conditions: Conditions | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Comparison:
    r"""Compare two runs on held-out texts by their importance-weighted bounds of log p(x), text by text.

    This replaces leave-one-out by importance sampling (PSIS-LOO), which is invalid for latents that are local to a
    text: without the text, its latent has no data.

    Arguments:
        first: A run.
        second: Another run, of any model and any tokenizer: log-likelihoods are compared per text, not per token.
        texts: Texts that neither run was trained on; pairs (condition, text) for runs that were trained on pairs.
        num_particles: Number of posterior draws of both bounds; the bound becomes tighter with more.
        conditions: The condition of each text, in place of pairs.
        seed: Random seed of the draws.
        progress: Whether to show progress bars on standard error; by default in a terminal and in notebooks.

    Raises:
        ValueError: If there are fewer than two texts, one is longer than a model's max_length, or conditions are
            missing, superfluous or given twice.

    Examples:
        >>> compare(run, run, ["The food was good.", "The room was bad."], num_particles=2)
        Comparison(0.00 ± 0.00 nats a text over 2 texts: no difference beyond two standard errors)
    """
    texts, paired = unzip_pairs([texts] if isinstance(texts, str) else texts)
    if paired is not None and conditions is not None:
        raise ValueError("the texts are pairs with a condition each: leave conditions out.")
    if len(texts) < 2:
        raise ValueError(f"there are {len(texts)} texts: a standard error needs at least 2.")
    given = conditions if paired is None else paired
    one, other = (
        text_bounds(run, texts, num_particles, conditions=given, seed=seed, progress=progress)
        for run in (first, second)
    )
    each = (one - other).numpy()
    return Comparison(float(each.mean()), float(each.std(ddof=1) / len(texts) ** 0.5), each)
