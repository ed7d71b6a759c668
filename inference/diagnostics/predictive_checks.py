"""Predictive checks: statistics of generated texts against those of real texts."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple, Unpack

import numpy as np
from jaxtyping import Float

from ...models.utils.numbers import check_at_least
from ..data.entries import TextSource, as_texts
from ..evaluation.ngrams import NGram, ngrams_of, split
from ..generation.decoding import Decoding, DecodingFields
from ..generation.generate import sample
from ..posterior.arviz_compat import ArviZData, from_groups
from ..run import Run
from ..runs.fitted import check_run
from ..utils.keywords import check_options, with_options_of
from ..utils.progress import progress_bar

__all__ = ["PredictiveCheck", "Statistic", "check_texts", "predictive_check", "text_statistics"]

Statistic = Callable[[Sequence[str]], float]
REFERENCE = 2000  # training texts from which the most frequent words are taken


class PredictiveCheck(NamedTuple):
    r"""Statistics of real texts, and of replicated sets of generated texts.

    Arguments:
        names: Names of the statistics.
        observed: :math:`T(x)` of the real texts.
        replicated: :math:`T(x^{\text{rep}})` of each set of generated texts, one row for each set.
        texts: Number of texts in a set.

    Examples:
        >>> PredictiveCheck(["longest"], np.array([9.0]), np.arange(4.0)[:, None], texts=5)
        statistic      real generated     +-      p
        longest           9       1.5    1.3  0.400
    """

    names: list[str]
    observed: Float[np.ndarray, " k"]
    replicated: Float[np.ndarray, "r k"]
    texts: int

    def __repr__(self) -> str:
        return self.table()

    @property
    def p_value(self) -> Float[np.ndarray, " k"]:
        r"""Two-sided p-value of a Monte Carlo test that the real set is one of the generated ones.

        .. math::
            \min\left(1, \; 2 \, \frac{\min(|\{ r : T_r \ge T \}|, \; |\{ r : T_r \le T \}|) + 1}{R + 1}\right)

        It is at most :math:`p` with a probability of at most :math:`p` under a perfect model, for any number of sets;
        0.05 takes at least 39 of them.

        References:
            A simplified Monte Carlo significance test procedure (Hope, 1968),
            https://doi.org/10.1111/j.2517-6161.1968.tb00759.x

        Examples:
            >>> PredictiveCheck(["longest"], np.array([9.0]), np.arange(4.0)[:, None], texts=5).p_value.tolist()
            [0.4]
        """
        sides = [(self.replicated >= self.observed).sum(0), (self.replicated <= self.observed).sum(0)]
        return np.minimum(2 * (np.minimum(*sides) + 1) / (len(self.replicated) + 1), 1.0)

    @property
    def spread(self) -> Float[np.ndarray, " k"]:
        """Standard deviation of the generated sets; 0 if these are all equal."""
        return np.where(np.ptp(self.replicated, 0) == 0, 0.0, self.replicated.std(0, ddof=1))

    @property
    def scaled(self) -> Float[np.ndarray, " k"]:
        """Z-score of the real set among the generated sets; NaN if these are all equal."""
        return (self.observed - self.replicated.mean(0)) / np.where(self.spread > 0, self.spread, np.nan)

    def table(self) -> str:
        """A row for each statistic: the real value, the mean and the standard deviation of the sets, the p-value."""
        width = max(map(len, [*self.names, "statistic"]))
        lines = [f"{'statistic':{width}}      real generated     +-      p"]
        columns = (self.observed, self.replicated.mean(0), self.spread, self.p_value)
        for name, real, generated, spread, p in zip(self.names, *columns, strict=True):
            lines.append(f"{name:{width}} {real:9.4g} {generated:9.4g} {spread:6.2g}  {p:5.3f}")
        return "\n".join(lines)

    def to_arviz(self) -> ArviZData:
        """Groups ``posterior_predictive`` and ``observed_data`` with one variable, ``value``, over ``statistic``."""
        import xarray

        coords = {"statistic": self.names}
        generated = xarray.Dataset({"value": (("chain", "draw", "statistic"), self.replicated[None])}, coords)
        real = xarray.Dataset({"value": (("statistic",), self.observed)}, coords)
        return from_groups({"posterior_predictive": generated, "observed_data": real}, {"texts": self.texts})


@with_options_of(Decoding)
def check_texts(
    run: Run,
    texts: TextSource | None = None,
    *,
    replications: int = 40,
    limit: int = 100,
    words: int = 5,
    pairs: int = 5,
    statistics: Mapping[str, Statistic] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **decoding: Unpack[DecodingFields],
) -> PredictiveCheck:
    """Compare held-out texts with sets of texts sampled from a run: latents from the prior, tokens from the decoder.

    The parameters of the networks are fixed.

    Arguments:
        run: A run without conditions.
        texts: Real texts; the test split by default.
        replications: Number of sets of generated texts, each of as many texts as there are real ones; with fewer than
            39 no p-value is as small as 0.05.
        limit: Maximal number of real texts.
        words: Number of most frequent words of the training texts whose frequency is a statistic.
        pairs: Number of most frequent pairs of neighboring words whose frequency is a statistic.
        statistics: Statistics of a set of texts by name; replace :func:`text_statistics`.
        seed: Random seed of the generated texts.
        progress: Whether to show a progress bar on standard error; by default in a terminal and in notebooks.
        decoding: ``temperature``, ``top_k``, ``top_p`` and ``greedy`` of
            :class:`~pyroformer.inference.generation.decoding.Decoding`; by default tokens are sampled from the model's
            own distribution.

    Raises:
        ValueError: If the run was trained on pairs, there are no texts, or a number is out of range.

    Examples:
        >>> check = check_texts(run, replications=2, words=1, pairs=0)
        >>> check.names
        ['words per text', 'their std', 'distinct pairs', "frequency of 'The'"]
    """
    check_run(run)
    check_options(check_texts, decoding, "pyroformer.diagnostics")
    if run.corpus.conditional:
        raise ValueError(
            "the run was trained on pairs: sample texts for some conditions, and give them to predictive_check."
        )
    check_at_least(1, limit=limit)
    check_at_least(2, replications=replications)
    real = run.corpus.test[:limit] if texts is None else as_texts(texts)[:limit]
    if statistics is None:
        statistics = text_statistics(run.corpus.train[:REFERENCE], words, pairs)
    sets, how = [], Decoding(**decoding)
    with progress_bar("sampling", replications * len(real), progress=progress) as advance:
        for number in range(replications):
            sets.append(sample(run, len(real), how, seed=seed, start=number * len(real)))
            advance(len(real))
    return predictive_check(real, sets, statistics)


def predictive_check(
    texts: TextSource, replicated: Iterable[TextSource], statistics: Mapping[str, Statistic]
) -> PredictiveCheck:
    """Compute statistics of real texts and of sets of generated texts.

    Arguments:
        texts: Real texts.
        replicated: Two or more sets of generated texts, each of as many texts as there are real ones.
        statistics: Statistics of a set of texts by name.

    Raises:
        ValueError: If there are no texts or statistics, fewer than two sets, or a set differs in size.

    Examples:
        >>> statistics = text_statistics(["a b"], words=1, pairs=0)
        >>> check = predictive_check(["a b", "b"], [["a", "b"], ["b", "b"]], statistics)
        >>> check.names
        ['words per text', 'their std', 'distinct pairs', "frequency of 'a'"]
        >>> check.observed.tolist()
        [1.5, 0.5, 1.0, 0.3333333333333333]
    """
    real, sets = as_texts(texts), [as_texts(generated) for generated in replicated]
    if not real or not statistics:
        raise ValueError(f"there are {len(real)} texts and {len(statistics)} statistics: give at least one of each.")
    if len(sets) < 2:
        raise ValueError(f"there are {len(sets)} sets of generated texts: give at least 2.")
    for generated in sets:
        if len(generated) != len(real):
            raise ValueError(f"a set has {len(generated)} generated texts for {len(real)} real ones: give as many.")
    rows = np.array([[statistic(each) for statistic in statistics.values()] for each in (real, *sets)])
    return PredictiveCheck(list(statistics), rows[0], rows[1:], len(real))


def text_statistics(texts: TextSource, words: int = 5, pairs: int = 5) -> dict[str, Statistic]:
    """The default statistics of a set of texts. Words are separated by white space.

    Words per text and their standard deviation over texts, the fraction of distinct pairs of neighboring words, and the
    relative frequencies of the words and pairs that are most frequent in ``texts``. These must be other texts than the
    real ones of the check: words that are selected on the same sample are frequent partly by chance.

    Arguments:
        texts: The texts from which the most frequent words and pairs are taken.
        words: Number of words.
        pairs: Number of pairs.

    Raises:
        ValueError: If a number is negative.

    Examples:
        >>> statistics = text_statistics(["the food was good", "the room was bad"], words=1, pairs=0)
        >>> {name: statistic(["the food", "a room"]) for name, statistic in statistics.items()}
        {'words per text': 2.0, 'their std': 0.0, 'distinct pairs': 1.0, "frequency of 'the'": 0.25}
    """
    check_at_least(0, words=words, pairs=pairs)
    texts = as_texts(texts)
    statistics: dict[str, Statistic] = {
        "words per text": lambda texts: float(np.mean([len(row) for row in split(texts)])),
        "their std": lambda texts: float(np.std([len(row) for row in split(texts)])),
        "distinct pairs": _distinct_pairs,
    }
    for n, number in ((1, words), (2, pairs)):
        for gram, _ in _counts(texts, n).most_common(number):
            statistics[f"frequency of '{' '.join(gram)}'"] = partial(_frequency, gram=gram)
    return statistics


def _counts(texts: Sequence[str], n: int) -> Counter[NGram]:
    return Counter(chain.from_iterable(ngrams_of(row, n) for row in split(texts)))


def _frequency(texts: Sequence[str], gram: NGram) -> float:
    counts = _counts(texts, len(gram))
    return counts[gram] / max(1, counts.total())


def _distinct_pairs(texts: Sequence[str]) -> float:
    counts = _counts(texts, 2)
    return len(counts) / max(1, counts.total())
