"""What a person sees of a run in Python: its summary, its curve, where it is, what it samples."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import jaxtyping
import numpy as np
import pytest
import torch

import pyroformer as pf
from pyroformer.inference.evaluation.evaluate import evaluate, text_bounds
from pyroformer.inference.evaluation.verdict import validation_rate, validation_rate_per_text
from pyroformer.inference.generation.decoding import Decoding, DecodingFields
from pyroformer.inference.generation.editing import edit
from pyroformer.inference.generation.generate import decode, encode, reconstruct, sample
from pyroformer.inference.generation.interpolation import interpolate, swap
from pyroformer.inference.posterior.export import posterior
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    texts = [f"number {n} of many" for n in range(60)]
    corpus = pf.Corpus.from_texts(texts, vocabulary=265, max_length=24, name="numbers <1>")
    model = pf.VAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    folder = tmp_path_factory.mktemp("runs") / "vae"
    return pf.fit(model, pf.VAEGuide(model), corpus, out=folder, steps=4, batch_size=8, validations=2)


def test_the_curve_is_a_data_frame(run: Run) -> None:
    curve = run.metrics
    assert {"step", "split", "objective", "kl_vectors"} <= set(curve.columns)
    assert set(curve["split"]) == {"train", "valid"} and curve["step"].max() == 4
    assert np.isfinite(curve["objective"]).all()
    with pytest.raises(ValueError, match="has no metrics yet"):
        _ = Run(run.model, run.guide, run.corpus, RunFolder("nowhere"), {}, 0).metrics


def test_the_rate_is_that_of_the_validation_at_the_step_of_the_run(run: Run) -> None:
    valid = run.metrics.query(f"split == 'valid' and step == {run.step}")
    assert validation_rate(run) == pytest.approx(valid["kl_vectors"].iloc[0])
    evaluation = run.evaluate(split="valid", metrics=["rate"])
    rate = evaluation["rate"]["nats/text"]
    assert rate is not None and validation_rate_per_text(run) == pytest.approx(rate, rel=1e-3)
    elsewhere = Run(run.model, run.guide, run.corpus, run.folder, run.config, step=3)
    assert validation_rate_per_text(elsewhere) is None, "weights of a step without a validation"


def test_a_run_is_shown_in_a_few_words(run: Run) -> None:
    shown = repr(run)
    assert shown.startswith("Run(model: VAE with VAEGuide, ") and f"step: {run.step}" in shown
    assert re.search(r"; latents: \d+\.\d+ nats a text", shown) and "tensor" not in shown and len(shown) < 500
    html = run._repr_html_()
    assert html.startswith("<table>") and "<td>model</td>" in html and "numbers &lt;1&gt;" in html


def test_a_run_without_metrics_and_without_latents_is_shown_as_well(run: Run) -> None:
    model = pf.LanguageModel.for_corpus(run.corpus, width=8, layers=1, heads=2)
    shown = repr(Run(model, None, run.corpus, RunFolder("nowhere"), {}, 0))
    assert shown.startswith("Run(model: LanguageModel, ") and "latents" not in shown


def test_a_run_moves_to_a_device(run: Run) -> None:
    assert run.to("cpu") is run
    meta = pf.load(run.folder.path).to("meta")
    assert {parameter.device.type for parameter in meta.model.parameters()} == {"meta"}
    assert meta.guide is not None
    assert {parameter.device.type for parameter in meta.guide.parameters()} == {"meta"}


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_here_is_refused_in_one_line(run: Run, device: str) -> None:
    for move in (lambda: pf.load(run.folder.path, device=device), lambda: run.to(device)):
        with pytest.raises(ValueError, match=r"device is .*, which is not here: give 'cpu', or a GPU") as error:
            move()
        assert "\n" not in str(error.value)


def test_a_number_of_samples_is_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match="n is '3', a str: give a number"):
        run.sample("3")  # type: ignore[arg-type]


def test_samples_differ_unless_they_have_a_seed(run: Run) -> None:
    assert run.sample(4, seed=3) == run.sample(4, seed=3)
    first, second = run.sample(4), run.sample(4)
    assert first != second
    torch.manual_seed(5)
    once = run.sample(4)
    torch.manual_seed(5)
    assert run.sample(4) == once


def test_saved_runs_are_shown_with_their_folder(run: Run, tmp_path: Path) -> None:
    assert str(tmp_path / "copy") in repr(run.save(tmp_path / "copy"))


def test_long_work_says_how_far_it_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.evaluate(progress=True, num_particles=2, samples=2)
    run.posterior(run.corpus.test[0], draws=2, progress=True)
    captured = capsys.readouterr()
    assert not captured.out
    for work in ("evaluating", "reconstructing", "sampling", "drawing"):
        assert f"{work}:   0%" in captured.err, work
    pf.diagnostics.compare(run, run, run.corpus.test[:2], num_particles=2, progress=True)
    pf.diagnostics.check_texts(run, replications=2, limit=2, progress=True)
    captured = capsys.readouterr()
    for work in ("bounding", "sampling"):
        assert f"{work}:   0%" in captured.err, work
    run.evaluate(num_particles=2)
    run.posterior(run.corpus.test[0], draws=2)
    run.bound(run.corpus.test[:2], num_particles=2)
    assert capsys.readouterr() == ("", "")


def test_bars_change_no_number(run: Run) -> None:
    options: dict[str, Any] = {"num_particles": 2, "samples": 6, "batch_size": 2}
    one, other = run.evaluate(progress=True, **options), run.evaluate(progress=False, **options)
    assert one.as_dict() == other.as_dict()
    names = [name for name in other if name.startswith("distinct")]
    whole = run.evaluate(num_particles=2, samples=6)
    assert names and all(whole[name] == other[name] for name in names), "parts are drawn as the whole"


WRITES = (Run.decode, Run.reconstruct, Run.sample, Run.interpolate, Run.swap, Run.edit)
BEHIND = (decode, reconstruct, sample, interpolate, swap, edit, encode, posterior, evaluate, text_bounds)
METHODS: list[Callable[..., Any]] = [*WRITES, Run.encode, Run.posterior, Run.evaluate, Run.bound]


def defaults(function: Callable[..., Any], leave_out: set[str]) -> dict[str, Any]:
    return {
        name: item.default for name, item in inspect.signature(function).parameters.items() if name not in leave_out
    }


@pytest.mark.parametrize(("method", "function"), [*zip(METHODS, BEHIND, strict=True)])
def test_a_method_has_the_options_of_its_function(method: Callable[..., Any], function: Callable[..., Any]) -> None:
    own = defaults(method, {"self", *DecodingFields.__annotations__})
    behind = defaults(function, {"run", "decoding", "start", *({"batch_size"} - set(own))})
    if method is Run.sample:  # which draws anew without a seed
        assert own.pop("seed") is None and behind.pop("seed") == 0
    assert own == behind


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_help_lists_the_options_of_a_method(method: Callable[..., Any]) -> None:
    given = inspect.signature(method).parameters
    text = inspect.getdoc(method) or ""
    for name in given.keys() - {"self"} - DecodingFields.__annotations__.keys():
        assert f"    {name}: " in text, f"{method.__name__} does not say what {name} is"
    if method in WRITES:
        assert given.keys() >= DecodingFields.__annotations__.keys() and "decoding: ``temperature``" in text
    assert "Raises:" in text and "Examples:" in text


def test_decoding_has_the_fields_that_methods_take() -> None:
    assert get_type_hints(DecodingFields) == get_type_hints(Decoding)


def test_a_misspelled_option_is_answered_with_the_nearest(run: Run) -> None:
    text, other = run.corpus.test[:2]
    memory, wrong = run.encode([text]).memory(), {"temprature": 0.5}
    calls: list[Callable[[], object]] = [
        lambda: run.decode(memory, **wrong),  # type: ignore[arg-type]
        lambda: run.reconstruct(text, **wrong),  # type: ignore[call-overload]
        lambda: run.sample(1, **wrong),  # type: ignore[arg-type]
        lambda: run.interpolate(text, other, **wrong),  # type: ignore[arg-type]
        lambda: run.swap(text, other, [1], **wrong),  # type: ignore[arg-type]
        lambda: run.edit(text, **wrong),  # type: ignore[arg-type]
    ]
    for method, call in zip(WRITES, calls, strict=True):
        name = f"Run.{method.__name__}"
        with pytest.raises(ValueError, match=rf"^{name} has no option temprature: did you mean temperature\? help\("):
            call()


def test_methods_sample_their_tokens_as_they_are_asked(run: Run) -> None:
    text, other = run.corpus.test[:2]
    memory = run.encode([text]).memory()
    for write in (
        lambda **how: run.decode(memory, **how),
        lambda **how: run.reconstruct(text, **how).text,
        lambda **how: run.interpolate(text, other, **how),
    ):
        greedy, hot = write(), write(temperature=9.0)
        assert write(greedy=True) == write(seed=1) == greedy, "greedy by default"
        assert write(temperature=9.0) == hot != write(temperature=9.0, seed=1) and hot != greedy
