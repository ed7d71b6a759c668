"""Memories of a decoder: their batch shapes, flattened and stacked; absent parts stay absent."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from pyroformer.models.attention.attend import attend
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import SharedVariances
from pyroformer.models.batch import PAD, Batch
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.fusion import Fusion
from pyroformer.models.transformer.memory import Context, batch_shape, flat, stacked
from pyroformer.models.transformer.stacks import Decoder

CONDITION = torch.tensor([[5, 6, 7], [8, 9, PAD]])


def context(memory: object) -> Context:
    assert isinstance(memory, Context)
    return memory


def parts(memory: object) -> tuple[Tensor, Tensor, Tensor]:
    """All three parts of a context that has them."""
    known = context(memory)
    assert known.latents is not None and known.condition_tokens is not None
    return known.latents, known.condition_tokens, known.present


@pytest.mark.parametrize(
    ("memory", "shape"),
    [
        (Context(torch.zeros(4, 8)), ()),
        (Context(torch.zeros(3, 4, 8)), (3,)),
        (Context(torch.zeros(5, 1, 4, 8), CONDITION), (5, 2)),
        (Context(condition_tokens=CONDITION), (2,)),
        (Context(torch.zeros(4, 8), CONDITION), (2,)),
        (Context(torch.zeros(7, 2, 4, 8), CONDITION[0]), (7, 2)),
        (Mixture(torch.zeros(3, 5), torch.zeros(5, 6)), (3,)),
        (Mixture(torch.zeros(5), torch.zeros(7, 3, 5, 6)), (7, 3)),
    ],
)
def test_the_shape_of_the_texts(memory: Context | Mixture, shape: tuple[int, ...]) -> None:
    assert batch_shape(memory) == shape


def test_flat_makes_one_row_of_each_text() -> None:
    latents = torch.randn(5, 1, 4, 8)
    rows, tokens, present = parts(flat(Context(latents, CONDITION, CONDITION != PAD), (5, 2)))
    assert rows.shape == (10, 4, 8) and tokens.shape == present.shape == (10, 3)
    for row, (s, text) in enumerate(product(range(5), range(2))):
        assert torch.equal(rows[row], latents[s, 0])
        assert torch.equal(tokens[row], CONDITION[text])
        assert torch.equal(present[row], CONDITION[text] != PAD)


def test_flat_keeps_absent_parts_absent() -> None:
    memory = context(flat(Context(torch.zeros(3, 4, 8)), (3,)))
    assert memory.condition_tokens is None and memory.condition_mask is None
    memory = context(flat(Context(condition_tokens=CONDITION), (2,)))
    assert memory.latents is None and memory.condition_mask is None and bool(memory.present.all())


def test_flat_of_one_text_and_of_no_batch() -> None:
    latents = torch.randn(4, 8)
    assert torch.equal(context(flat(Context(latents), ())).latents, latents[None])  # type: ignore[arg-type]
    assert torch.equal(context(flat(Context(latents), (3,))).latents[2], latents)  # type: ignore[index]


def test_flat_mixtures() -> None:
    mixture = Mixture(torch.randn(2, 5), torch.randn(7, 1, 5, 6), torch.rand(5, 1), mask=torch.rand(2, 5) < 0.5)
    rows = flat(mixture, (7, 2))
    assert isinstance(rows, Mixture) and mixture.mask is not None and rows.mask is not None
    for row, (s, text) in enumerate(product(range(7), range(2))):
        assert torch.equal(rows.means[row], mixture.means[s, 0])
        assert torch.equal(rows.log_weights[row], mixture.log_weights[text])
        assert torch.equal(rows.mask[row], mixture.mask[text])
    assert rows.variances is mixture.variances, "of all texts"


@pytest.mark.parametrize(
    "parts",
    [
        {"variances": SharedVariances(torch.rand(2, 6), torch.randint(2, (2, 5)))},
        {"variances": torch.rand(7, 1, 5, 6), "values": torch.randn(2, 5, 6), "value_variances": torch.rand(5, 6)},
        {"log_weights": torch.randn(5), "means": torch.randn(2, 5, 6)},
        {"means": torch.randn(2, 5, 6)},
    ],
    ids=["shared variances", "values", "weights of all", "a text each"],
)
def test_flat_mixtures_are_attended_to_as_before(parts: dict[str, Any]) -> None:
    mixture = Mixture(**{"log_weights": torch.randn(2, 5), "means": torch.randn(7, 1, 5, 6)} | parts)
    rows, queries = flat(mixture, (7, 2)), torch.randn(7, 2, 3, 6)
    assert isinstance(rows, Mixture) and rows.value_variances is None, "decoders use posterior means only"
    expected = attend(queries, replace(mixture, value_variances=None)).flatten(0, 1)
    torch.testing.assert_close(attend(queries.flatten(0, 1), rows), expected)


def test_a_condition_without_a_mask_is_there_everywhere() -> None:
    assert torch.equal(Context(condition_tokens=CONDITION).present, torch.ones(2, 3, dtype=torch.bool))
    mask = CONDITION != PAD
    assert torch.equal(Context(condition_tokens=CONDITION, condition_mask=mask).present, mask)


def test_contexts_with_conditions_of_different_lengths_are_stacked() -> None:
    each = [
        Context(torch.full((1, 4, 8), 1.0), torch.tensor([[5, 6, 7]])),
        Context(torch.full((1, 4, 8), 2.0), torch.tensor([[8, 17]]), torch.tensor([[True, False]])),
        Context(torch.full((1, 4, 8), 3.0), torch.empty(1, 0, dtype=torch.long)),
    ]
    latents, tokens, present = parts(stacked(each))
    assert latents[:, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert tokens[0].tolist() == [5, 6, 7] and tokens[1, 0] == 8
    assert present.tolist() == [[True, True, True], [True, False, False], [False, False, False]]


def test_stacked_keeps_absent_parts_absent() -> None:
    memory = context(stacked([Context(torch.zeros(1, 4, 8))] * 2))
    assert memory.condition_tokens is None and memory.condition_mask is None
    memory = context(stacked([Context(condition_tokens=CONDITION[:1, :2]), Context(condition_tokens=CONDITION[1:])]))
    assert memory.latents is None and memory.present.tolist() == [[True, True, False], [True, True, True]]


def test_stacked_mixtures_of_different_sizes() -> None:
    one, other = (Mixture(torch.randn(1, n), torch.randn(1, n, 6)) for n in (2, 4))
    both = stacked([one, other])
    assert isinstance(both, Mixture) and both.mask is not None
    assert both.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert torch.equal(both.means[:1, :2], one.means) and torch.equal(both.means[1:], other.means)


def test_stacked_texts_get_the_hidden_states_of_each_alone() -> None:
    config = TransformerConfig(vocabulary=30, max_length=6, width=16, layers=2, heads=2, max_condition_length=3)
    decoder = Decoder(config, fusion=Fusion("film", latent=4, layers=(0, 1))).eval()
    for parameter in decoder.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    tokens = torch.randint(3, 30, (3, 6))
    conditions = torch.tensor([[5, 6, 7]]), torch.tensor([[8]]), torch.empty(1, 0, dtype=torch.long)
    each = [Context(torch.randn(1, 2, 4), condition) for condition in conditions]
    together = decoder(tokens, stacked(each))
    for i, alone in enumerate(each):
        torch.testing.assert_close(together[i : i + 1], decoder(tokens[i : i + 1], alone), atol=1e-5, rtol=0)


def test_a_condition_alone_stands_before_the_text() -> None:
    config = TransformerConfig(vocabulary=30, max_length=6, width=16, layers=2, heads=2, max_condition_length=3)
    decoder, tokens = Decoder(config).eval(), torch.randint(3, 30, (2, 6))
    before = torch.cat([CONDITION, torch.full((2, 1), config.bos), tokens[:, :-1]], 1)
    mask = torch.cat([CONDITION != PAD, torch.ones_like(tokens, dtype=torch.bool)], 1)
    expected = decoder.step(before, decoder.cache((2,), 9), mask)[:, 3:]
    hidden = decoder(tokens, Context(condition_tokens=CONDITION, condition_mask=CONDITION != PAD))
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)


def test_an_empty_context_is_refused() -> None:
    with pytest.raises(ValueError, match="the context is empty: give latents or a condition, or no context at all"):
        Context()


@pytest.mark.parametrize("count", [0, 3])
def test_a_batch_has_a_condition_for_each_text_or_none(count: int) -> None:
    with pytest.raises(ValueError, match=f"texts: 2, conditions: {count}. Give one condition for each text"):
        Batch.pad([[5, 2], [2]], conditions=[[7]] * count)
    with pytest.raises(ValueError, match=f"texts: 2, conditions: {count}. Give one condition for each text"):
        Batch.unobserved(2, conditions=[[7]] * count)


def test_conditions_go_where_their_batch_goes() -> None:
    batch = Batch.pad([[5, 2], [2]], conditions=[[7, 8], []])
    assert batch.condition_tokens is not None and batch.condition_mask is not None
    assert batch.condition_mask.tolist() == [[True, True], [False, False]]
    moved = batch.to("meta")
    assert all(part is not None and part.device.type == "meta" for part in moved)
    assert Batch.unobserved(2).to("meta").condition_tokens is None
