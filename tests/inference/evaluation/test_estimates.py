"""Rates, errors and counts, by hand."""

import math

import numpy as np
import pytest
import torch

from pyroformer.inference.evaluation.bleu import bleu
from pyroformer.inference.evaluation.estimates import Estimate, perplexity, ratio
from pyroformer.inference.evaluation.metrics.components import count_for_mass, effective_components


def test_ratio_by_hand() -> None:
    rate, error = ratio(np.array([2.0, 6.0]), np.array([1.0, 3.0]))
    assert (rate, error) == (2.0, 0.0)
    rate, error = ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert rate == 1.0 and error == pytest.approx(0.5)  # sqrt(2 * (1 + 1)) / 4


def test_the_error_of_a_ratio_is_that_of_its_repetitions() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 20, (2000, 200)).astype(float)
    values = counts * 1.5 + generator.normal(size=counts.shape) * np.sqrt(counts)
    rates, errors = zip(*(ratio(v, c) for v, c in zip(values, counts, strict=True)), strict=True)
    assert np.std(rates) == pytest.approx(np.mean([error or 0 for error in errors]), rel=0.05)


def test_a_single_text_has_no_error_and_nothing_has_no_rate() -> None:
    assert ratio(np.array([3.0]), np.array([2.0])) == Estimate(1.5)
    for value, count in [(3.0, 0.0), (math.inf, 2.0), (math.nan, 2.0)]:
        assert ratio(np.array([value, 1.0]), np.array([count, 0.0])) == Estimate(None)


def test_perplexity_stays_in_log_space() -> None:
    assert perplexity(Estimate(math.log(7.0), 0.1)).value == pytest.approx(7.0)
    assert perplexity(Estimate(math.log(7.0), 0.1)).error == pytest.approx(0.7)
    assert perplexity(Estimate(math.log(0.99e9))).value == pytest.approx(0.99e9)
    for rate in (math.log(1.01e9), 1e5, math.inf, math.nan, None):
        assert perplexity(Estimate(rate)) == Estimate(None)


def test_bleu_of_what_is_equal_different_and_missing() -> None:
    texts = ["The cat sat on the mat.", "A dog ran over the hill."]
    assert bleu(texts, texts) == pytest.approx(100)
    assert bleu(["", ""], texts) == 0
    assert bleu([], []) is None
    # 6 of 7 unigrams, 4 of 6 bigrams, 2 of 5 trigrams, 1 of 4 four-grams; no brevity penalty
    by_hand = 100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
    assert bleu(["The cat sat on a mat."], ["The cat sat on the mat."]) == pytest.approx(by_hand)


def test_effective_components() -> None:
    weights = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]])
    expected = torch.tensor([4.0, 1.0, math.exp(1.5 * math.log(2))])
    torch.testing.assert_close(effective_components(weights.log()), expected)


@pytest.mark.parametrize(("mass", "count"), [(0.3, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.99, 3), (1.0, 3)])
def test_count_for_mass(mass: float, count: int) -> None:
    assert count_for_mass(torch.tensor([[0.2, 0.0, 0.5, 0.3]]), mass).tolist() == [count]
    assert count_for_mass(2 * torch.tensor([[0.2, 0.0, 0.5, 0.3]]), mass).tolist() == [count]  # shares of any total
