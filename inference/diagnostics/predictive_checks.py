"""Do texts that a model makes up look like real ones: posterior predictive checks of length, words and pairs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ..evaluation.ngrams import NGram, ngrams_of, split
from ..generation.decoding import Decoding
from ..generation.generate import sample
from ..posterior.arviz_compat import from_groups
from ..run import Run

__all__ = ["PredictiveCheck", "Statistic", "check_texts", "predictive_check", "text_statistics"]

Statistic = Callable[[Sequence[str]], float]
REFERENCE = 2000  # training texts that the words are chosen from


class PredictiveCheck(NamedTuple):
    r"""Statistics of real texts beside those of as many made-up ones, several times over.

    Arguments:
        names: What was counted.
        observed: :math:`T(x)` of the real texts.
        replicated: :math:`T(x^{\text{rep}})` of each set of made-up ones, a row for each set.
        texts: How many texts a set has.
    """

    names: list[str]
    observed: Float[np.ndarray, " k"]
    replicated: Float[np.ndarray, "r k"]
    texts: int

    @property
    def tail(self) -> Float[np.ndarray, " k"]:
        r"""How often a made-up set has more than the real one, ties and the real set itself counted half.

        .. math::
            \frac{|\{ r : T_r > T \}| + \tfrac12 (|\{ r : T_r = T \}| + 1)}{R + 1}

        Near 0 real texts have more of it than the model makes, near 1 less; it can be no nearer to either than
        :math:`1 / (2 R + 2)`.
        """
        above = (self.replicated > self.observed).sum(0)
        equal = (self.replicated == self.observed).sum(0)
        return (above + 0.5 * (equal + 1)) / (len(self.replicated) + 1)

    @property
    def scaled(self) -> Float[np.ndarray, " k"]:
        """How many standard deviations of the made-up sets the real one is above their mean; NaN where all are one."""
        spread = self.replicated.std(0, ddof=1)
        return (self.observed - self.replicated.mean(0)) / np.where(spread > 0, spread, np.nan)

    def table(self) -> str:
        """For reading: a row for each statistic."""
        width = max(map(len, [*self.names, "statistic"]))
        lines = [f"{'statistic':{width}}      real   made up     +-   tail"]
        columns = zip(self.names, self.observed, self.replicated.T, self.tail, strict=True)
        for name, value, made_up, tail in columns:
            figures = f"{value:9.4g} {made_up.mean():9.4g} {made_up.std(ddof=1):6.2g}  {tail:5.3f}"
            lines.append(f"{name:{width}} {figures}")
        return "\n".join(lines)

    def to_arviz(self) -> Any:
        """Groups ``posterior_predictive`` and ``observed_data`` with one variable, ``value``, over ``statistic``."""
        import xarray

        coords = {"statistic": self.names}
        made_up = xarray.Dataset({"value": (("chain", "draw", "statistic"), self.replicated[None])}, coords)
        real = xarray.Dataset({"value": (("statistic",), self.observed)}, coords)
        return from_groups({"posterior_predictive": made_up, "observed_data": real}, {"texts": self.texts})


def check_texts(
    run: Run,
    texts: Sequence[str] | None = None,
    *,
    replications: int = 20,
    limit: int = 100,
    text_vocabulary: int = 5,
    pairs: int = 5,
    statistics: Mapping[str, Statistic] | None = None,
    seed: int = 0,
    **decoding: Any,
) -> PredictiveCheck:
    """Compare held-out texts with sets of texts that a run makes up, from its latents down.

    The weights of the networks are those that were fitted; only latents and tokens are drawn.

    Arguments:
        run: A run that makes up texts without being told what about.
        texts: Real texts; held-out ones by default.
        replications: How many sets of as many made-up texts.
        limit: At most so many real texts, the first.
        text_vocabulary: How many of the most frequent words of the training texts are counted.
        pairs: How many of their most frequent pairs of neighboring words.
        statistics: What to measure of a set in place of :func:`text_statistics`, by name.
        seed: Of the made-up texts.
        decoding: Fields of :class:`~pyroformer.inference.generation.decoding.Decoding`; by default the model itself is drawn from.

    Raises:
        ValueError: If the run answers to conditions, there are no texts, or a number is out of its range.
    """
    if run.corpus.conditional:
        raise ValueError("the run answers to conditions: make texts up for some, and give them to predictive_check.")
    if limit < 1 or replications < 2:
        name, number, least = ("limit", limit, 1) if limit < 1 else ("replications", replications, 2)
        raise ValueError(f"{name} is {number}: give a whole number of at least {least}.")
    given = [texts] if isinstance(texts, str) else texts
    real = list((run.corpus.test if given is None else given)[:limit])
    if statistics is None:
        statistics = text_statistics(run.corpus.train[:REFERENCE], text_vocabulary, pairs)
    made_up = sample(run, replications * len(real), Decoding(**decoding), seed=seed)
    sets = [made_up[start : start + len(real)] for start in range(0, len(made_up), max(1, len(real)))]
    return predictive_check(real, sets, statistics)


def predictive_check(
    texts: Sequence[str], replicated: Sequence[Sequence[str]], statistics: Mapping[str, Statistic]
) -> PredictiveCheck:
    """Measure real texts and sets of made-up ones, however they were made.

    Arguments:
        texts: Real texts.
        replicated: Two or more sets of made-up ones, each as many as the real ones.
        statistics: What to measure of a set, by name.

    Raises:
        ValueError: If there are no texts or statistics, fewer than two sets, or a set of another size.

    Examples:
        >>> found = predictive_check(["a b", "b"], [["a", "b"], ["b", "b"]], text_statistics(["a b"], text_vocabulary=1, pairs=0))
        >>> found.names
        ['words per text', 'spread of that', 'distinct pairs', "share of 'a'"]
        >>> found.observed.tolist()
        [1.5, 0.5, 1.0, 0.3333333333333333]
    """
    if not texts or not statistics:
        raise ValueError(f"there are {len(texts)} texts and {len(statistics)} statistics: give at least one of each.")
    if len(replicated) < 2:
        raise ValueError(f"there are {len(replicated)} sets of made-up texts: a distribution needs at least 2.")
    for some in replicated:
        if len(some) != len(texts):
            raise ValueError(f"a set has {len(some)} made-up texts for {len(texts)} real ones: give as many.")
    rows = np.array([[statistic(some) for statistic in statistics.values()] for some in (texts, *replicated)])
    return PredictiveCheck(list(statistics), rows[0], rows[1:], len(texts))


def text_statistics(texts: Sequence[str], text_vocabulary: int = 5, pairs: int = 5) -> dict[str, Statistic]:
    """What is measured of a set of texts by default; words are what white space separates.

    Words per text and their spread over texts, the share of pairs of neighbors that are distinct, and how large a
    share of all words, or pairs, is each of the most frequent ones of ``texts``. Choose those from other texts than the
    ones that are checked: words that are frequent in the very sample are so by chance too.

    Arguments:
        texts: What the most frequent words are taken from.
        text_vocabulary: How many words.
        pairs: How many pairs.

    Raises:
        ValueError: If a number is negative.
    """
    for name, number in (("text_vocabulary", text_vocabulary), ("pairs", pairs)):
        if number < 0:
            raise ValueError(f"{name} is {number}: give a whole number from 0.")
    found: dict[str, Statistic] = {
        "words per text": lambda some: float(np.mean([len(row) for row in split(some)])),
        "spread of that": lambda some: float(np.std([len(row) for row in split(some)])),
        "distinct pairs": _distinct_pairs,
    }
    for n, number in ((1, text_vocabulary), (2, pairs)):
        for gram, _ in _counted(texts, n).most_common(number):
            found[f"share of '{' '.join(gram)}'"] = partial(_share, gram=gram)
    return found


def _counted(texts: Sequence[str], n: int) -> Counter[NGram]:
    return Counter(chain.from_iterable(ngrams_of(row, n) for row in split(texts)))


def _share(texts: Sequence[str], gram: NGram) -> float:
    counts = _counted(texts, len(gram))
    return counts[gram] / max(1, counts.total())


def _distinct_pairs(texts: Sequence[str]) -> float:
    counts = _counted(texts, 2)
    return len(counts) / max(1, counts.total())
