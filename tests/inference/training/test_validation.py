"""Validation without a Trainer: the share of a process, the best loss, patience, and a warning."""

import pytest
import torch
from torch import Tensor

import pyroformer as pf
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.training.validation import Validation, dealt
from pyroformer.models.batch import Batch
from pyroformer.models.transformer.mixtures.posterior import NO_VECTORS


@pytest.fixture(scope="module")
def corpus() -> pf.Corpus:
    return pf.Corpus.from_texts([f"Number {n}." for n in range(200)], vocabulary=265)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_every_process_validates_as_many_batches(world: int) -> None:
    """Those that share the weights compute together: one that had fewer would leave the others waiting."""
    for count in range(1, 9):
        batches = [pf.Batch.pad([[5 + number, 2]]) for number in range(count)]
        shares = [list(dealt(enumerate((None, batch) for batch in batches), rank, world)) for rank in range(world)]
        assert {len(share) for share in shares} == {-(-count // world)}
        taken = [index for share in shares for index, batch in share if batch.weight.sum() > 0]
        assert sorted(taken) == list(range(count))
        assert all(torch.equal(batch.tokens, batches[index].tokens) for share in shares for index, batch in share)


def lengths(batch: Batch) -> dict[str, Tensor]:
    return {"objective": (batch.weight * batch.lengths).sum(), "noise": torch.rand(()) * batch.weight.sum()}


def test_processes_measure_together_what_one_measures(corpus: pf.Corpus) -> None:
    validation = Validation(corpus.valid, TrainingOptions(batch_size=4, validation_texts=7))
    device, options = torch.device("cpu"), {"atol": 1e-12, "rtol": 0.0}
    alone = validation.measure(lengths, device)
    shares = [validation.measure(lengths, device, rank, 3) for rank in range(3)]
    assert float(alone.sums["texts"]) == len(validation.texts) == 7
    for name, total in alone.sums.items():
        torch.testing.assert_close(sum(share.sums[name] for share in shares), total, **options)
    assert alone.read()["objective"] == 1.0


def test_patience_counts_from_the_best_loss(corpus: pf.Corpus) -> None:
    validation = Validation(corpus.valid, TrainingOptions(patience=2))
    noted = [(validation.note(loss, step), validation.is_over) for step, loss in enumerate((3.0, 2.0, 2.5, 2.0))]
    assert noted == [(True, False), (True, False), (False, False), (False, True)]
    assert (validation.best, validation.best_step, validation.wait) == (2.0, 1, 2)


def test_a_checkpoint_of_other_texts_has_no_best_loss_of_these(corpus: pf.Corpus) -> None:
    few = Validation(corpus.valid, TrainingOptions(validation_texts=3))
    few.note(2.0, 5)
    old = {name: value for name, value in few.state().items() if name != "validation_texts"}  # it read them all
    for state, count, others in ((few.state(), 3, False), (few.state(), 4, True), (old, 1024, False), (old, 3, True)):
        validation = Validation(corpus.valid, TrainingOptions(validation_texts=count))
        validation.load_state(state)
        assert (validation.best, validation.best_on_other_texts) == (2.0, others)


def test_a_layer_that_keeps_no_vector_is_named_once(corpus: pf.Corpus, recwarn: pytest.WarningsRecorder) -> None:
    validation = Validation(corpus.valid, TrainingOptions())
    for values in ({"kept": 1.0}, {"kept": 1.0, "kept_decoder_2": 0.0}, {"kept": 0.0}):
        validation.warn_of_no_vectors(values, step=4)
    assert [str(warning.message) for warning in recwarn] == [f"step 4, layer 2 of the decoder: {NO_VECTORS}"]
