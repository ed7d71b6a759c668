"""Functions that pass options on name them in their signatures, and answer a misspelled one with the nearest."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.training.fit_prior import FIXED


@pytest.fixture(scope="module")
def run() -> Run:
    corpus = pf.Corpus.from_texts([f"number {n}" for n in range(30)], tokenizer="bytes", max_length=12)
    model = pf.NVAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    return Run(model, pf.NVAEGuide(model), corpus, RunFolder("nowhere"), {}, 0)


def paths(run: Run, **options: Any) -> object:
    mixture = pf.Mixture(torch.zeros(2).log_softmax(-1), torch.zeros(2, 2), noise_variance=1.0)
    return pf.plots.key_paths(torch.zeros(3, 2), mixture, **options)


CASES: list[tuple[str, Callable[..., object], str, str]] = [
    ("fit", lambda run, **options: pf.fit(run.model, run.guide, run.corpus, **options), "step", "steps"),
    ("fit_prior", pf.fit_prior, "learningrate", "learning_rate"),
    ("diagnostics.check_texts", pf.diagnostics.check_texts, "temprature", "temperature"),
    ("plots.key_paths", paths, "move", "moves"),
]


@pytest.mark.parametrize(("name", "call", "wrong", "right"), CASES, ids=[case[0] for case in CASES])
def test_options_are_named_and_others_refused(
    name: str, call: Callable[..., object], wrong: str, right: str, run: Run
) -> None:
    room, _, short = name.rpartition(".")
    shown = inspect.signature(getattr(getattr(pf, room) if room else pf, short)).parameters
    assert right in shown and all(item.kind is not item.VAR_KEYWORD for item in shown.values())
    way_out = rf"did you mean {right}\? help\(pyroformer\.{name}\) lists all"
    with pytest.raises(ValueError, match=rf"^{short} has no option {wrong}: {way_out}"):
        call(run, **{wrong: 1})


def test_a_second_stage_has_the_options_of_training_but_those_of_the_objective(run: Run) -> None:
    fields = set(TrainingOptions.__dataclass_fields__)
    assert fields - set(inspect.signature(pf.fit_prior).parameters) == set(FIXED) < fields
    for name in FIXED:
        with pytest.raises(ValueError, match=rf"^{name} is 1, but .*: leave {name} out"):
            pf.fit_prior(run, "mixture", **{name: 1})
