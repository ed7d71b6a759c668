"""Messages name options as they were typed, with the flags of models and guides, and nothing else."""

import shlex
import warnings
from pathlib import Path

import pytest

from pyroformer.inference.cli.main import main
from pyroformer.inference.cli.parser import flags, parse
from pyroformer.inference.cli.typed import as_typed
from pyroformer.models.transformer.mixtures.posterior import NO_VECTORS


@pytest.mark.parametrize(
    ("typed", "message", "expected"),
    [
        # the flag that was typed, of several that set the same argument
        ("--delta 0.5", "delta is 0.5: leave delta out", "--delta is 0.5: leave --delta out"),
        ("--model.delta 0.5", "delta is 0.5: leave delta out", "--model.delta is 0.5: leave --model.delta out"),
        ("--delta 0.5", "--model.delta is 0.5, but", "--delta is 0.5, but"),
        ("--model.delta 0.5", "--model.delta is 0.5, but", "--model.delta is 0.5, but"),
        ("--attention softmax", "attention is softmax", "--attention is softmax"),
        ("--model.attention softmax", "attention is softmax", "--model.attention is softmax"),
        # arguments of a class that is an option, which may be called as another option is
        (
            "--model.weight_prior pyroformer.priors.SymmetricDirichlet --model.weight_prior.concentration 3",
            "concentration 3.0: must be smaller",
            "--model.weight_prior.concentration 3.0: must be smaller",
        ),
        (
            "--delta 0.1 --model.weight_prior pyroformer.priors.BoundedDirichletProcess --model.weight_prior.delta 2",
            "delta 2.0: must be smaller",
            "--model.weight_prior.delta 2.0: must be smaller",
        ),
        ("--model.delta 0.1", "delta is 0.7, of a prior", "delta is 0.7, of a prior"),
        # wherever an option is named
        (
            "--model.heads 3",
            "width is 128, no multiple of heads = 3: choose another width or heads",
            "--model.width is 128, no multiple of --model.heads = 3: choose another --model.width or --model.heads",
        ),
        (
            "--ladder 0.1 1",
            "ladder is [0.1, 1.0], but kl_schedule is constant: choose the kl_schedule ladder",
            "--ladder is [0.1, 1.0], but --kl_schedule is constant: choose --kl_schedule ladder",
        ),
        ("--beta 2", "leave it out, or choose the objective elbo", "leave it out, or choose --objective elbo"),
        ("--beta 2", "keep is 0.5: leave beta at 1.0", "--keep is 0.5: leave --beta at 1.0"),
        ("--model.presence 0.5", "with a larger delta or presence", "with a larger --delta or --model.presence"),
        ("--labels false", "leave them out (overlong='drop')", "leave them out (--overlong drop)"),
        ("--labels false", "give fewer, or max_bytes=12.", "give fewer."),
        ("--labels false", "compile=full, or labels=False", "--compile full, or --labels false"),
        ("--guide.alpha relu", "with alpha='relu' or not: another alpha", None),
        # and where the same word is none
        ("--prior gaussian", "the prior of the run is a GaussianVectorPrior", "the prior of the run is a Gaussi"),
        ("--model.layers 4", "latents enter layers 1 to 9, of the 4 layers", "latents enter layers 1 to 9, of the 4"),
        ("--labels true", "labels are conditions", "labels are conditions"),
        ("--data learning_rate.txt", "runs/learning_rate.txt holds 'max_length'", "runs/learning_rate.txt holds 'max"),
        ("--model.width 8", "--model.width is 8, and --learning_rate", "--model.width is 8, and --learning_rate"),
    ],
)
def test_messages_name_what_was_typed(typed: str, message: str, expected: str | None) -> None:
    expected = expected or "with --guide.alpha relu or not: another --guide.alpha"
    known = flags("fit", parse("fit", ["nvae", *shlex.split(typed)]))
    assert as_typed(message, known).startswith(expected)


def test_a_file_of_options_is_typed_as_well(
    tmp_path: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(sentences))
    (tmp_path / "options.yaml").write_text("steps: 2\nmodel:\n  width: 15\n")
    fit = f"fit lm --data {tmp_path}/texts.txt --out {tmp_path}/run --config {tmp_path}/options.yaml"
    assert main(shlex.split(fit)) == 1
    assert capsys.readouterr().err.startswith("error: --model.width is 15, which is no multiple of heads = 4")


def test_flags_of_commands_without_a_model() -> None:
    assert as_typed("min_weight is 2: leave width out", flags("reconstruct")) == "--min_weight is 2: leave width out"


def test_warnings_name_options_as_they_are_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(**values: object) -> None:
        print(warnings.formatwarning(NO_VECTORS, UserWarning, "pyroformer/training.py", 1))

    monkeypatch.setattr("pyroformer.inference.cli.commands.fit.fit", fit)
    assert main(["fit", "nvae", "--model.delta", "0.1"]) == 0
    advice = "Fit anew with a larger --model.delta or --model.presence, or another --guide.alpha."
    assert capsys.readouterr().out.strip().endswith(advice)
