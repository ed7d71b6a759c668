"""N-gram statistics of a set of texts: distinct and repeated n-grams, similarity of texts, divergence from references.

Words are what white space separates, with their case and punctuation. A statistic that the texts do not have, such as
the similarity of a single text, is ``Estimate(None)``. Most of these numbers change with the amount of text: compare
numbers over the same amount.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ...models.utils.numbers import check_at_least
from .estimates import Estimate, ratio
from .ngrams import NGram, ngrams_of, read_ngrams, split, subsample

__all__ = ["Distinct", "Divergence", "Jaccard", "distinct", "jaccard", "ngram_divergence", "repetition"]


class Distinct(NamedTuple):
    """The share of n-grams that are distinct, and the number of n-grams."""

    share: Estimate
    ngrams: int


class Divergence(NamedTuple):
    """A divergence, and the number of n-grams of each set."""

    nats: Estimate
    ngrams: int
    reference_ngrams: int


class Jaccard(NamedTuple):
    """The mean similarity of two texts, and of a text and its nearest neighbor."""

    mean: Estimate
    nearest: Estimate


def distinct(texts: Sequence[str], n: int, ngrams: int | None = None, seed: int = 0) -> Distinct:
    r"""The share of n-grams that are distinct, over all texts together: lower is more repetitive.

    .. math::
        \frac{|\{ g \}|}{N}

    It falls with :math:`N`, the number of n-grams, also for texts that are all equally varied: give ``ngrams`` to
    compare sets of different sizes. Whole texts are then read in a random order and the last is cut, which keeps
    repetitions inside a text. The standard error is a jackknife's over texts.

    Arguments:
        texts: Those with fewer than ``n`` words have no n-grams.
        n: The number of words of an n-gram.
        ngrams: :math:`N`, the number of n-grams that are read; all if None or where there are fewer.
        seed: Random seed of the order.

    Raises:
        ValueError: If ``n`` or ``ngrams`` is below 1.

    References:
        A Diversity-Promoting Objective Function for Neural Conversation Models (Li et al., 2016),
        https://arxiv.org/abs/1510.03055

    Examples:
        >>> (share, error), ngrams = distinct(["so so so", "not so good"], n=1)
        >>> share, round(error, 3), ngrams
        (0.5, 0.333, 6)
    """
    rows = read_ngrams(texts, n, ngrams, seed)
    if not rows:
        return Distinct(Estimate(None), 0)
    sets = [set(row) for row in rows]
    holders = Counter(chain.from_iterable(sets))
    sizes = np.array([len(row) for row in rows])
    alone = np.array([sum(holders[gram] == 1 for gram in own) for own in sets])
    total = int(sizes.sum())
    share = len(holders) / total
    if len(rows) == 1:
        return Distinct(Estimate(share), total)
    return Distinct(Estimate(share, _jackknife((len(holders) - alone) / (total - sizes))), total)


def repetition(texts: Sequence[str], n: int) -> Estimate:
    r"""The share of n-grams that occurred before in the same text.

    .. math::
        1 - \frac{\sum_i |\{ g \in x_i \}|}{\sum_i N_i}

    Arguments:
        texts: Those with fewer than ``n`` words have no n-grams.
        n: The number of words of an n-gram.

    Raises:
        ValueError: If ``n`` is below 1.

    Examples:
        >>> repetition(["so so so good", "not so good"], n=1).value
        0.2857142857142857
    """
    rows = read_ngrams(texts, n)
    again = np.array([len(row) - len(set(row)) for row in rows], dtype=float)
    return ratio(again, np.array([len(row) for row in rows], dtype=float))


def jaccard(texts: Sequence[str], n: int, sample: int = 500, seed: int = 0) -> Jaccard:
    r"""The share of n-grams that two texts have in common: the mean over pairs, and over texts with their nearest.

    .. math::
        J_{ij} = \frac{|G_i \cap G_j|}{|G_i \cup G_j|}, \qquad
        \frac{1}{m (m - 1)} \sum_{i \neq j} J_{ij}, \qquad \frac{1}{m} \sum_i \max_{j \neq i} J_{ij}

    with the set :math:`G_i` of the n-grams of text :math:`i`. More texts raise the second mean, but not the first.
    Standard errors are a jackknife's over texts.

    Arguments:
        texts: At least two with ``n`` words or more; the others have no n-grams and are left out.
        n: The number of words of an n-gram.
        sample: :math:`m`, the number of texts that are drawn; all where there are fewer.
        seed: Random seed of the draw.

    Raises:
        ValueError: If ``n`` is below 1, or ``sample`` below 2.

    Examples:
        >>> mean, nearest = jaccard(["a red rose", "a red sky", "over"], n=1)
        >>> round(mean.value, 3), round(nearest.value, 3)
        (0.167, 0.333)
    """
    check_at_least(1, n=n)
    check_at_least(2, sample=sample)
    rows = subsample(split(texts, shortest=n), sample, seed)
    m = len(rows)
    if m < 2:
        return Jaccard(Estimate(None), Estimate(None))
    similarity = _similarities([set(ngrams_of(words, n)) for words in rows])
    sums, (second, first) = similarity.sum(0), np.partition(similarity, m - 2, axis=0)[-2:]
    mean, nearest = float(sums.sum()) / (m * (m - 1)), float(first.mean())
    if m == 2:  # no pair is left without one of them
        return Jaccard(Estimate(mean), Estimate(nearest))
    # without a text, those that it was nearest to fall back on their second nearest
    fall = np.bincount(similarity.argmax(0), weights=first - second, minlength=m)
    mean_without = (sums.sum() - 2 * sums) / ((m - 1) * (m - 2))
    nearest_without = (first.sum() - first - fall) / (m - 1)
    return Jaccard(Estimate(mean, _jackknife(mean_without)), Estimate(nearest, _jackknife(nearest_without)))


def ngram_divergence(
    texts: Sequence[str], references: Sequence[str], n: int, ngrams: int | None = None, seed: int = 0
) -> Divergence:
    r"""The Jensen-Shannon divergence between the n-grams of two sets of texts, from 0 to :math:`\ln 2` nats.

    .. math::
        \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(q \,\|\, m), \qquad m = \tfrac12 (p + q)

    with the relative frequencies :math:`p, q` of the n-grams. Two samples of one distribution differ too, the more the
    smaller they are: compare numbers for the same amounts of text. For that reason it comes without a standard error,
    which would not include this bias.

    Arguments:
        texts: One set of texts; texts with fewer than ``n`` words have no n-grams.
        references: The other set.
        n: The number of words of an n-gram.
        ngrams: The number that is read of each set, as in :func:`distinct`; all if None or where there are fewer.
        seed: Random seed of the order in which texts are read.

    Raises:
        ValueError: If ``n`` or ``ngrams`` is below 1.

    References:
        Divergence Measures Based on the Shannon Entropy (Lin, 1991), https://doi.org/10.1109/18.61115

    Examples:
        >>> round(ngram_divergence(["a b"], ["b c"], n=1).nats.value / math.log(2), 3)
        0.5
    """
    ours, theirs = (Counter(chain.from_iterable(read_ngrams(some, n, ngrams, seed))) for some in (texts, references))
    sizes = ours.total(), theirs.total()
    if not all(sizes):
        return Divergence(Estimate(None), *sizes)
    either = list(ours | theirs)
    p, q = (np.array([counts[gram] for gram in either]) / counts.total() for counts in (ours, theirs))
    middle = (p + q) / 2
    nats = (_kl(p, middle) + _kl(q, middle)) / 2
    return Divergence(Estimate(min(max(nats, 0.0), math.log(2))), *sizes)


def _similarities(sets: Sequence[set[NGram]]) -> Float[np.ndarray, "m m"]:
    """The Jaccard similarity of each two sets, 0 on the diagonal."""
    holders_of: dict[NGram, list[int]] = {}
    for i, own in enumerate(sets):
        for gram in own:
            holders_of.setdefault(gram, []).append(i)
    shared = np.zeros((len(sets), len(sets)))
    for holders in holders_of.values():
        shared[np.ix_(holders, holders)] += 1
    sizes = shared.diagonal()
    similarity = shared / (sizes[:, None] + sizes - shared)
    np.fill_diagonal(similarity, 0)
    return similarity


def _jackknife(without: Float[np.ndarray, " m"]) -> float:
    """The standard error of a number from its values without each text."""
    return math.sqrt((1 - 1 / len(without)) * float(np.square(without - without.mean()).sum()))


def _kl(p: Float[np.ndarray, " v"], q: Float[np.ndarray, " v"]) -> float:
    seen = p > 0
    return float(p[seen] @ np.log(p[seen] / q[seen]))
