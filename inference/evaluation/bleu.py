"""BLEU of texts: against originals, against each other, and against a set of references.

Words of the sentence scores are what white space separates, with their case and punctuation.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, get_args

import numpy as np

from ...models.utils.choices import check_choice
from ...models.utils.numbers import check_at_least
from ..data.entries import as_texts
from .estimates import Estimate, ratio
from .ngrams import NGram, Tokenization, largest, ngrams_up_to, second_largest, split, subsample

__all__ = ["SMOOTHING", "bleu", "reference_bleu", "self_bleu"]

SMOOTHING = "exp"  # sacrebleu's name: the k-th order of n-grams that match nothing counts as 1 / 2^k matches


def bleu(texts: Iterable[Any], originals: Iterable[Any], tokenize: str = "13a") -> float | None:
    """Corpus BLEU from 0 to 100 by sacrebleu in its standard setting; None without texts.

    Orders of n-grams that no text is long enough for are left out, so that copies of short texts score 100.

    Arguments:
        texts: The texts to score.
        originals: The original of each.
        tokenize: What the words are: "13a" for languages with blanks between words, "zh" for Chinese, "char" for
            characters, as in Japanese or Thai.

    Raises:
        ValueError: If there is not one original for each text, or no tokenization of that name.

    References:
        A Call for Clarity in Reporting BLEU Scores (Post, 2018), https://arxiv.org/abs/1804.08771

    Examples:
        >>> round(bleu(["the cat sat on the mat"], ["the cat sat on the mat"]), 1)
        100.0
        >>> round(bleu(["thanks", "ok"], ["thanks", "ok"]), 1)
        100.0
    """
    from sacrebleu.metrics.bleu import BLEU  # slow to import

    check_choice("tokenize", tokenize, get_args(Tokenization))
    texts, originals = as_texts(texts), as_texts(originals)
    if len(texts) != len(originals):
        raise ValueError(f"there are {len(originals)} originals for {len(texts)} texts: give one for each.")
    if not texts:
        return None
    # effective_order changes only scores that are 0 without it; force: no warning about texts that end in a full stop,
    # which does not mean that they are tokenized
    return float(BLEU(force=True, effective_order=True, tokenize=tokenize).corpus_score(texts, [originals]).score)


def self_bleu(texts: Sequence[str], n: int = 4, sample: int = 500, seed: int = 0) -> Estimate:
    r"""The mean BLEU of each text with all others as its references, from 0 to 100: lower is more diverse.

    .. math::
        \frac{1}{m} \sum_{i=1}^m \mathrm{BLEU}_n(x_i, \{ x_j : j \neq i \})

    It rises with :math:`m`. BLEU is that of sacrebleu for sentences: "exp" smoothing, brevity penalty by the closest
    length, no orders of n-grams longer than the text. The standard error takes each text's references as fixed.

    Arguments:
        texts: At least two. Texts without words are left out: they are like no other and would pass as diverse.
        n: The largest order of n-grams.
        sample: :math:`m`, the number of texts that are drawn; all where there are fewer.
        seed: Random seed of the draw.

    Raises:
        ValueError: If ``n`` is below 1, or ``sample`` below 2.

    References:
        Texygen: A Benchmarking Platform for Text Generation Models (Zhu et al., 2018),
        https://arxiv.org/abs/1802.01886

    Examples:
        >>> round(self_bleu(["a red rose", "a red rose", "blue sky"]).value, 1)
        66.7
    """
    check_at_least(1, n=n)
    check_at_least(2, sample=sample)
    rows = subsample(split(texts, shortest=1), sample, seed)
    if len(rows) < 2:
        return Estimate(None)
    counts = [ngrams_up_to(words, n) for words in rows]
    lengths = Counter(map(len, rows))
    closest = [_closest(len(words), lengths - Counter([len(words)])) for words in rows]
    return _mean_bleu(counts, second_largest(counts), closest, n)


def reference_bleu(
    texts: Sequence[str], references: Sequence[str], n: int = 4, sample: int = 500, seed: int = 0
) -> Estimate:
    r"""The mean BLEU of each text with all references, from 0 to 100: the share of n-grams that real texts have too.

    .. math::
        \frac{1}{m} \sum_{i=1}^m \mathrm{BLEU}_n(x_i, \{ r_1, \dots, r_R \})

    It rises with :math:`R`. BLEU is that of :func:`self_bleu`; a text without words scores 0.

    Arguments:
        texts: The texts to score.
        references: The references of each text, all of them.
        n: The largest order of n-grams.
        sample: :math:`m`, the number of texts that are drawn; all where there are fewer.
        seed: Random seed of the draw.

    Raises:
        ValueError: If ``n`` or ``sample`` is below 1.

    Examples:
        >>> round(reference_bleu(["a red rose"], ["a red sky", "a red red rose"]).value, 1)
        79.4
    """
    check_at_least(1, n=n, sample=sample)
    rows, right = subsample(split(texts), sample, seed), split(references)
    if not rows or not right:
        return Estimate(None)
    counts = [ngrams_up_to(words, n) for words in rows]
    lengths = set(map(len, right))
    closest = [_closest(len(words), lengths) for words in rows]
    needed = set(chain.from_iterable(counts))
    return _mean_bleu(counts, largest((ngrams_up_to(words, n) for words in right), needed), closest, n)


def _closest(length: int, lengths: Iterable[int]) -> int:
    """The length that BLEU's brevity penalty compares with: of two that are equally close, the shorter."""
    return min(lengths, key=lambda other: (abs(other - length), other))


def _mean_bleu(counts: Sequence[Counter[NGram]], most: Mapping[NGram, int], closest: Sequence[int], n: int) -> Estimate:
    """The mean BLEU of sentences, in which an n-gram matches at most as often as in ``most``."""
    from sacrebleu.metrics.bleu import BLEU  # slow to import

    scores = []
    for own, length in zip(counts, closest, strict=True):
        right, total = [0] * n, [0] * n
        for gram, count in own.items():
            total[len(gram) - 1] += count
            right[len(gram) - 1] += min(count, most[gram])
        score = BLEU.compute_bleu(
            right, total, total[0], length, smooth_method=SMOOTHING, effective_order=True, max_ngram_order=n
        )
        scores.append(float(score.score))
    return ratio(np.array(scores))
