r"""Is the guide good enough, and which model is better: diagnostics that mean something for variational posteriors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .arviz_versions import dataset, pareto_smoothed
from .evaluation import text_bounds
from .run import Run

__all__ = ["Comparison", "compare", "khat"]

LEAST_DRAWS = 25  # with fewer there is no tail to speak of


def khat(data: Any, site: str | None = None) -> Any:
    r"""Pareto k-hat of the importance weights :math:`\log p(x, z) - \log q(z \mid x)`, for each text.

    Below 0.5 the guide is close to the posterior, up to 0.7 its errors can be corrected by weights, above it is off. It
    grows with the number of dimensions. That of a single site compares its law in the guide with its prior, the text
    left out: it says how far the text moves a site, not how good the guide is.

    Arguments:
        data: What :func:`~.posterior.posterior` or :func:`~.posterior.to_arviz` made.
        site: A latent site, or None for all of them with the text.

    Returns:
        An :class:`xarray.DataArray` over texts.

    Raises:
        ValueError: If the data has no densities, no such site or one that all texts share, or fewer than 25 draws.

    References:
        Yes, but Did It Work? Evaluating Variational Inference (Yao et al., 2018), https://arxiv.org/abs/1802.02538
    """
    import xarray

    stats = dataset(data, "sample_stats")
    suffix = "" if site is None else f"_{site}"
    if f"log_q{suffix}" not in stats:
        known = sorted(name.removeprefix("log_q_") for name in stats if str(name).startswith("log_q_"))
        raise ValueError(f"there is no latent site {site!r}: choose among {', '.join(known)}.")
    if "text" not in stats[f"log_q{suffix}"].dims:
        raise ValueError(f"the site {site!r} belongs to all texts: k-hat is one of a text's own latents, or of all.")
    weights = (stats[f"log_p{suffix}"] - stats[f"log_q{suffix}"]).stack(one=("chain", "draw")).transpose("text", "one")
    if weights.sizes["one"] < LEAST_DRAWS:
        raise ValueError(
            f"there are {weights.sizes['one']} draws: k-hat needs at least {LEAST_DRAWS}, better some hundred."
        )
    shapes = [pareto_smoothed(row)[1] for row in weights.values]
    return xarray.DataArray(np.array(shapes), dims=("text",), coords={"text": stats["text"]}, name="khat")


class Comparison(NamedTuple):
    r"""How much more probable one model finds held-out texts than another.

    ``difference`` is the mean of :math:`\log p_1(x) - \log p_2(x)` in nats per text, each an importance-weighted lower
    bound, with its paired standard error; ``each`` has the texts' own.
    """

    difference: float
    error: float
    each: np.ndarray


def compare(first: Run, second: Run, texts: Sequence[str], particles: int = 64, *, seed: int = 0) -> Comparison:
    r"""Compare two runs on held-out texts by their importance-weighted bounds of log p(x), text by text.

    Where a latent is a text's own, as in every model here, leaving the text out leaves its latent without data, so that
    leave-one-out by importance sampling (PSIS-LOO) means nothing; held-out texts do.

    Arguments:
        first: A run.
        second: Another, of any model and any tokenizer: texts are compared, not tokens.
        texts: Texts that neither was trained on.
        particles: Draws of the bound; one with more is tighter, so both take the same.
        seed: Of the draws.

    Raises:
        ValueError: If there are fewer than two texts, or one does not fit a window.
    """
    if len(texts) < 2:
        raise ValueError(f"there are {len(texts)} texts: a standard error needs at least 2.")
    each = (text_bounds(first, texts, particles, seed=seed) - text_bounds(second, texts, particles, seed=seed)).numpy()
    return Comparison(float(each.mean()), float(each.std(ddof=1) / len(texts) ** 0.5), each)
