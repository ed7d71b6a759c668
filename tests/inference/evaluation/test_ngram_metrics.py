"""BLEU and n-gram metrics: beside sacrebleu, scipy and brute force, by hand, and at their limits."""

import json
import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from scipy.spatial.distance import jensenshannon

from pyroformer.inference.evaluation.bleu import bleu, reference_bleu, self_bleu
from pyroformer.inference.evaluation.metrics.diversity import diversity
from pyroformer.inference.evaluation.ngram_metrics import (
    Distinct,
    Divergence,
    Jaccard,
    distinct,
    jaccard,
    ngram_divergence,
    repetition,
)
from pyroformer.inference.evaluation.ngrams import segmented
from pyroformer.inference.evaluation.report import Estimate, Evaluation

NONE = Estimate(None)
text = st.lists(st.sampled_from("a b c D d. ü".split()), max_size=7).map(" ".join)
some_texts = st.lists(text, min_size=1, max_size=6)
order = st.integers(1, 4)
quickly = settings(max_examples=40, deadline=None)


def random_texts(count: int, seed: int, words: int = 30) -> list[str]:
    """Texts of random length from a few words, the first of which are the most frequent."""
    generator = np.random.default_rng(seed)
    return [" ".join(f"w{w}" for w in generator.geometric(3 / words, generator.integers(3, 9))) for _ in range(count)]


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def sentence_bleu(text: str, references: list[str], n: int) -> float:
    metric = BLEU(tokenize="none", force=True, smooth_method="exp", effective_order=True, max_ngram_order=n)
    return metric.sentence_score(text, references).score


def mean_and_error(values: list[float]) -> Estimate:
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), error)


def same(result: Estimate, expected: Estimate) -> bool:
    return all(a == (b if b is None else pytest.approx(b, abs=1e-9)) for a, b in zip(result, expected, strict=True))


# Oracles


@quickly
@given(some_texts, order)
def test_self_bleu_is_sacrebleus_with_all_others_as_references(texts: list[str], n: int) -> None:
    texts = [text for text in texts if text]
    scores = [sentence_bleu(text, texts[:i] + texts[i + 1 :], n) for i, text in enumerate(texts) if len(texts) > 1]
    assert same(self_bleu(texts, n), mean_and_error(scores) if scores else NONE)


@quickly
@given(some_texts, some_texts, order)
def test_reference_bleu_is_sacrebleus_with_all_references(texts: list[str], references: list[str], n: int) -> None:
    scores = [sentence_bleu(text, references, n) for text in texts]
    assert same(reference_bleu(texts, references, n), mean_and_error(scores))


def test_bleu_by_hand() -> None:
    # 3 of 3 words, 1 of 2 pairs, no triple of 1: that one counts as half a match
    result = reference_bleu(["a b c"], ["b c", "x a y", "a x x x"]).value
    assert result == pytest.approx(100 * (1 * 1 / 2 * 1 / 2) ** (1 / 3))
    # two words where all others have four: exp(1 - 4 / 2)
    assert self_bleu(["a b", "a b c d", "a b c d"], 1).value == pytest.approx(100 * (math.exp(-1) + 1 + 1) / 3)


@quickly
@given(some_texts, st.integers(1, 3))
def test_jaccard_by_brute_force(texts: list[str], n: int) -> None:
    sets = [set(grams(text, n)) for text in texts if len(grams(text, n))]
    rows = [[len(a & b) / len(a | b) for j, b in enumerate(sets) if j != i] for i, a in enumerate(sets)]
    mean, nearest = jaccard(texts, n)
    if len(sets) < 2:
        assert mean == nearest == NONE
    else:
        assert mean.value == pytest.approx(np.mean(rows)) and nearest.value == pytest.approx(np.mean(np.max(rows, 1)))


@quickly
@given(some_texts, some_texts, st.integers(1, 3))
@example(random_texts(60, seed=0), random_texts(40, seed=1), 2)
def test_divergence_is_scipys(texts: list[str], references: list[str], n: int) -> None:
    ours, theirs = ([gram for text in some for gram in grams(text, n)] for some in (texts, references))
    result = ngram_divergence(texts, references, n)
    assert result[1:] == (len(ours), len(theirs))
    if not ours or not theirs:
        assert result.nats == NONE
    else:
        either = sorted({*ours, *theirs})
        expected = jensenshannon([ours.count(g) for g in either], [theirs.count(g) for g in either]) ** 2
        assert result.nats.value == pytest.approx(expected, abs=1e-9)


def test_distinct_by_hand() -> None:
    texts = ["a b a b", "a b c", "d"]
    assert distinct(texts, 1)[0].value == 4 / 8 and distinct(texts, 1).ngrams == 8
    assert distinct(texts, 2)[0].value == 3 / 5 and distinct(texts, 2).ngrams == 5


def test_repetition_by_hand() -> None:
    # what another text said before is no repetition
    error = math.sqrt(3 / 2 * ((3 - 5 / 3) ** 2 + (0 - 3 / 3) ** 2 + (0 - 1 / 3) ** 2)) / 9
    assert repetition(["a b a b a", "a b c", "d"], 1) == Estimate(3 / 9, pytest.approx(error))
    assert repetition(["a b a b a", "a b c", "d"], 2).value == 2 / 6


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "metric",
    [lambda texts, n: distinct(texts, n).share, lambda t, n: jaccard(t, n).mean, lambda t, n: jaccard(t, n).nearest],
    ids=["distinct", "mean", "nearest"],
)
def test_errors_are_those_of_leaving_out_each_text(metric: Callable[[list[str], int], Estimate], n: int) -> None:
    texts = [*random_texts(12, seed=3), "w1 w2 w3", "w1 w2 w3"]  # equally near ones among them
    without = [metric(texts[:i] + texts[i + 1 :], n).value or 0 for i in range(len(texts))]
    expected = math.sqrt((len(texts) - 1) * np.var(without))
    assert metric(texts, n).error == pytest.approx(expected) and expected > 0


@pytest.mark.parametrize(
    ("metric", "above"),
    [
        (lambda texts: self_bleu(texts, 2), 1.25),
        (lambda texts: repetition(texts, 1), 1.25),
        (lambda texts: jaccard(texts, 1).mean, 1.25),
        (lambda texts: distinct(texts, 2).share, 1.5),  # too large rather than too small
        (lambda texts: jaccard(texts, 1).nearest, 1.8),
    ],
    ids=["self_bleu", "repetition", "mean", "distinct", "nearest"],
)
def test_the_error_is_that_of_repetitions(metric: Callable[[list[str]], Estimate], above: float) -> None:
    values, errors = zip(*(metric(random_texts(60, seed)) for seed in range(100)), strict=True)
    assert 0.8 < np.mean(errors) / np.std(values) < above


# Properties


@quickly
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True), st.integers(2, 9), order)
def test_texts_that_are_all_the_same(words: list[str], count: int, n: int) -> None:
    texts = [" ".join(words)] * count
    assert self_bleu(texts, n).value == pytest.approx(100)
    assert reference_bleu(texts, texts[:1], n).value == pytest.approx(100)
    if len(words) >= n:
        assert distinct(texts, n).share.value == pytest.approx(1 / count)
        one = Estimate(1.0, None if count == 2 else 0.0)
        assert jaccard(texts, n) == Jaccard(one, one)
        assert ngram_divergence(texts, texts[:1], n).nats.value == 0


@quickly
@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), order)
def test_texts_that_share_nothing(lengths: list[int], n: int) -> None:
    texts = [" ".join(f"{i}.{j}" for j in range(length)) for i, length in enumerate(lengths)]
    assert self_bleu(texts, n).value == 0 and reference_bleu(texts[1:], texts[:1], n).value == 0
    mean, nearest = jaccard(texts, n)
    assert mean.value == nearest.value == (0 if sum(length >= n for length in lengths) > 1 else None)
    assert ngram_divergence(texts[1:], texts[:1], 1).nats.value == pytest.approx(math.log(2))
    assert distinct(texts, 1).share.value == 1 and repetition(texts, 1).value == 0


@quickly
@given(some_texts, some_texts)
def test_the_divergence_is_symmetric_and_bounded(texts: list[str], references: list[str]) -> None:
    nats, other = (ngram_divergence(*pair, 1).nats.value for pair in permutations((texts, references)))
    assert nats == pytest.approx(other, abs=1e-12) and (nats is None or 0 <= nats <= math.log(2))


@quickly
@given(some_texts, st.randoms(use_true_random=False))
def test_the_order_of_texts_means_nothing_where_all_are_taken(texts: list[str], random: Any) -> None:
    shuffled = random.sample(texts, len(texts))
    for one, other in zip(*(diversity(some, ["a b", "c"]).values() for some in (texts, shuffled)), strict=True):
        assert one.label == other.label
        assert all(same(one.units[unit], other.units[unit]) for unit in one.units)


# Samples


SAMPLED: dict[str, Callable[[list[str], int], Any]] = {
    "self_bleu": lambda texts, seed: self_bleu(texts, sample=20, seed=seed),
    "reference_bleu": lambda texts, seed: reference_bleu(texts, random_texts(9, seed=1), sample=20, seed=seed),
    "jaccard": lambda texts, seed: jaccard(texts, 1, sample=20, seed=seed),
    "distinct": lambda texts, seed: distinct(texts, 1, ngrams=50, seed=seed),
    "divergence": lambda texts, seed: ngram_divergence(texts, random_texts(9, seed=1), 1, ngrams=40, seed=seed),
}


@pytest.mark.parametrize("metric", SAMPLED.values(), ids=SAMPLED)
def test_the_sample_is_a_function_of_the_seed(metric: Callable[[list[str], int], Any]) -> None:
    texts = random_texts(60, seed=0)
    assert metric(texts, 3) == metric(texts, 3)
    assert len({metric(texts, seed) for seed in range(5)}) == 5


def test_texts_are_drawn_once_each() -> None:
    texts = [f"{i}" for i in range(40)]
    assert jaccard(texts, 1, sample=39).nearest.value == 0
    assert jaccard([*texts, "0"], 1, sample=41).nearest.value == pytest.approx(2 / 41)


def test_ngrams_limits_the_ngrams_that_are_read() -> None:
    texts = random_texts(60, seed=0)
    assert [distinct(texts, 2, ngrams=number).ngrams for number in (1, 7, 100)] == [1, 7, 100]
    assert distinct(texts, 2, ngrams=10**6) == distinct(texts, 2)
    assert ngram_divergence(texts, texts[:9], 2, ngrams=30)[1:] == (30, 30)


def test_the_number_of_ngrams_makes_sets_of_different_sizes_comparable() -> None:
    small, large = random_texts(100, seed=0), random_texts(2000, seed=1)
    assert distinct(large, 1).share.value < distinct(small, 1).share.value / 4  # type: ignore[operator]
    shares = [distinct(some, 1, ngrams=400).share for some in (small, large)]
    assert shares[0].value == pytest.approx(shares[1].value, abs=3 * max(share.error or 0 for share in shares))


def test_a_text_that_repeats_itself_still_does_in_a_sample() -> None:
    texts = [" ".join([f"{i}"] * 5) for i in range(100)]
    assert distinct(texts, 1, ngrams=50).share.value == distinct(texts, 1).share.value == 1 / 5


# Missing values


@pytest.mark.parametrize("texts", [[], [""], ["a b"], ["a b", "", " \n"]])
def test_one_text_has_no_other_to_be_like(texts: list[str]) -> None:
    assert self_bleu(texts) == NONE and jaccard(texts, 1) == Jaccard(NONE, NONE)


def test_two_texts_are_too_few_for_an_error_over_pairs() -> None:
    assert jaccard(["a b", "a c"], 1) == Jaccard(Estimate(1 / 3), Estimate(1 / 3))


@pytest.mark.parametrize("texts", [[], [""], ["a b c", "a"]])
def test_texts_shorter_than_an_ngram_have_none(texts: list[str]) -> None:
    assert distinct(texts, 4) == Distinct(NONE, 0)
    assert repetition(texts, 4) == NONE
    assert jaccard(texts, 4) == Jaccard(NONE, NONE)
    assert ngram_divergence(texts, ["a b c d"], 4) == Divergence(NONE, 0, 1)
    assert ngram_divergence(["a b c d"], texts, 4) == Divergence(NONE, 1, 0)


def test_a_single_text_has_no_error() -> None:
    assert distinct(["a a"], 1) == Distinct(Estimate(1 / 2), 2)
    assert repetition(["a a"], 1) == Estimate(1 / 2)
    assert reference_bleu(["a"], ["a b"], 1) == Estimate(pytest.approx(100 * math.exp(-1)))


def test_texts_without_words_are_no_diversity_and_no_quality() -> None:
    assert self_bleu(["a b", "a b", ""]).value == pytest.approx(100)
    assert reference_bleu(["a b", ""], ["a b"]).value == pytest.approx(50)
    assert reference_bleu([], ["a b"]) == reference_bleu(["a b"], []) == NONE


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: self_bleu(["a", "b"], 0), "n is 0: give a whole number of at least 1"),
        (lambda: self_bleu(["a", "b"], sample=1), "sample is 1: give a whole number of at least 2"),
        (lambda: reference_bleu(["a"], ["b"], -1), "n is -1"),
        (lambda: reference_bleu(["a"], ["b"], sample=0), "sample is 0: give a whole number of at least 1"),
        (lambda: distinct(["a"], 0), "n is 0"),
        (lambda: distinct(["a"], 1, ngrams=0), "ngrams is 0: give a whole number of at least 1"),
        (lambda: repetition(["a"], 0), "n is 0"),
        (lambda: jaccard(["a", "b"], 0), "n is 0"),
        (lambda: jaccard(["a", "b"], 1, sample=1), "sample is 1: give a whole number of at least 2"),
        (lambda: ngram_divergence(["a"], ["b"], 0), "n is 0"),
        (lambda: ngram_divergence(["a"], ["b"], 1, ngrams=0), "ngrams is 0"),
        (lambda: diversity(["a"], orders=[1, 0]), "n is 0"),
        (lambda: self_bleu("a rose"), r"the texts are one string, 'a rose', not a list of them: give \[text\]"),
        (lambda: reference_bleu(["a"], "a rose"), "the texts are one string, 'a rose'"),
        (lambda: diversity("a rose"), "the texts are one string, 'a rose'"),
    ],
)
def test_bad_options(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Results


def test_labels_say_how_much_text_and_how() -> None:
    results = diversity(["a b c"] * 30 + ["d e", "d", ""], ["a b", "c"], orders=[1, 3], sample=20, ngrams=40, seed=7)
    assert {name: result.label for name, result in results.items()} == {
        "self_bleu": "Self-BLEU-4 of 20 texts, exp smoothing, seed 7",
        "reference_bleu": "BLEU-4 of 20 texts against 2 references, exp smoothing, seed 7",
        "distinct_1": "distinct 1-grams of 40, seed 7",
        "distinct_3": "distinct 3-grams of 30, seed 7",
        "repetition_1": "repeated 1-grams inside 32 texts",
        "repetition_3": "repeated 3-grams inside 30 texts",
        "jaccard_1": "Jaccard similarity of 1-grams, 20 texts, seed 7",
        "jaccard_3": "Jaccard similarity of 3-grams, 20 texts, seed 7",
        "divergence_1": "Jensen-Shannon divergence of 1-grams, 40 against 3, seed 7",
        "divergence_3": "Jensen-Shannon divergence of 3-grams, 30 against 0, seed 7",
    }
    few = diversity(["a b c", "", "d"], bleu_order=2, orders=[2])
    assert [result.label for result in few.values()] == [
        "Self-BLEU-2 of 2 texts, exp smoothing, seed 0",
        "distinct 2-grams of 2, seed 0",
        "repeated 2-grams inside 1 texts",
        "Jaccard similarity of 2-grams, 1 texts, seed 0",
    ]


def test_figures_hold_what_the_functions_return() -> None:
    texts, references = random_texts(40, seed=0), random_texts(50, seed=1)
    results = diversity(texts, references, bleu_order=3, sample=30, ngrams=60, seed=5)
    expected = {
        "self_bleu": {"of 100": self_bleu(texts, 3, 30, 5)},
        "reference_bleu": {"of 100": reference_bleu(texts, references, 3, 30, 5)},
    }
    for n in (1, 2, 3):
        expected |= {
            f"distinct_{n}": {"share": distinct(texts, n, 60, 5).share},
            f"repetition_{n}": {"share": repetition(texts, n)},
            f"jaccard_{n}": dict(zip(["over pairs", "to the nearest"], jaccard(texts, n, 30, 5), strict=True)),
            f"divergence_{n}": {"nats": ngram_divergence(texts, references, n, 60, 5).nats},
        }
    assert {name: result.units for name, result in results.items()} == expected


def test_figures_print_and_are_plain_data_even_of_nothing() -> None:
    for texts in ([], ["a b c", "a b"]):
        result = Evaluation(diversity(texts, texts), {})
        assert "Self-BLEU-4" in result.table() and not any(result.bound_on for result in result.metrics.values())
        json.dumps(result.as_dict(), allow_nan=False)


# Short texts, and texts without blanks


SAME = ["今天天气很好。", "我们去公园。", "你好吗？", "他在家里看书。", "这是一本书。"]


@pytest.mark.parametrize("texts", [["thanks", "ok"], ["ok", "ok!", "yes please"], SAME, ["ok"], ["a b c d e f"]])
@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_copies_score_100(texts: list[str], tokenize: Any) -> None:
    assert bleu(texts, texts, tokenize) == pytest.approx(100)


def test_long_texts_score_as_sacrebleu_alone_says() -> None:
    from sacrebleu import corpus_bleu

    texts, originals = ["the cat sat on a mat", "a dog ran"], ["the cat sat on the mat", "a dog ran home"]
    assert bleu(texts, originals) == pytest.approx(corpus_bleu(texts, [originals]).score)
    near = ["今天天气不好。", *SAME[1:]]
    assert bleu(near, SAME, "zh") == pytest.approx(corpus_bleu(near, [SAME], tokenize="zh").score)
    assert 60 < (bleu(near, SAME, "zh") or 0) < 100


def test_texts_without_blanks_are_compared_by_characters() -> None:
    near = [text.replace("天", "日").replace("书", "信") for text in SAME]
    results = diversity(near, SAME, tokenize="zh")
    assert results["reference_bleu"].units["of 100"].value > 40
    assert results["divergence_2"].units["nats"].value < 0.5 * np.log(2)
    assert results["distinct_1"].units["share"].value < 1
    assert segmented(["我们 ok"], "zh") == ["我 们 ok"]
    with pytest.raises(ValueError, match="tokenize.*13a"):
        bleu(["a"], ["a"], "words")


def test_bleu_needs_as_many_originals_as_texts() -> None:
    with pytest.raises(ValueError, match="there are 2 originals for 1 texts: give one for each"):
        bleu(["a"], ["a", "b"])
