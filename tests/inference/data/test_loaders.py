"""Batches: every text once an epoch, few shapes, and an order that depends on nothing but seed and step."""

import pickle
from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pyroformer.inference.data import loaders
from pyroformer.inference.data.loaders import TrainingStream, sequential_batches
from pyroformer.inference.data.texts import Texts
from pyroformer.inference.data.tokenizer import Tokenizer
from pyroformer.inference.utils.bucketing import bucket_lengths
from pyroformer.models.batch import EOS, PAD, Batch

TOKENIZER = Tokenizer.train([""], 259)


def texts_of(count: int, max_length: int = 40, seed: int = 0) -> Texts:
    """Different texts of random length."""
    lengths = np.random.default_rng(seed).integers(0, max_length - 5, count)
    return Texts.encode([f"{i:04}" + "x" * length for i, length in enumerate(lengths)], TOKENIZER, max_length)


def seen(batches: list[Batch]) -> Counter[str]:
    """The texts of the rows that weigh something."""
    return Counter(
        text
        for batch in batches
        for text, weight in zip(TOKENIZER.decode_batch(batch.tokens), batch.weight, strict=True)
        if weight
    )


def equal(one: Batch, other: Batch) -> bool:
    return all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))


sizes = {
    "count": st.integers(1, 40),
    "batch_size": st.integers(1, 9),
    "world": st.integers(1, 3),
    "accumulate_grad_batches": st.integers(1, 3),
    "seed": st.integers(0, 2**32),
}


@settings(max_examples=25, deadline=None)
@given(epoch=st.integers(0, 3), **sizes)
def test_every_text_comes_once_an_epoch(
    count: int, batch_size: int, world: int, accumulate_grad_batches: int, seed: int, epoch: int
) -> None:
    texts = texts_of(count)
    streams = [
        TrainingStream(texts, batch_size, seed, rank=rank, world=world, accumulate_grad_batches=accumulate_grad_batches)
        for rank in range(world)
    ]
    steps = range(epoch * streams[0].steps_per_epoch, (epoch + 1) * streams[0].steps_per_epoch)
    batches = [[stream.step(step) for stream in streams] for step in steps]
    assert seen([b for step in batches for rank in step for b in rank]) == Counter(texts[:])
    for step in batches:
        rows = [batch for rank in step for batch in rank]
        assert len({batch.tokens.shape for batch in rows}) == 1
        assert rows[0].tokens.shape[0] == batch_size
        assert rows[0].tokens.shape[1] in texts.padded_lengths
        real = sum(int((batch.weight > 0).sum()) for batch in rows)
        # what DDP (mean over ranks) and Lightning (divides by accumulate) make of the weights
        effective = torch.cat([batch.weight for batch in rows]) / (world * accumulate_grad_batches)
        torch.testing.assert_close(effective[effective > 0], torch.full((real,), 1 / real))


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 100), **sizes)
def test_ranks_and_micro_batches_divide_the_step_of_one_process(
    count: int, batch_size: int, world: int, accumulate_grad_batches: int, seed: int, step: int
) -> None:
    texts = texts_of(count)
    whole = TrainingStream(texts, batch_size * world * accumulate_grad_batches, seed).micro_batch(step)
    parts = [
        batch
        for rank in range(world)
        for batch in TrainingStream(
            texts, batch_size, seed, rank=rank, world=world, accumulate_grad_batches=accumulate_grad_batches
        ).step(step)
    ]
    assert seen(parts) == seen([whole])
    counts = [int((part.weight > 0).sum()) for part in parts]
    assert max(counts) - min(counts) <= 1


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 40), **sizes)
def test_resumption_at_any_step_equals_an_uninterrupted_run(
    count: int, batch_size: int, world: int, accumulate_grad_batches: int, seed: int, start: int
) -> None:
    texts = texts_of(count)
    options = {"rank": world - 1, "world": world, "accumulate_grad_batches": accumulate_grad_batches}
    uninterrupted = TrainingStream(texts, batch_size, seed, **options)
    resumed = TrainingStream(texts, batch_size, seed, **options)
    resumed.resume(uninterrupted.position(start))
    expected = islice(uninterrupted, start * accumulate_grad_batches, (start + 5) * accumulate_grad_batches)
    assert all(equal(*pair) for pair in zip(expected, resumed, strict=False))


def test_masks_mark_the_tokens_and_fillers_are_an_end_alone() -> None:
    texts = texts_of(10)
    stream = TrainingStream(texts, 16)
    [batch] = stream.step(0)
    assert (batch.tokens.dtype, batch.mask.dtype, batch.weight.dtype) == (torch.long, torch.bool, torch.float32)
    assert batch.tokens.is_contiguous()
    assert batch.lengths.tolist() == [len(TOKENIZER.encode(t)) for t in TOKENIZER.decode_batch(batch.tokens)]
    assert (batch.tokens[~batch.mask] == PAD).all()
    filler = batch.weight == 0
    assert filler.sum() == 6
    assert (batch.tokens[filler, 0] == EOS).all() and (batch.lengths[filler] == 1).all()


def test_epochs_and_seeds_differ() -> None:
    texts = texts_of(64)
    one, other = TrainingStream(texts, 8, seed=1), TrainingStream(texts, 8, seed=2)
    orders = [[one.micro_batch(step).tokens.tolist() for step in range(8 * e, 8 * e + 8)] for e in range(3)]
    orders.append([other.micro_batch(step).tokens.tolist() for step in range(8)])
    assert all(a != b for a, b in combinations(orders, 2))


def test_a_plan_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stable sort by bucket and the longest text of each step, all at once; parts of three rows."""
    lengths = np.random.default_rng(0).integers(1, 33, 50)
    padded_lengths = (8, 16, 32)
    tokens, offsets = np.full(lengths.sum(), EOS, np.uint16), np.append(0, np.cumsum(lengths))
    texts = Texts(tokens, offsets, TOKENIZER, padded_lengths)
    generator = np.random.default_rng((4, 0))
    order = generator.permutation(50)
    order = order[np.argsort(np.searchsorted(padded_lengths, lengths)[order], kind="stable")]
    chunks = np.append(order, [-1] * 6).reshape(8, 7)
    longest = np.where(chunks < 0, 0, lengths[chunks]).max(1)
    shuffled = generator.permutation(8)
    monkeypatch.setattr(loaders, "_parts", lambda rows, size=1: [slice(i, min(i + 3, rows)) for i in range(0, rows, 3)])
    steps, padded = TrainingStream(texts, 7, seed=4)._epoch(0)
    assert steps.tolist() == chunks[shuffled].tolist()
    assert padded.tolist() == np.array(padded_lengths)[np.searchsorted(padded_lengths, longest)][shuffled].tolist()


def test_batches_are_mostly_full() -> None:
    texts = texts_of(2000, max_length=64)
    batches = [batch for _, batch in zip(range(31), TrainingStream(texts, 64), strict=False)]
    assert len(batches) * 64 - 2000 < 64
    assert torch.stack([batch.mask.float().mean() for batch in batches]).mean() > 0.8


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes:UserWarning")
def test_a_data_loader_changes_nothing(workers: int) -> None:
    stream = TrainingStream(texts_of(30), 4, accumulate_grad_batches=2, start=5)
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    batches = list(islice(loader, 12))
    assert all(isinstance(batch, Batch) for batch in batches)
    expected = [batch for step in range(5, 11) for batch in stream.step(step)]
    assert all(equal(*pair) for pair in zip(batches, expected, strict=True))


def test_a_stream_travels_to_another_process() -> None:
    stream = TrainingStream(texts_of(30), 4)
    assert equal(pickle.loads(pickle.dumps(stream)).micro_batch(3), stream.micro_batch(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: give a whole number of at least 1"),
        ({"world": 0}, "world is 0: give a whole number of at least 1"),
        ({"accumulate_grad_batches": -1}, "accumulate_grad_batches is -1: give a whole number of at least 1"),
        ({"rank": 2, "world": 2}, "rank 2 is none of 2 processes: give one from 0 to 1"),
    ],
)
def test_impossible_sizes(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingStream(texts_of(3), **options)


def test_no_texts() -> None:
    with pytest.raises(ValueError, match="no texts to train on"):
        TrainingStream(Texts.encode([], TOKENIZER, 8))


@pytest.mark.parametrize("other", [{"seed": 1}, {"batch_size": 8}, {"accumulate_grad_batches": 2}])
def test_a_run_that_would_go_on_with_other_batches(other: dict[str, int]) -> None:
    state = TrainingStream(texts_of(30), 4).position(3)
    with pytest.raises(ValueError, match="its batches would be others. Resume it with the same data, seed and texts"):
        TrainingStream(texts_of(30), **{"batch_size": 4, **other}).resume(state)


def test_a_step_may_be_divided_differently_after_resuming() -> None:
    state = TrainingStream(texts_of(30), 8).position(3)
    stream = TrainingStream(texts_of(30), 2, world=2, accumulate_grad_batches=2)
    stream.resume(state)
    assert stream.start == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9))
def test_once_gives_every_text_once_and_says_which(count: int, batch_size: int) -> None:
    texts = texts_of(count, max_length=10)  # many have one length, and stay in their order
    batches, lengths = list(sequential_batches(texts, batch_size)), texts.lengths.tolist()
    assert [i for indices, _ in batches for i in indices] == sorted(range(count), key=lengths.__getitem__)
    assert all(batch.tokens.shape[0] == batch_size for _, batch in batches)
    assert {batch.tokens.shape[1] for _, batch in batches} <= set(texts.padded_lengths)
    for indices, batch in batches:
        assert TOKENIZER.decode_batch(batch.tokens)[: len(indices)] == [texts[i] for i in indices]
        expected = [1 / len(indices)] * len(indices) + [0.0] * (batch_size - len(indices))
        assert batch.weight.tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="batch_size is 0: give a whole number of at least 1"):
        next(sequential_batches(texts, 0))


def padded(lengths: np.ndarray, widths: tuple[int, ...]) -> int:
    return sum(min(width for width in widths if width >= length) for length in lengths)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=30), st.integers(70, 80), st.integers(1, 4))
def test_buckets_waste_least(some: list[int], max_length: int, at_most: int) -> None:
    lengths = np.array(some)
    widths = bucket_lengths(lengths, max_length, at_most)
    candidates = sorted({min(max_length, 8 * i) for i in range(1, -(-max(some) // 8) + 1)})
    choices = [c for k in range(at_most) for c in combinations(candidates[:-1], k)]
    assert padded(lengths, widths) == min(padded(lengths, (*choice, candidates[-1])) for choice in choices)
    assert len(widths) <= at_most
    assert list(widths) == sorted(set(widths))


@pytest.mark.parametrize(
    ("lengths", "max_length", "expected"),
    [([3], 64, (8,)), ([60], 62, (62,)), ([64], 64, (64,)), ([3, 9], 10, (8, 10)), ([], 16, (8,))],
)
def test_buckets_are_multiples_of_eight_within_the_window(
    lengths: list[int], max_length: int, expected: tuple[int, ...]
) -> None:
    assert bucket_lengths(np.array(lengths, dtype=int), max_length) == expected


def test_buckets_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="a text of 9 tokens does not fit into a max_length of 8: split or drop it"):
        bucket_lengths(np.array([3, 9]), 8)
