"""The library's structure: which way imports point, and what importing it leaves alone."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyroformer

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("models", "guides", "inference")  # a folder imports from itself and from those before it
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PUBLIC = [path for path in FILES if not path.name.startswith("_")]
CONSOLE = {ROOT / "inference" / "cli" / name for name in ("main.py", "progress.py")}
INTERNAL = {"pyroformer", *FOLDERS}

in_each = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
in_each_public = pytest.mark.parametrize("path", PUBLIC, ids=lambda path: str(path.relative_to(ROOT)))


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """What a file imports, with its line: ``from ..models import x`` in guides/y.py is ``pyroformer.models.x``."""
    package = ("pyroformer", *path.relative_to(ROOT).with_suffix("").parts)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = (".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names)
            yield from ((name, node.lineno) for name in names)


@in_each
def test_imports_point_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    allowed = FOLDERS[: FOLDERS.index(folder) + 1]
    for name, line in imported_names(path):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top == "pyroformer" and target in FOLDERS:
            assert target in allowed, f"{path.relative_to(ROOT)}:{line}: {folder} must not import {name}"


@in_each
def test_imports_inside_the_library_are_relative(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in INTERNAL, f"{path.relative_to(ROOT)}: import {name} relatively"


@in_each
def test_library_returns_and_only_the_command_line_prints(path: Path) -> None:
    if path in CONSOLE:
        return
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not prints, f"{path.relative_to(ROOT)} prints on lines {prints}"


@in_each_public
def test_public_modules_say_what_they_are_and_what_they_offer(path: Path) -> None:
    tree = ast.parse(path.read_text())
    docstring = ast.get_docstring(tree)
    assert docstring, f"{path.relative_to(ROOT)} has no docstring"
    if path.name == "__init__.py":
        return
    module = importlib.import_module(".".join(["pyroformer", *path.relative_to(ROOT).with_suffix("").parts]))
    assert module.__all__, f"{path.relative_to(ROOT)} has no __all__"  # ruff's RUF022 keeps it sorted
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing, f"{path.relative_to(ROOT)} lacks {missing} of its __all__"


def test_every_name_at_the_top_exists() -> None:
    assert set(pyroformer.__all__) == set(pyroformer._HOMES)
    for name in pyroformer.__all__:
        assert getattr(pyroformer, name) is not None
        assert name in dir(pyroformer)


def test_an_unknown_name_at_the_top_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pyroformer' has no attribute 'Mixtrue'"):
        _ = pyroformer.Mixtrue


def in_a_fresh_process(code: str) -> str:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_pyroformer_is_free() -> None:
    loaded = json.loads(in_a_fresh_process("import json, pyroformer\nprint(json.dumps(sorted(sys.modules)))"))
    heavy = {"arviz", "lightning", "matplotlib", "numpy", "pyro", "tokenizers", "torch", "transformers"}
    assert not heavy & set(loaded)


def test_importing_everything_changes_no_global_setting() -> None:
    code = """
import importlib, pkgutil, random
import arviz, lightning, matplotlib.pyplot, numpy, pyro, sacrebleu, tokenizers, torch  # what they change is not ours
import pyroformer

def state():
    return {
        **pyro.settings.get(),
        "parameters": len(pyro.get_param_store()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "gradient mode": torch.is_grad_enabled(),
        "torch's generator": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy's generator": hash(numpy.random.get_state()[1].tobytes()),
        "Python's generator": hash(random.getstate()),
    }

before = state()
for module in pkgutil.walk_packages(pyroformer.__path__, "pyroformer."):
    if module.name != "pyroformer.__main__":
        importlib.import_module(module.name)
after = state()
print(len([name for name in sys.modules if name.startswith("pyroformer.")]))
changed = [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
assert not changed, changed
"""
    assert int(in_a_fresh_process(code)) >= len(FILES)


@pytest.mark.compile
def test_tests_marked_compile_see_unwrapped_functions() -> None:
    from pyroformer.models.batch import Batch

    assert not hasattr(Batch.pad.__func__, "__wrapped__"), "torch.compile cannot trace through jaxtyping's checks"
