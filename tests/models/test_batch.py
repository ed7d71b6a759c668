"""Batches: padding by hand, with and without conditions."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyroformer.models.batch import EOS, PAD, Batch

TEXTS = [[5, 6, EOS], [7, EOS]]


def listed(part: Tensor | None) -> Any:
    assert part is not None
    return part.tolist()


def test_texts_without_conditions_have_none() -> None:
    for batch in (Batch.pad(TEXTS), Batch.unobserved(2), Batch.pad(TEXTS).to("cpu")):
        assert batch.condition_tokens is None and batch.condition_mask is None


def test_conditions_are_padded_at_the_end_and_may_be_empty() -> None:
    batch = Batch.pad(TEXTS, padded_length=4, conditions=[[8, 9, 3], []])
    assert listed(batch.tokens) == [[5, 6, EOS, PAD], [7, EOS, PAD, PAD]]
    assert listed(batch.condition_tokens) == [[8, 9, 3], [PAD, PAD, PAD]]
    assert listed(batch.condition_mask) == [[True, True, True], [False, False, False]]
    assert [part.dtype for part in batch[3:] if part is not None] == [torch.long, torch.bool]


def test_conditions_that_are_all_empty_have_a_column() -> None:
    batch = Batch.pad(TEXTS, conditions=[[], []])
    assert listed(batch.condition_tokens) == [[PAD], [PAD]]
    assert listed(batch.condition_mask) == [[False], [False]]


def test_unobserved_texts_may_have_conditions() -> None:
    like = torch.zeros((), dtype=torch.float64, device="meta")
    batch = Batch.unobserved(2, like, conditions=[[8], [9, 3]])
    assert not batch.observed
    assert batch.weight.dtype == torch.float64
    assert [part.device.type for part in batch if part is not None] == ["meta"] * 3


def test_a_batch_moves_with_its_conditions() -> None:
    moved = Batch.pad(TEXTS, conditions=[[8], []]).to("meta")
    assert [part.device.type for part in moved if part is not None] == ["meta"] * 5


def test_conditions_of_another_number() -> None:
    for conditions in ([[8]], [[8], [9], [3]]):
        with pytest.raises(
            ValueError, match=f"texts: 2, conditions: {len(conditions)}. Give one condition for each text"
        ):
            Batch.pad(TEXTS, conditions=conditions)
