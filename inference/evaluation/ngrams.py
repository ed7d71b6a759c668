"""Words and n-grams of texts, and their counts.

Words are what white space separates, with their case and punctuation.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np

from ...models.utils.choices import check_choice
from ...models.utils.numbers import check_at_least
from ..data.entries import as_texts

__all__ = [
    "NGram",
    "Tokenization",
    "largest",
    "ngrams_of",
    "ngrams_up_to",
    "read_ngrams",
    "second_largest",
    "segmented",
    "several_texts",
    "split",
    "subsample",
]

NGram = tuple[str, ...]
Tokenization = Literal["13a", "zh", "char"]


def segmented(texts: Iterable[Any], tokenize: str) -> list[str]:
    """Texts with blanks between their words, for languages that are written without: all metrics then read them.

    Arguments:
        texts: The texts.
        tokenize: "zh" puts each Chinese character apart, "char" every character (as for Japanese or Thai), and "13a"
            the punctuation of languages with blanks; each is sacrebleu's.

    Raises:
        ValueError: If there is no tokenization of that name.

    Examples:
        >>> segmented(["我们 ok"], "zh"), segmented(["ok"], "char")
        (['我 们 ok'], ['o k'])
    """
    from sacrebleu.metrics.bleu import BLEU  # slow to import

    check_choice("tokenize", tokenize, get_args(Tokenization))
    apart = BLEU(tokenize=tokenize).tokenizer
    return [str(apart(text)) for text in several_texts(texts)]


def several_texts(texts: Iterable[Any]) -> list[str]:
    """The texts of a set as a list.

    Raises:
        ValueError: If they are one string.
    """
    if isinstance(texts, str):
        raise ValueError(f"the texts are one string, {texts[:20]!r}, not a list of them: give [text].")
    return as_texts(texts)


def split(texts: Iterable[Any], shortest: int = 0) -> list[list[str]]:
    """The words of each text that has at least ``shortest`` of them.

    Raises:
        ValueError: If the texts are one string.

    Examples:
        >>> split(["a red rose", "", "sky"], shortest=1)
        [['a', 'red', 'rose'], ['sky']]
    """
    rows = (text.split() for text in several_texts(texts))
    return [words for words in rows if len(words) >= shortest]


def subsample(rows: list[list[str]], sample: int, seed: int) -> list[list[str]]:
    """``sample`` texts drawn without replacement; all where there are no more."""
    if len(rows) <= sample:
        return rows
    places = np.random.default_rng(seed).choice(len(rows), sample, replace=False)
    return [rows[i] for i in np.sort(places)]


def read_ngrams(texts: Iterable[Any], n: int, ngrams: int | None = None, seed: int = 0) -> list[list[NGram]]:
    """The n-grams of each text that has any; or ``ngrams`` of them, of whole texts in a random order and a part of one.

    Raises:
        ValueError: If ``n`` or ``ngrams`` is below 1.

    Examples:
        >>> read_ngrams(["a red rose", "sky", "so blue"], n=2)
        [[('a', 'red'), ('red', 'rose')], [('so', 'blue')]]
        >>> sum(map(len, read_ngrams(["a red rose", "a red sky"], n=2, ngrams=3)))
        3
    """
    check_at_least(1, n=n)
    rows = split(texts, shortest=n)
    if ngrams is None:
        return [ngrams_of(words, n) for words in rows]
    check_at_least(1, ngrams=ngrams)
    rows_read = []
    for i in np.random.default_rng(seed).permutation(len(rows)):
        if ngrams <= 0:
            break
        rows_read.append(ngrams_of(rows[i], n)[:ngrams])
        ngrams -= len(rows_read[-1])
    return rows_read


def ngrams_of(words: Sequence[str], n: int) -> list[NGram]:
    """The n-grams of a text, in its order.

    Examples:
        >>> ngrams_of(["a", "red", "rose"], 2)
        [('a', 'red'), ('red', 'rose')]
    """
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def ngrams_up_to(words: Sequence[str], n: int) -> Counter[NGram]:
    """The count of each n-gram of 1 to ``n`` words in a text."""
    return Counter(chain.from_iterable(ngrams_of(words, order) for order in range(1, n + 1)))


def largest(counts: Iterable[Counter[NGram]], needed: set[NGram]) -> Counter[NGram]:
    """The largest count of each needed n-gram in any text."""
    most: Counter[NGram] = Counter()
    for own in counts:
        for gram in own.keys() & needed:
            most[gram] = max(most[gram], own[gram])
    return most


def second_largest(counts: Iterable[Counter[NGram]]) -> Counter[NGram]:
    """The second largest count of each n-gram in any text: the clip of a text whose own count is the largest.

    For a text with the largest count, the second largest is the largest of the others; for any other text, neither of
    the two is below its own count, so neither clips it.

    Examples:
        >>> second_largest([Counter({("so",): 3}), Counter({("so",): 2, ("a",): 1}), Counter({("so",): 1})])
        Counter({('so',): 2, ('a',): 0})
    """
    first: Counter[NGram] = Counter()
    second: Counter[NGram] = Counter()
    for own in counts:
        for gram, count in own.items():
            second[gram] = max(second[gram], min(count, first[gram]))
            first[gram] = max(first[gram], count)
    return second
