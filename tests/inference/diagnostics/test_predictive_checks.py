"""Predictive checks of texts detect planted differences, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.diagnostics import PredictiveCheck, check_texts, predictive_check, text_statistics
from pyroformer.inference.posterior.arviz_compat import dataset
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE

WORDS = np.array(["a", "red", "rose", "is", "blue", "sky"])


def texts(seed: int, count: int = 60, length: float = 8.0, first: float = 0.4) -> list[str]:
    """Words drawn alone, the first with its own probability."""
    rng = np.random.default_rng(seed)
    shares = [first, *[(1 - first) / 5] * 5]
    return [" ".join(rng.choice(WORDS, 1 + rng.poisson(length), p=shares)) for _ in range(count)]


def generated(**options: float) -> list[list[str]]:
    return [texts(seed, **options) for seed in range(1, 20)]


STATISTICS = text_statistics(texts(99, count=500), words=3, pairs=2)


def test_texts_of_the_same_distribution_are_not_flagged() -> None:
    checks = [predictive_check(texts(1000 + n), generated(), STATISTICS) for n in range(8)]
    assert np.mean([check.p_value > 0.1 for check in checks]) > 0.8  # 0.9 of them, as each end has one place in twenty
    above = np.mean([check.observed > np.median(check.replicated, 0) for check in checks])
    assert 0.3 < above < 0.7


@pytest.mark.parametrize("sets", [20, 39, 40, 99])
@pytest.mark.parametrize("rounded", [False, True])  # with ties
def test_one_in_twenty_is_unlike_a_perfect_model_at_most(sets: int, rounded: bool) -> None:
    """By simulation of the 20,000 statistics of a check: the standard error of a share of 0.05 is 0.0015."""
    drawn = np.random.default_rng(0).normal(size=(sets + 1, 20_000))
    drawn = drawn.round() if rounded else drawn
    check = PredictiveCheck(["x"] * 20_000, drawn[0], drawn[1:], texts=1)
    share = (check.p_value <= 0.05).mean()
    expected = 2 * ((sets + 1) // 40) / (sets + 1)  # of distinct values: whole places at either end
    assert share <= 0.05 + 0.005 and (rounded or share == pytest.approx(expected, abs=0.005))


def test_sets_that_are_all_equal_have_no_spread() -> None:
    check = PredictiveCheck(["same", "other"], np.array([0.1, 2.0]), np.full((40, 2), 0.1), texts=1)
    assert check.spread.tolist() == [0, 0] and np.isnan(check.scaled).all()
    assert check.p_value.tolist() == [1, 2 / 41]


@pytest.mark.parametrize(
    ("planted", "statistic", "sign"),
    [({"length": 5.0}, "words per text", 1), ({"first": 0.6}, "frequency of 'a'", -1)],
)
def test_planted_differences_are_detected(planted: dict[str, float], statistic: str, sign: int) -> None:
    check = predictive_check(texts(1000), generated(**planted), STATISTICS)
    assert check.p_value[check.names.index(statistic)] == 2 / 20  # the least that 19 sets can say
    assert sign * check.scaled[check.names.index(statistic)] > 3


def test_pairs_are_counted_beside_words() -> None:
    shuffled = [" ".join(np.random.default_rng(seed).permutation("a b c d".split())) for seed in range(40)]
    check = predictive_check(["a b c d"] * 40, [shuffled, shuffled[::-1]], text_statistics(["a b c d"], 1, 1))
    observed = dict(zip(check.names, check.observed, strict=True))
    assert observed == {
        "words per text": 4.0,
        "their std": 0.0,
        "distinct pairs": 3 / 120,
        "frequency of 'a'": 0.25,
        "frequency of 'a b'": pytest.approx(1 / 3),
    }
    assert check.replicated[0, 3] == 0.25 and check.replicated[0, 4] < 1 / 3


def test_groups_and_table() -> None:
    check = predictive_check(texts(0), generated(), STATISTICS)
    data = check.to_arviz()
    assert dict(dataset(data, "posterior_predictive").sizes) == {"chain": 1, "draw": 19, "statistic": 8}
    assert float(dataset(data, "observed_data")["value"].sel(statistic="words per text")) == check.observed[0]
    header, *rows = check.table().splitlines()
    assert header.split()[-1] == "p" and len(rows) == 8
    assert [row.split()[-1] for row in rows] == [f"{p:.3f}" for p in check.p_value]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(texts(0, count=120), vocabulary=270, max_length=64)


def test_a_run_is_checked_against_its_test_texts(corpus: Corpus) -> None:
    torch.manual_seed(0)
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    run = Run(model, NVAEGuide(model), corpus, RunFolder(Path("nowhere")), {}, step=0)
    check = check_texts(run, replications=3, limit=4, words=1, pairs=1)
    assert check.texts == 4 and check.replicated.shape == (3, 5)
    assert check.names[3] == "frequency of 'a'"
    again = check_texts(run, list(corpus.test[:4]), replications=3, words=1, pairs=1)
    np.testing.assert_array_equal(again.replicated, check.replicated)


def test_what_cannot_be_checked(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="there are 0 texts and 8 statistics: give at least one of each"):
        predictive_check([], generated(), STATISTICS)
    with pytest.raises(ValueError, match="there are 1 sets of generated texts: give at least 2"):
        predictive_check(["a"], [["a"]], STATISTICS)
    with pytest.raises(ValueError, match="a set has 2 generated texts for 1 real ones: give as many"):
        predictive_check(["a"], [["a"], ["a", "b"]], STATISTICS)
    with pytest.raises(ValueError, match="words is -1: give a whole number of at least 0"):
        text_statistics(["a"], words=-1)
    run = Run(
        LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2), None, corpus, RunFolder(Path("nowhere")), {}, 0
    )
    with pytest.raises(ValueError, match="replications is 1: give a whole number of at least 2"):
        check_texts(run, replications=1)
    with pytest.raises(ValueError, match="limit is 0: give a whole number of at least 1"):
        check_texts(run, limit=0)
    pairs = Corpus.from_texts([("warm", f"a rose, {n}") for n in range(40)], vocabulary=270, max_length=32)
    run.corpus = pairs
    with pytest.raises(ValueError, match="the run was trained on pairs: sample texts for some conditions"):
        check_texts(run)
