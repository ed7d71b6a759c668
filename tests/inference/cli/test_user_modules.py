"""The current folder holds code: only what the user named by import path is imported from it."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from pyroformer.inference.cli.main import main
from pyroformer.inference.cli.usage_errors import UsageError
from pyroformer.inference.cli.user_modules import import_named, import_options, local_modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with modules that leave a file behind when they are executed."""
    for name in ("local_dill", "local_named", "local_other", "local_helper"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    with (tmp_path / "local_named.py").open("a") as file:
        file.write("import local_helper\nclass Prior:\n    pass\ndef late():\n    import local_other\n")
    (tmp_path / "local_failing.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "local_lacking.py").write_text("import nowhere_to_be_found")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("local_"):
            del sys.modules[name]


def executed(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix == "" and path.is_file()}


def test_what_a_library_looks_for_is_not_taken_from_the_current_folder(folder: Path) -> None:
    with local_modules() as finder:
        with pytest.raises(ModuleNotFoundError):
            import_module("local_dill")  # as torch does with optional packages
        import_named("local_named.Prior", "--trust", finder)
        with pytest.raises(ModuleNotFoundError):
            import_module("local_dill")
    assert executed(folder) == {"local_named", "local_helper"}


def test_a_named_module_imports_its_neighbors_also_later(folder: Path) -> None:
    with local_modules() as finder:
        import_named("local_named.Prior", "--prior", finder)
        sys.modules["local_named"].late()
    assert executed(folder) == {"local_named", "local_helper", "local_other"}


def test_afterwards_all_is_as_it_was(folder: Path) -> None:
    before = list(sys.path), list(sys.meta_path)
    with local_modules() as finder:
        assert sys.path == before[0]
        import_named("local_named.Prior", "--prior", finder)
    assert (sys.path, sys.meta_path) == before
    with pytest.raises(ModuleNotFoundError):
        import_module("local_other")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.weight_prior", "local_named.Prior"],
        ["--model.weight_prior=local_named.Prior"],
        ["--model.weight_prior", '{"class_path": "local_named.Prior"}'],
        ["--model.weight_prior.base", "local_named.Prior"],
        ["--objective", "local_named.Prior"],
        ["--prior", "local_named.Prior"],
        ["--trust", "os.path", "local_named"],
        ["--config", "model: {weight_prior: {class_path: local_named.Prior}}"],
        ["--config", "named.yaml"],
    ],
)
def test_every_way_to_name_a_class(arguments: list[str], folder: Path) -> None:
    (folder / "named.yaml").write_text("model.weight_prior: local_named.Prior\n")
    with local_modules() as finder:
        assert import_options(arguments, finder) == arguments
    assert executed(folder) == {"local_named", "local_helper"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "local_dill.txt"],
        ["--out", "local_dill.run"],
        ["--text", "local_dill.is nice"],
        ["--prompt=local_dill.x"],
        ["local_dill.run"],
        ["--model.dropout", "0.1"],
        ["--config", "data: local_dill.txt"],
    ],
)
def test_other_values_name_no_class(arguments: list[str], folder: Path) -> None:
    with local_modules() as finder:
        import_options(arguments, finder)
        with pytest.raises(ModuleNotFoundError):
            import_module("local_dill")
    assert executed(folder) == set()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("local_failing.Prior", "importing local_failing failed with RuntimeError: no licence"),
        ("local_lacking.Prior", "importing local_lacking failed with ModuleNotFoundError: .*nowhere_to_be_found"),
    ],
)
def test_the_error_of_a_module_is_said(path: str, message: str, folder: Path) -> None:
    with local_modules() as finder, pytest.raises(UsageError, match=message):
        import_named(path, "--model.weight_prior", finder)


def test_a_module_that_does_not_exist_is_left_to_the_command(folder: Path) -> None:
    with local_modules() as finder:
        import_named("local_nowhere.Prior", "--trust", finder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", r"options\.yaml is damaged or not UTF-8 text \(byte 0xff at position 0\): save it as UTF-8"),
        (b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n".encode() for a, b in ("ab", "bc", "cd", "de", "ef")
        ), r"options\.yaml stands for more than 100,000 values"),
        (b"a: &a [*a]", r"options\.yaml has an alias of itself"),
        (b"[" * 5000, r"options\.yaml is (nested too deeply|damaged)"),
        (b"#" * 1_000_001, r"options\.yaml is larger than 1,000,000 bytes"),
        (b"steps: [1, 2\n", r"is not YAML: options\.yaml .* line 2"),
    ],
    ids=["Latin", "aliases", "recursive", "deep", "large", "broken"],
)  # fmt: skip
def test_files_of_options_that_are_none(
    content: bytes, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "options.yaml").write_bytes(content)
    assert main(["fit", "lm", "--data", "x.txt", "--out", "new", "--config", "options.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
