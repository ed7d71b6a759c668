"""Edited mixtures: the text is decoded from the mixture with exactly these changes."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.generation.decoding import Decoding
from pyroformer.inference.generation.editing import edit, vectors
from pyroformer.inference.generation.generate import decode, encode, reconstruct
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE

TEXT, OTHER = "A few and 64 more.", "Ones and 125 more."
SAMPLED = Decoding()  # with fixed noise, sampled texts are sensitive to small changes
TEXTS = [TEXT, OTHER] + [f"{'Ones' if n % 3 else 'A few'} and {n * n * n} more." for n in range(40)]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS, vocabulary=270, max_length=24)


@pytest.fixture(scope="module", params=[1, 3], ids=["kappa 1", "kappa 3"])
def run(corpus: Corpus, request: pytest.FixtureRequest) -> Run:
    """An untrained run whose decoder depends on its mixture."""
    torch.manual_seed(1)
    model = NVAE.for_corpus(
        corpus, base_measure="gaussian", width=16, layers=2, heads=2, samples_per_component=request.param, init_std=0.02
    )
    guide = NVAEGuide(model, variance="shared" if request.param == 3 else "diagonal")
    for module in (model, guide):
        for parameter in module.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return Run(model, guide, corpus, RunFolder(corpus.folder), {}, 0)


def mean(run: Run, text: str) -> Mixture:
    memory: Mixture = encode(run, text).memory()
    return replace(memory, variances=memory.dense_variances())


def samples_per_component(run: Run) -> int:
    return run.model.samples_per_component  # type: ignore[return-value]


def test_without_edits_the_text_is_its_reconstruction(run: Run) -> None:
    assert edit(run, TEXT).text == reconstruct(run, [TEXT])[0].text
    own = reconstruct(run, [TEXT], SAMPLED)[0].text
    assert edit(run, TEXT, scale={3: 1.0}, decoding=SAMPLED).text == own


def test_vectors_are_numbered_as_a_reconstruction_lists_them(run: Run) -> None:
    listed, reconstruction = vectors(run, TEXT), reconstruct(run, [TEXT])[0]
    assert [vector.number for vector in listed] == list(range(len(reconstruction.tokens) + 1))
    assert tuple(vector.token for vector in listed) == (None, *reconstruction.tokens)
    assert [vector.weight for vector in listed] == pytest.approx(
        [reconstruction.prior_weight, *reconstruction.token_weights], abs=1e-6
    )  # type: ignore[misc]


def test_a_dropped_vector_is_out_of_the_mixture_with_all_its_components(run: Run) -> None:
    memory, k = mean(run, TEXT), samples_per_component(run)
    keep = [n for n in range(memory.components) if n // k not in (2, 4, 5)]
    assert isinstance(memory.variances, torch.Tensor)
    left = Mixture(memory.log_weights[:, keep], memory.means[:, keep], memory.variances[:, keep])
    edited = edit(run, TEXT, drop=[2, 4, 5], decoding=SAMPLED)
    assert edited.text == decode(run, left, SAMPLED)[0]
    assert (edited.original, edited.dropped) == (TEXT, (2, 4, 5))


def test_numbers_may_come_from_an_iterator(run: Run) -> None:
    assert edit(run, TEXT, drop=iter([1, 2])) == edit(run, TEXT, drop=[1, 2])


def test_all_but_the_priors_vector_may_go(run: Run) -> None:
    memory, k = mean(run, TEXT), samples_per_component(run)
    assert isinstance(memory.variances, torch.Tensor)
    prior = Mixture(memory.log_weights[:, :k], memory.means[:, :k], memory.variances[:, :k])
    every = range(1, len(vectors(run, TEXT)))
    assert edit(run, TEXT, drop=every, decoding=SAMPLED).text == decode(run, prior, SAMPLED)[0]


def test_factors_scale_weights(run: Run) -> None:
    memory, k = mean(run, TEXT), samples_per_component(run)
    log_weights = memory.log_weights.clone()
    log_weights[:, 3 * k : 4 * k] += math.log(50)
    log_weights[:, :k] -= math.log(10)
    edited = edit(run, TEXT, scale={3: 50.0, 0: 0.1}, decoding=SAMPLED)
    assert edited.text == decode(run, replace(memory, log_weights=log_weights), SAMPLED)[0]
    assert edited.scaled == {3: 50.0, 0: 0.1}


def test_a_swapped_vector_is_the_other_texts(run: Run) -> None:
    memory, other, k = mean(run, TEXT), mean(run, OTHER), samples_per_component(run)
    vectors_, variances = memory.means.clone(), memory.dense_variances().clone()  # type: ignore[union-attr]
    for number, source in {3: 5, 1: 2}.items():
        mine, theirs = slice(number * k, (number + 1) * k), slice(source * k, (source + 1) * k)
        vectors_[:, mine], variances[:, mine] = other.means[:, theirs], other.variances[:, theirs]  # type: ignore[index]
    edited = edit(run, TEXT, swap={3: 5, 1: 2}, other=OTHER, decoding=SAMPLED)
    assert edited.text == decode(run, replace(memory, means=vectors_, variances=variances), SAMPLED)[0]
    assert (edited.swapped, edited.other) == ({3: 5, 1: 2}, OTHER)


def test_every_edit_and_the_seed_change_the_text(run: Run) -> None:
    edits: list[dict[str, Any]] = [{}, {"drop": [1]}, {"drop": [2, 3]}, {"scale": {1: 9.0}}]
    edits += [{"swap": {1: 2, 3: 5}, "other": OTHER}, {"seed": 1}]
    assert len({run.edit(TEXT, temperature=1.0, **options).text for options in edits}) == len(edits)
    assert run.edit(TEXT, temperature=1.0, seed=1) == run.edit(TEXT, temperature=1.0, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 1}, "drop is 1: give a list of numbers"),
        ({"drop": ["1"]}, "drop is '1', a str: give a number"),
        ({"scale": 0.5}, r"scale is 0\.5: give a number for each vector by its own, such as scale=\{3: 5\}"),
        (
            {"swap": [1, 2], "other": OTHER},
            r"swap is \[1, 2\]: give a number for each vector by its own, such as swap=",
        ),
    ],
)
def test_edits_of_another_type_are_refused(run: Run, options: dict[str, Any], message: str) -> None:
    unchecked = getattr(edit, "__wrapped__", edit)  # without the tests' own checks of types
    with pytest.raises(ValueError, match=message):
        unchecked(run, TEXT, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": [0]}, "vector 0 is the prior's and stays: drop or swap others, or scale it"),
        ({"swap": {0: 1}, "other": OTHER}, "vector 0 is the prior's and stays"),
        ({"drop": [-1]}, "there is no vector -1 in 'A few and 64 more.': give 0, the prior's, or 1 to"),
        ({"scale": {99: 2.0}}, "there is no vector 99 in 'A few and 64 more.'"),
        ({"swap": {1: 99}, "other": OTHER}, "there is no vector 99 in 'Ones and 125 more.'"),
        ({"scale": {1: -2.0}}, r"scale is 1=-2: give a positive, finite factor"),
        ({"drop": [2], "scale": {2: 2.0}}, "vector 2 is both dropped and changed: choose one"),
        (
            {"swap": {1: 1}},
            "swap needs other, the text to take vectors from: give both, or leave swap out",
        ),
        ({"other": OTHER}, "other needs swap, such as 3=5: give both, or leave other out"),
    ],
)
def test_invalid_edits(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit(run, TEXT, **options)


def test_a_run_without_a_mixture_says_so(corpus: Corpus) -> None:
    plain = Run(LanguageModel.for_corpus(corpus, width=16), None, corpus, RunFolder(corpus.folder), {}, 0)
    for call in (edit, vectors):
        with pytest.raises(ValueError, match="a LanguageModel has no mixture to edit: fit an nvae to have one"):
            call(plain, TEXT)


def test_the_command_lists_vectors_and_then_edits_them(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyroformer.inference.cli.commands import edit as module

    def command(**flags: Any) -> list[dict[str, Any]]:
        module.edit(run="runs/a", text=TEXT, **flags)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    monkeypatch.setattr(module, "open_run", lambda options: run)
    listed = command()
    assert [item["number"] for item in listed] == [vector.number for vector in vectors(run, TEXT)]
    assert listed[0]["token"] is None and sum(item["weight"] for item in listed) == pytest.approx(1)
    edited = command(drop="2,4-5", scale="3=0.1", swap="1=2", other=OTHER)
    again = edit(run, TEXT, drop=[2, 4, 5], scale={3: 0.1}, swap={1: 2}, other=OTHER)
    done = {"dropped": [2, 4, 5], "scaled": {"3": 0.1}, "swapped": {"1": 2}, "other": OTHER}
    assert edited == [{"original": TEXT, "text": again.text} | done]
