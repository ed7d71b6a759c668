"""What commands print: in every encoding, part by part, and without what does not fit."""

import contextlib
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from pyroformer.inference.cli.main import main
from pyroformer.inference.cli.output import print_json, print_line
from pyroformer.inference.cli.progress import Progress
from pyroformer.inference.training.status import Status

TINY = "--model.width 8 --model.layers 1 --model.heads 2 --vocabulary 270 --max_length 32 --batch_size 8"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    here = tmp_path_factory.mktemp("here")
    (here / "texts.txt").write_text("\n".join(sentences))
    arguments = f"fit vae --data {here}/texts.txt --out {here}/vae --steps 2 --validations 1 {TINY}"
    assert main(shlex.split(arguments)) == 0
    return here / "vae"


def in_ascii(write: Callable[[], None]) -> bytes:
    """What is printed to a terminal whose encoding is ASCII."""
    content = io.BytesIO()
    with io.TextIOWrapper(content, encoding="ascii") as stream, contextlib.redirect_stdout(stream):
        write()
        return content.getvalue()


def test_json_where_the_encoding_lacks_a_character() -> None:
    item = {"text": "Größe \ufffd \ud800"}
    assert json.loads(in_ascii(lambda: print_json(item))) == item


def test_a_line_where_the_encoding_lacks_a_character() -> None:
    assert in_ascii(lambda: print_line("Größe")) == b"Gr\\xf6\\xdfe\n"


def test_json_is_readable_where_the_encoding_can(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "Größe"})
    assert capsys.readouterr().out == '{"text": "Größe"}\n'


def test_a_line_where_there_is_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw, or with the output closed
    print_line("Größe")
    print_json({"text": "Größe"})


def test_progress_where_the_encoding_lacks_a_character() -> None:
    status = Status(3, 0.5, 2.0, 2.0, 9.0, "valid", {"objective": 1.0}, "Größe")
    assert b"held-out 1.00" in in_ascii(lambda: Progress()(status))
    training = status._replace(split="train")

    def show() -> None:
        progress = Progress()
        progress(training)
        progress(status)

    assert b"Gr\\xf6\\xdfe 1.00" in in_ascii(show)


@pytest.fixture(scope="module")
def runs(run: Path) -> Path:
    for model in ("nvae", "della"):
        arguments = f"fit {model} --data {run.parent}/texts.txt --out {run.parent}/{model} --steps 2 --validations 1"
        assert main(shlex.split(f"{arguments} {TINY.replace('layers 1', 'layers 2')}")) == 0
    return run.parent


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("sample {runs}/vae -n 3 --prompt Größe大", 3),
        ("reconstruct {runs}/vae --text Größe大", 1),
        ("interpolate {runs}/vae --text Größe大 --other 大 --steps 3", 3),
        ("swap {runs}/della --text Größe大 --other 大 --layers 1", 1),
        ("edit {runs}/nvae --text Größe大 --drop 1", 1),
        ("edit {runs}/nvae --text Größe大", None),
        ("evaluate {runs}/vae --limit 2 --num_particles 2", None),
    ],
)
def test_commands_in_every_encoding(command: str, lines: int | None, encoding: str, runs: Path) -> None:
    content = io.BytesIO()
    with io.TextIOWrapper(content, encoding=encoding) as stream, contextlib.redirect_stdout(stream):
        assert main(shlex.split(command.format(runs=runs))) == 0
        printed = content.getvalue().decode(encoding)
    if command.startswith("evaluate"):
        assert "accuracy" in printed
        return
    items = [json.loads(line) for line in printed.splitlines()]
    assert len(items) == (lines or len(items)) > 0
    if "original" in items[0]:
        assert items[0]["original"] == "Größe大"


@pytest.mark.parametrize(
    "arguments", ["sample {run} -n 5 --seed 3", "reconstruct {run} --data {run}/../texts.txt -n 5 --temperature 1"]
)
def test_parts_have_the_texts_of_the_whole(
    arguments: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    for part in (64, 2):
        monkeypatch.setattr(import_module("pyroformer.inference.cli.commands.sample"), "PART", part)
        monkeypatch.setattr(import_module("pyroformer.inference.cli.commands.reconstruct"), "PART", part)
        capsys.readouterr()
        assert main(shlex.split(arguments.format(run=run))) == 0
        outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    texts = [[item.get("reconstruction", item.get("text")) for item in output] for output in outputs]
    assert texts[0] == texts[1] and len(texts[0]) == 5


@pytest.mark.parametrize(
    "command", ["reconstruct {run} --data {data}", "posterior {run} --data {data} --draws 2 --out {out}"]
)
def test_what_does_not_fit_is_left_out_and_the_others_are_written(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mixed.txt").write_text("Number 1.\n" + "word " * 99 + "\nNumber 2.\n")
    data, out = tmp_path / "mixed.txt", tmp_path / "draws.nc"
    capsys.readouterr()
    assert main(shlex.split(command.format(run=run, data=data, out=out))) == 1
    output, error = capsys.readouterr()
    first, last = error.splitlines()
    assert first.startswith("left out: text 2, 'word word") and "the max_length is 32: shorten it" in first
    assert last == "error: 1 text was left out, and the others are written: shorten what does not fit."
    if out.exists():
        assert "2 draws of 2 texts" in output
    else:
        assert [json.loads(line)["original"] for line in output.splitlines()] == ["Number 1.", "Number 2."]


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_a_rank_that_was_left_over_silences_nothing_but_fit(
    variable: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    capsys.readouterr()
    assert main(["sample", str(run), "-n", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["sample", str(run), "-n", "0"]) == 1
    assert capsys.readouterr().err.startswith("error: -n is 0")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "the machine has no memory left: lower -n, which is 5000"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "no memory left: lower -n",
        ),
        (RecursionError(), "nested too deeply"),
        (OverflowError("Python int too large"), "a number is too large .*lower -n"),
    ],
)
def test_the_ends_of_a_machine_are_one_line(
    error: Exception, message: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    from pyroformer.inference.generation import generate

    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(generate, "sample", failing)
    capsys.readouterr()
    assert main(["sample", str(run), "-n", "5000"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(message, said), said


def test_ctrl_c_that_torch_swallows_is_ctrl_c_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow(*_: object) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)  # to this thread, and at once
        raise ImportError("cannot load module more than once per process")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the workers of pytest ignore it
    try:
        monkeypatch.setattr("pyroformer.inference.cli.main._run", swallow)
        assert main(["sample", "run"]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "error: interrupted\n"


def test_ctrl_c_is_heeded_from_the_start() -> None:
    code = "import sys, pyroformer.inference.cli.main; print({'torch', 'numpy', 'jsonargparse'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
