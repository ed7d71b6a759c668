"""Errors of usage: one clear line, also for messages that no other version of jsonargparse had."""

from argparse import ArgumentError
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentParser

from pyroformer.inference.cli.main import main
from pyroformer.inference.cli.usage_errors import usage_message

KINDS = {"--steps": int, "--size": Literal["tiny", "small"], "--vocabulary": int | Literal["auto"] | None}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('Parser key "steps":\n  Not an int. Got value: many', "--steps is 'many': give a whole number."),
        ('Parser key "size":\n  No. Got value: huge', "--size is 'huge': give one of tiny, small."),
        ('Parser key "vocabulary": Given value: x', "--vocabulary is 'x': give a whole number or auto."),
        ('Parser key "steps":\n  no\n  number', "--steps cannot be used (no number): give a whole number."),
        (
            'Parser key "prior": Problem with given class_path \'my.Prior\':\n  Parser key "norm": Expected a '
            "typing.Literal['layer', 'rms']. Got value: foo",
            "--prior.norm is 'foo': give one of layer, rms.",
        ),
        (
            "Parser key \"prior\": Problem with given class_path 'my.Prior':\n  Option 'widht' is not accepted",
            "--prior.widht cannot be set: my.Prior has no such argument, or the model gives it: leave it out.",
        ),
        ('Parser key "new.key": no', "--new.key cannot be used (no): give a text."),
        ("unrecognized arguments: --step 3", "fit lm has no option --step: did you mean --steps? See fit lm --help."),
        ("argument --steps: expected one argument", "--steps needs a value: give a whole number."),
        ("the following arguments are required: run", "fit lm needs RUN: usage."),
        ("A message\n\tof another\nversion.", "A message of another version. See fit lm --help."),
        ("", "the arguments are not understood. See fit lm --help."),
    ],
)
def test_messages_become_one_line(message: str, expected: str) -> None:
    assert usage_message(message, "fit lm", "usage", KINDS) == expected


@pytest.mark.parametrize("message", ["Something\n  that is\nnew.", "", 'Parser key "n": \n\n', "Option 'x' is: y\n"])
def test_an_unknown_message_is_one_line_and_code_2(
    message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ArgumentError(None, message)

    monkeypatch.setattr(ArgumentParser, "parse_args", fail)
    assert main(["sample", "runs/x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "--help." in error or ": give " in error
