"""Numbers about texts and weights: rates and their errors, perplexity, BLEU, and how many components are in use."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .report import Estimate

__all__ = ["bleu", "count_for_mass", "effective_components", "perplexity", "ratio"]

LARGEST_PERPLEXITY = 1e9  # beyond it a number says nothing


def ratio(values: Float[np.ndarray, " n"], counts: Float[np.ndarray, " n"] | None = None) -> Estimate:
    r"""A rate over texts and its standard error, which a single text does not have.

    .. math::
        r = \frac{\sum_i v_i}{\sum_i c_i}, \qquad
        \mathrm{se}^2 = \frac{n}{n - 1} \frac{\sum_i (v_i - r c_i)^2}{(\sum_i c_i)^2}

    Arguments:
        values: What each text adds, with shape :math:`(n)`.
        counts: What it is counted over, such as its tokens; 1 for each text if None.

    Examples:
        >>> ratio(np.array([1.0, 3.0]))
        Estimate(value=2.0, error=1.0)
    """
    counts = np.ones_like(values) if counts is None else counts
    n, total = len(values), float(counts.sum())
    if not total > 0:
        return Estimate(None)
    rate = float(values.sum()) / total
    if n == 1:
        return Estimate(rate)
    return Estimate(rate, math.sqrt(n / (n - 1) * float(np.square(values - rate * counts).sum())) / total)


def perplexity(nats_per_token: Estimate) -> Estimate:
    """The exponential of a rate, without a value where it is too large to mean anything.

    Examples:
        >>> perplexity(Estimate(0.0, 0.1)), perplexity(Estimate(1000.0))
        (Estimate(value=1.0, error=0.1), Estimate(value=None, error=None))
    """
    rate, error = nats_per_token
    if rate is None or not rate <= math.log(LARGEST_PERPLEXITY):
        return Estimate(None)
    return Estimate(math.exp(rate), None if error is None else math.exp(rate) * error)


def bleu(written: Sequence[str], originals: Sequence[str]) -> float | None:
    """Corpus BLEU from 0 to 100 by sacrebleu in its standard setting; None without texts.

    References:
        A Call for Clarity in Reporting BLEU Scores (Post, 2018), https://arxiv.org/abs/1804.08771

    Examples:
        >>> round(bleu(["the cat sat on the mat"], ["the cat sat on the mat"]), 1)
        100.0
    """
    from sacrebleu.metrics.bleu import BLEU  # slow to import

    if not written:
        return None
    # force: that texts end in a full stop is no sign of their being tokenized
    return float(BLEU(force=True).corpus_score(list(written), [list(originals)]).score)


def effective_components(log_weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    r"""The exponential of the entropy of weights: how many equal ones would be as spread out.

    Examples:
        >>> effective_components(torch.tensor([0.5, 0.5, 0.0]).log())
        tensor(2.)
    """
    weights = log_weights.exp()
    return torch.where(weights > 0, -weights * log_weights, 0).sum(-1).exp()


def count_for_mass(shares: Float[Tensor, "*batch n"], part: float = 0.99) -> Int[Tensor, "*batch"]:
    """The fewest components that together hold a part of the whole.

    Examples:
        >>> count_for_mass(torch.tensor([0.5, 0.0, 0.495, 0.005]))
        tensor(2)
    """
    descending = shares.double().sort(-1, descending=True).values
    before = descending.cumsum(-1) - descending
    return (before < (part - 1e-6) * descending.sum(-1, keepdim=True)).sum(-1)
