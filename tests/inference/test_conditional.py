"""Conditional models: labels and texts as conditions, from training to the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.diagnostics import compare
from pyroformer.inference.generation.interpolation import interpolate
from pyroformer.inference.run import Run
from pyroformer.models.transformer.backbone import Backbone
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder

ANSWERS = {
    "color": ["a red one", "a blue one", "a green one"],
    "count": ["two of them", "nine of them", "six of them"],
}
PAIRS = [(label, f"{answer} {n % 9}") for label, answers in ANSWERS.items() for n in range(27) for answer in answers]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small model, trained until its texts depend on their labels."""
    corpus = Corpus.from_texts(PAIRS, vocabulary=290, max_length=16)
    torch.manual_seed(0)
    model = pf.DELLA.for_corpus(corpus, width=32, layers=2, heads=2, latent_size=4)
    out = tmp_path_factory.mktemp("run") / "run"
    return pf.fit(model, pf.DELLAGuide(model), corpus, steps=60, batch_size=16, learning_rate=3e-2, out=out)


@pytest.mark.slow
@pytest.mark.parametrize("label", ANSWERS)
def test_samples_depend_on_their_label(run: Run, label: str) -> None:
    middle = {"color": "one", "count": "of them"}[label]
    texts = run.sample(20, seed=1, condition=label)
    assert sum(middle in text for text in texts) >= 18


def test_a_right_label_makes_a_text_likelier(run: Run) -> None:
    right = run.bound(["a red one 3"], 8, conditions=["color"])
    wrong = run.bound(["a red one 3"], 8, conditions=["count"])
    assert right > wrong + 2


def test_samples_hold_no_labels_and_do_not_depend_on_their_number(run: Run) -> None:
    hot: dict[str, Any] = {"temperature": 5.0, "condition": "count"}
    assert run.sample(5, seed=3, **hot) == run.sample(9, seed=3, **hot)[:5]
    assert all(run.tokenizer.encode(text) for text in run.sample(20, seed=4, **hot))


def test_the_run_comes_back_from_its_folder(run: Run) -> None:
    again = pf.load(run.folder.path)
    assert again.sample(3, seed=5, condition="color") == run.sample(3, seed=5, condition="color")
    assert again.model.config.max_condition_length == 1


def test_reconstruction_and_evaluation_take_the_conditions_of_the_corpus(run: Run) -> None:
    label, text = run.corpus.entries("test", 1)[0]
    assert run.reconstruct(text, conditions=label).original == text
    evaluation = run.evaluate(num_particles=4)
    assert evaluation["bound"].value is not None and "bleu" in evaluation
    pairs = run.evaluate([("color", "a red one 3"), ("count", "two of them 4")], num_particles=4)
    assert pairs.about["texts"] == 2


def test_the_bound_is_of_texts_given_their_conditions(run: Run) -> None:
    evaluation = run.evaluate([("color", "a red one 3"), ("count", "two of them 4")], num_particles=4)
    assert {evaluation[name].bound_on for name in evaluation} == {"log p(x | c)", None}


def test_runs_are_compared_given_the_conditions(run: Run) -> None:
    pairs = [("color", "a red one 3"), ("count", "two of them 4")]
    conditions, texts = zip(*pairs, strict=True)
    compared = compare(run, run, texts, 2, conditions=conditions)
    assert compared.difference == compare(run, run, pairs, 2).difference == 0
    with pytest.raises(ValueError, match="the texts are pairs with a condition each: leave conditions out"):
        compare(run, run, pairs, 2, conditions=conditions)
    with pytest.raises(ValueError, match="give the condition of each text as well"):
        compare(run, run, texts, 2)


def test_generated_texts_would_need_a_condition(run: Run) -> None:
    with pytest.raises(ValueError, match="samples is 5, but what this run writes answers to a condition: leave"):
        run.evaluate(samples=5)


def test_each_text_has_its_condition(run: Run) -> None:
    message = "there are 1 conditions for 2 texts: give one for each"
    texts = ["a red one 3", "two of them 4"]
    with pytest.raises(ValueError, match=message):
        run.reconstruct(texts, conditions=["color"])
    with pytest.raises(ValueError, match=message):
        run.bound(texts, 2, conditions=["color"])


def test_a_run_of_pairs_has_pictures_of_its_layers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: Path(file).touch())
    files = [path.stem for path in pf.plots.save_all(run, tmp_path / "all")]
    assert files == ["curves", "layers", "units", "swap"]
    files = [path.stem for path in pf.plots.save_all(run, tmp_path / "own", ["a red one 3", "two of them 4"])]
    assert files == ["curves", "layers", "units"]


def test_a_posterior_of_other_texts_needs_their_conditions(run: Run, tmp_path: Path) -> None:
    common = ["posterior", str(run.folder.path), "--out", str(tmp_path / "p.nc"), "--draws", "3"]
    assert main([*common, "--text", "a red one 3", "a blue one 4", "--condition", "color"]) == 0
    assert main([*common, "--condition", "color"]) == 1


def test_a_pretrained_decoder_answers_to_labels(run: Run) -> None:
    config = TransformerConfig(
        run.tokenizer.vocabulary, max_length=17, width=16, layers=2, heads=2, positions="learned"
    )
    backbone = Backbone("old", config, Decoder(config).state_dict())
    model = pf.DELLA.for_corpus(run.corpus, backbone=backbone, latent_size=4)
    old = backbone.weights["embedding.tokens.weight"]
    assert torch.equal(model.decoder.embedding.tokens.weight[:-2], old) and model.config.vocabulary == len(old) + 2
    assert pf.fit(model, pf.DELLAGuide(model), run.corpus, steps=1).step == 1


def test_interpolation_has_one_condition(run: Run) -> None:
    steps = interpolate(run, "a red one 3", "a blue one 4", steps=3, condition="color")
    assert len(steps) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.sample(1), "the run was trained on pairs: give the condition"),
        (lambda run: run.sample(1, condition="colr"), "'colr' is none of the 2 labels .* 'color'"),
        (lambda run: run.reconstruct("a red one 3"), "the run was trained on pairs: give the condition"),
        (lambda run: run.evaluate(["a red one 3"]), "these texts lack the conditions"),
    ],
)
def test_a_missing_or_unknown_condition_is_reported(run: Run, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(run)


def test_conditions_that_are_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"how many is {n} and one\tit is {n + 1}\n" for n in range(60)))
    out = str(tmp_path / "run")
    small = "--model.width 16 --model.layers 2 --model.heads 2 --model.latent_size 4 --vocabulary 270 --max_length 24"
    command = f"fit della --data {file} --condition 0 --out {out} --steps 2 {small}"
    assert main(command.split()) == 0
    assert main(["sample", out, "-n", "2", "--condition", "how many is 3 and one"]) == 0
    assert main(["reconstruct", out, "--text", "it is 4", "--condition", "how many is 3 and one"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(lines) == 3 and lines[2]["original"] == "it is 4"
    assert main(["sample", out, "--condition", "how many " * 30]) == 1
    assert "the model's max_length is 24: shorten it" in capsys.readouterr().err
