"""Numbers about a set of texts: how alike they are, how they repeat themselves, how like real ones they are.

Words are what white space separates, with their case and punctuation. What the texts cannot give, such as a pair of
one text, is a ``Estimate(None)``; an option that means nothing, such as n-grams of no words, is a ValueError. Most of
these numbers change with the amount of text: only those taken over as much of it compare.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .metrics import ratio
from .ngrams import NGram, drawn, largest, ngrams_of, ngrams_up_to, read, second_largest, split
from .report import Estimate, Metric

__all__ = [
    "SMOOTHING",
    "Distinct",
    "Divergence",
    "Jaccard",
    "distinct",
    "diversity",
    "jaccard",
    "ngram_divergence",
    "reference_bleu",
    "repetition",
    "self_bleu",
]

SMOOTHING = "exp"  # sacrebleu's name: the k-th order of n-grams that match nothing counts as 1 / 2^k matches


class Distinct(NamedTuple):
    """The share of n-grams that are distinct, and the number of n-grams that it is a share of."""

    share: Estimate
    ngrams: int


class Divergence(NamedTuple):
    """A divergence, and how many n-grams of each set it was measured on."""

    nats: Estimate
    ngrams: int
    reference_ngrams: int


class Jaccard(NamedTuple):
    """The similarity of two texts on average, and that of a text and the one nearest to it."""

    mean: Estimate
    nearest: Estimate


def self_bleu(texts: Sequence[str], n: int = 4, sample: int = 500, seed: int = 0) -> Estimate:
    r"""The mean BLEU of each text with all others as its references, from 0 to 100: lower is more diverse.

    .. math::
        \frac{1}{m} \sum_{i=1}^m \mathrm{BLEU}_n(x_i, \{ x_j : j \neq i \})

    It rises with :math:`m`. BLEU is that of sacrebleu for sentences: "exp" smoothing, brevity penalty by the closest
    length, no orders of n-grams longer than the text. The standard error takes each text's references as given.

    Arguments:
        texts: At least two. Those without words are left out: they are like no other and would pass as diverse.
        n: The words of the longest n-grams.
        sample: :math:`m`, how many texts are drawn; all where there are fewer.
        seed: Of the draw.

    Raises:
        ValueError: If ``n`` is below 1, or ``sample`` below 2.

    References:
        Texygen: A Benchmarking Platform for Text Generation Models (Zhu et al., 2018),
        https://arxiv.org/abs/1802.01886

    Examples:
        >>> round(self_bleu(["a red rose", "a red rose", "blue sky"]).value, 1)
        66.7
    """
    _at_least(1, n=n)
    _at_least(2, sample=sample)
    rows = drawn(split(texts, shortest=1), sample, seed)
    if len(rows) < 2:
        return Estimate(None)
    counts = [ngrams_up_to(words, n) for words in rows]
    lengths = Counter(map(len, rows))
    closest = [_closest(len(words), lengths - Counter([len(words)])) for words in rows]
    return _mean_bleu(counts, second_largest(counts), closest, n)


def reference_bleu(
    texts: Sequence[str], references: Sequence[str], n: int = 4, sample: int = 500, seed: int = 0
) -> Estimate:
    r"""The mean BLEU of each text with all references, from 0 to 100: how much of the texts real ones say too.

    .. math::
        \frac{1}{m} \sum_{i=1}^m \mathrm{BLEU}_n(x_i, \{ r_1, \dots, r_R \})

    It rises with :math:`R`. BLEU is that of :func:`self_bleu`; a text without words scores 0.

    Arguments:
        texts: What is judged.
        references: What it is held against, all of them.
        n: The words of the longest n-grams.
        sample: :math:`m`, how many texts are drawn; all where there are fewer.
        seed: Of the draw.

    Raises:
        ValueError: If ``n`` or ``sample`` is below 1.

    Examples:
        >>> round(reference_bleu(["a red rose"], ["a red sky", "a red red rose"]).value, 1)
        79.4
    """
    _at_least(1, n=n, sample=sample)
    rows, right = drawn(split(texts), sample, seed), split(references)
    if not rows or not right:
        return Estimate(None)
    counts = [ngrams_up_to(words, n) for words in rows]
    lengths = set(map(len, right))
    closest = [_closest(len(words), lengths) for words in rows]
    wanted = set(chain.from_iterable(counts))
    return _mean_bleu(counts, largest((ngrams_up_to(words, n) for words in right), wanted), closest, n)


def distinct(texts: Sequence[str], n: int, ngrams: int | None = None, seed: int = 0) -> Distinct:
    r"""The share of n-grams that are distinct, over all texts together: lower is more repetitive.

    .. math::
        \frac{|\{ g \}|}{N}

    It falls with :math:`N`, the number of n-grams, also for texts that are all equally varied: give ``ngrams`` to
    compare sets of different sizes. Then whole texts are read in a random order and the last is cut, so that a text
    that repeats itself still does. The standard error is a jackknife's over texts.

    Arguments:
        texts: Those with fewer than ``n`` words have no n-grams.
        n: The words of an n-gram.
        ngrams: :math:`N`, how many are read; all if None or where there are fewer.
        seed: Of the order.

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
    _at_least(1, n=n, ngrams=ngrams)
    rows = read(texts, n, ngrams, seed)
    if not rows:
        return Distinct(Estimate(None), 0)
    sets = [set(row) for row in rows]
    holders = Counter(chain.from_iterable(sets))
    sizes = np.array([len(row) for row in rows])
    alone = np.array([sum(holders[gram] == 1 for gram in held) for held in sets])
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
        n: The words of an n-gram.

    Raises:
        ValueError: If ``n`` is below 1.

    Examples:
        >>> repetition(["so so so good", "not so good"], n=1).value
        0.2857142857142857
    """
    _at_least(1, n=n)
    rows = read(texts, n)
    again = np.array([len(row) - len(set(row)) for row in rows], dtype=float)
    return ratio(again, np.array([len(row) for row in rows], dtype=float))


def jaccard(texts: Sequence[str], n: int, sample: int = 500, seed: int = 0) -> Jaccard:
    r"""How many n-grams two texts share: the mean over pairs, and the mean over texts of the nearest other text.

    .. math::
        J_{ij} = \frac{|G_i \cap G_j|}{|G_i \cup G_j|}, \qquad
        \frac{1}{m (m - 1)} \sum_{i \neq j} J_{ij}, \qquad \frac{1}{m} \sum_i \max_{j \neq i} J_{ij}

    with the set :math:`G_i` of the n-grams of text :math:`i`. More texts raise the second mean, but not the first.
    Standard errors are a jackknife's over texts.

    Arguments:
        texts: At least two with ``n`` words or more; the others have no n-grams and are left out.
        n: The words of an n-gram.
        sample: :math:`m`, how many texts are drawn; all where there are fewer.
        seed: Of the draw.

    Raises:
        ValueError: If ``n`` is below 1, or ``sample`` below 2.

    Examples:
        >>> found = jaccard(["a red rose", "a red sky", "over"], n=1)
        >>> round(found.mean.value, 3), round(found.nearest.value, 3)
        (0.167, 0.333)
    """
    _at_least(1, n=n)
    _at_least(2, sample=sample)
    rows = drawn(split(texts, shortest=n), sample, seed)
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
    which would not hold this bias.

    Arguments:
        texts: One set; texts with fewer than ``n`` words have no n-grams.
        references: The other.
        n: The words of an n-gram.
        ngrams: How many are read of each set, as in :func:`distinct`; all if None or where there are fewer.
        seed: Of the order in which they are read.

    Raises:
        ValueError: If ``n`` or ``ngrams`` is below 1.

    References:
        Divergence Measures Based on the Shannon Entropy (Lin, 1991), https://doi.org/10.1109/18.61115

    Examples:
        >>> round(ngram_divergence(["a b"], ["b c"], n=1).nats.value / math.log(2), 3)
        0.5
    """
    _at_least(1, n=n, ngrams=ngrams)
    ours, theirs = (Counter(chain.from_iterable(read(some, n, ngrams, seed))) for some in (texts, references))
    sizes = ours.total(), theirs.total()
    if not all(sizes):
        return Divergence(Estimate(None), *sizes)
    either = list(ours | theirs)
    p, q = (np.array([held[gram] for gram in either]) / held.total() for held in (ours, theirs))
    middle = (p + q) / 2
    nats = (_kl(p, middle) + _kl(q, middle)) / 2
    return Divergence(Estimate(min(max(nats, 0.0), math.log(2))), *sizes)


def diversity(
    texts: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    bleu_order: int = 4,
    orders: Sequence[int] = (1, 2, 3),
    sample: int = 500,
    ngrams: int = 5_000,
    seed: int = 0,
) -> dict[str, Metric]:
    """Everything in this file as figures, whose labels say on how much text they were measured, and how.

    Arguments:
        texts: What a model wrote.
        references: Real texts to compare with; without them the two comparisons are left out.
        bleu_order: The words of the longest n-grams in BLEU.
        orders: The words of an n-gram in all else; each gets figures of its own.
        sample: How many texts are drawn for what compares texts.
        ngrams: How many n-grams are read for what falls with their number.
        seed: Of both.

    Raises:
        ValueError: If an order or ``ngrams`` is below 1, or ``sample`` below 2.

    Examples:
        >>> figures = diversity(["a red rose", "a red sky"], orders=[1])
        >>> for figure in figures.values():
        ...     print(figure.label)
        Self-BLEU-4 of 2 texts, exp smoothing, seed 0
        distinct 1-grams of 6, seed 0
        repeated 1-grams inside 2 texts
        Jaccard similarity of 1-grams, 2 texts, seed 0
    """
    lengths = [len(words) for words in split(texts)]
    drawn_with = {least: f"{min(sample, sum(x >= least for x in lengths)):,} texts" for least in (0, 1, *orders)}
    bleu = f"{SMOOTHING} smoothing, seed {seed}"
    label = f"Self-BLEU-{bleu_order} of {drawn_with[1]}, {bleu}"
    figures = {"self_bleu": Metric(label, {"of 100": self_bleu(texts, bleu_order, sample, seed)})}
    if references is not None:
        label = f"BLEU-{bleu_order} of {drawn_with[0]} against {len(references):,} references, {bleu}"
        score = reference_bleu(texts, references, bleu_order, sample, seed)
        figures["reference_bleu"] = Metric(label, {"of 100": score})
    for n in orders:
        share, number = distinct(texts, n, ngrams, seed)
        figures[f"distinct_{n}"] = Metric(f"distinct {n}-grams of {number:,}, seed {seed}", {"share": share})
    for n in orders:
        label = f"repeated {n}-grams inside {sum(x >= n for x in lengths):,} texts"
        figures[f"repetition_{n}"] = Metric(label, {"share": repetition(texts, n)})
    for n in orders:
        mean, nearest = jaccard(texts, n, sample, seed)
        label = f"Jaccard similarity of {n}-grams, {drawn_with[n]}, seed {seed}"
        figures[f"jaccard_{n}"] = Metric(label, {"over pairs": mean, "to the nearest": nearest})
    if references is None:
        return figures
    for n in orders:
        nats, number, of_references = ngram_divergence(texts, references, n, ngrams, seed)
        label = f"Jensen-Shannon divergence of {n}-grams, {number:,} against {of_references:,}, seed {seed}"
        figures[f"divergence_{n}"] = Metric(label, {"nats": nats})
    return figures


def _at_least(least: int, **sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and size < least:
            raise ValueError(f"{name} is {size}: give a whole number from {least}.")


def _closest(length: int, lengths: Iterable[int]) -> int:
    """The length that BLEU's brevity penalty compares with: of two that are equally close, the shorter."""
    return min(lengths, key=lambda other: (abs(other - length), other))


def _mean_bleu(counts: Sequence[Counter[NGram]], most: Mapping[NGram, int], closest: Sequence[int], n: int) -> Estimate:
    """The mean BLEU of sentences, in which an n-gram counts as right at most as often as ``most`` says."""
    from sacrebleu.metrics.bleu import BLEU  # slow to import

    scores = []
    for own, length in zip(counts, closest, strict=True):
        right, total = [0] * n, [0] * n
        for gram, count in own.items():
            total[len(gram) - 1] += count
            right[len(gram) - 1] += min(count, most[gram])
        found = BLEU.compute_bleu(
            right, total, total[0], length, smooth_method=SMOOTHING, effective_order=True, max_ngram_order=n
        )
        scores.append(float(found.score))
    return ratio(np.array(scores))


def _similarities(sets: Sequence[set[NGram]]) -> Float[np.ndarray, "m m"]:
    """The Jaccard similarity of each two sets, 0 on the diagonal."""
    held_by: dict[NGram, list[int]] = {}
    for i, held in enumerate(sets):
        for gram in held:
            held_by.setdefault(gram, []).append(i)
    shared = np.zeros((len(sets), len(sets)))
    for holders in held_by.values():
        shared[np.ix_(holders, holders)] += 1
    sizes = shared.diagonal()
    similarity = shared / (sizes[:, None] + sizes - shared)
    np.fill_diagonal(similarity, 0)
    return similarity


def _jackknife(without: Float[np.ndarray, " m"]) -> float:
    """The standard error of a number from what it is without each text."""
    return math.sqrt((1 - 1 / len(without)) * float(np.square(without - without.mean()).sum()))


def _kl(p: Float[np.ndarray, " v"], q: Float[np.ndarray, " v"]) -> float:
    seen = p > 0
    return float(p[seen] @ np.log(p[seen] / q[seen]))
