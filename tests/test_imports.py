"""The library's structure: which way imports point, and what importing it leaves alone."""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pyroformer
from pyroformer.inference.cli.parser import COMMANDS, NETWORK, TRAINING
from pyroformer.inference.utils.registry import MODELS, imported

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("models", "guides", "inference")  # a folder imports from itself and from those before it
# Rooms and modules in the order of imports: each imports from itself and from those in lines before it.
ORDER = (
    ("models.utils",),
    ("models.heads",),
    ("models.batch", "models.local_params", "models.serialization"),
    ("models.distributions",),
    ("models.attention",),
    ("models.nvib",),
    ("models.transformer",),
    ("models.priors",),
    ("models.base",),
    ("models",),
    ("guides",),
    ("inference.utils", "inference.schedules", "inference.moving_variances"),
    ("inference.em_steps",),
    ("inference.options", "inference.em", "inference.data"),
    ("inference.gaussian_mixture",),
    ("inference.pretrained", "inference.objectives"),
    ("inference.runs", "inference.svi"),
    ("inference.generation", "inference.posterior"),
    ("inference.nvib",),
    ("inference.evaluation",),
    ("inference.run",),
    ("inference.training",),
    ("inference.diagnostics",),
    ("inference.plots",),
    ("inference.pages",),
    ("inference.cli",),
)
CROWDED = 18  # files in one folder, __init__.py among them
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
CONSOLE = {ROOT / "inference" / "cli" / name for name in ("main.py", "output.py")}
INTERNAL = {"pyroformer", *FOLDERS}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """What a file imports, with its line: ``from ..models import x`` in guides/y.py is ``pyroformer.models.x``."""
    package = ("pyroformer", *path.relative_to(ROOT).with_suffix("").parts)[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = (".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names)
            yield from ((name, node.lineno) for name in names)


def room_of(module: str) -> tuple[int, str]:
    """The place in the order of imports of a module, given without ``pyroformer.``, and its room."""
    rooms = [(place, room) for place, rooms in enumerate(ORDER) for room in rooms]
    return max((item for item in rooms if f"{module}.".startswith(f"{item[1]}.")), key=lambda item: len(item[1]))


def test_imports_point_one_way() -> None:
    """From rooms to those before; the __init__ of a folder re-exports all of it, and what comes from folders before."""
    wrong = []
    for path in FILES:
        folder, *parts = path.relative_to(ROOT).with_suffix("").parts
        place, room = room_of(".".join([folder, *parts])) if parts != ["__init__"] else (-1, folder)
        for name, line in imported_names(path):
            top, _, target = name.partition(".")
            if top != "pyroformer" or not target.startswith(FOLDERS):
                continue
            if parts == ["__init__"]:
                fine = target.split(".")[0] in FOLDERS[: FOLDERS.index(folder) + 1]
            else:
                other, other_room = room_of(target)
                fine = other_room == room or other < place
            if not fine:
                wrong.append(f"{at(path, line)}: {room} comes before, so it must not import {name}")
    assert not wrong, "\n".join(wrong)


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in FILES}
    sizes = {folder: len([*folder.glob("*.py")]) for folder in folders}
    crowded = {str(folder.relative_to(ROOT)): size for folder, size in sizes.items() if size > CROWDED}
    assert not crowded, f"modules in a folder: {crowded}"


def test_every_path_in_a_table_exists() -> None:
    classes = [path for pair in MODELS.values() for path in pair if path]
    homes = [f"pyroformer.{home}" for home in pyroformer._HOMES.values() if ":" in home]
    for path in [*classes, *homes, *COMMANDS.values(), NETWORK, TRAINING]:
        assert callable(imported(path)), path


REFERENCE = re.compile(r"(?<![\w/.])pyroformer(?:\.[A-Za-z_]\w*)+(?::[A-Za-z_]\w*)?")
WRITTEN = sorted(
    [*FILES, *ROOT.glob("docs/*.md"), *ROOT.glob("src/pyroformer/*.py"), ROOT / "README.md", ROOT / "pyproject.toml"]
)
WRITTEN.remove(ROOT / "inference" / "runs" / "old_runs.py")  # a table of paths that exist no more


def test_every_import_path_in_text_exists() -> None:
    """Docstrings, messages, documents: what is written as ``pyroformer.x.y`` can be imported."""
    missing = [
        f"{path.relative_to(ROOT)} names {reference}"
        for path in WRITTEN
        for reference in set(REFERENCE.findall(path.read_text()))
        if not exists(reference)
    ]
    assert not missing, "\n".join(missing)


@cache
def exists(reference: str) -> bool:
    parts = re.split("[.:]", reference)
    value = pyroformer
    for depth, part in enumerate(parts[1:], start=2):
        if not hasattr(value, part):
            try:
                importlib.import_module(".".join(parts[:depth]))
            except ImportError:
                return False
        value = getattr(value, part)
    return True


SOURCE = re.compile(
    r"(?<![\w./-])(?:models|guides|inference|tests|docs|benchmarks|notebooks)/[\w/.-]+\.(?:py|md|ipynb)\b"
)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "Makefile", "docs/index.md"])
def test_every_file_that_is_named_exists(name: str) -> None:
    examples = {"models/yours.py", "guides/yours.py", "tests/models/test_yours.py"}
    missing = [file for file in SOURCE.findall((ROOT / name).read_text()) if not (ROOT / file).exists()]
    assert not set(missing) - examples, f"{name} names files that do not exist: {missing}"


def test_imports_inside_the_library_are_relative() -> None:
    absolute = [
        f"{at(path, node.lineno)}: {name}"
        for path in FILES
        for node in ast.walk(parsed(path))
        for name in absolutely_imported(node)
        if name.split(".")[0] in INTERNAL
    ]
    assert not absolute, "\n".join(absolute)


def absolutely_imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []


def test_library_returns_and_only_the_command_line_prints() -> None:
    prints = [
        at(path, node.lineno)
        for path in FILES
        if path not in CONSOLE
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints, prints


FLAG = re.compile(r"(?<![\w-])(?<!srun )--[a-z]")


def test_only_the_command_line_names_flags() -> None:
    """Messages name arguments of Python, which the command line translates; a page's CSS has variables."""
    named = [
        f"{at(path, node.lineno)}: {node.value}"
        for path in FILES
        if not path.is_relative_to(ROOT / "inference" / "cli") and path.parent != ROOT / "inference" / "pages"
        for node in strings_of(parsed(path))
        if FLAG.search(node.value)
    ]
    assert not named, "\n".join(named)


def strings_of(tree: ast.Module) -> Iterator[ast.Constant]:
    """The strings of a file, docstrings left out."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in statements:
            yield node


def test_public_modules_say_what_they_are_and_what_they_offer() -> None:
    for path in FILES:
        if path.name.startswith("_"):
            continue
        file = path.relative_to(ROOT)
        assert ast.get_docstring(parsed(path)), f"{file} has no docstring"
        module = importlib.import_module(".".join(["pyroformer", *file.with_suffix("").parts]))
        assert module.__all__, f"{file} has no __all__"  # ruff's RUF022 keeps it sorted
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        assert not missing, f"{file} lacks {missing} of its __all__"


def test_every_name_at_the_top_exists() -> None:
    for package in (pyroformer, pyroformer.models, pyroformer.guides, pyroformer.inference):
        assert set(package.__all__) == set(package._HOMES)
        assert {name for name in dir(package) if not name.startswith("__")} == set(package.__all__)
        for name in package.__all__:
            assert getattr(package, name) is not None


@pytest.mark.parametrize("package", ["priors", "distributions", "plots", "diagnostics", "em", "nvib"])
def test_packages_show_public_names_only(package: str) -> None:
    module = getattr(pyroformer, package)
    assert dir(module) == sorted(module.__all__)


def test_a_package_of_one_model_offers_it() -> None:
    package = pyroformer.models.mixture_attention
    assert package.MixtureAttention is pyroformer.MixtureAttention
    assert package.MixtureParameters is package.parameters.MixtureParameters


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


def test_models_do_not_wait_for_the_compiler_or_lightning() -> None:
    uses = (
        "pyroformer.NVAE, pyroformer.NVAEGuide, pyroformer.ProbabilisticAttention, pyroformer.load, pyroformer.Corpus"
    )
    loaded = json.loads(in_a_fresh_process(f"import json, pyroformer\n{uses}\nprint(json.dumps(sorted(sys.modules)))"))
    assert "torch" in loaded and not {"torch._dynamo", "lightning", "matplotlib", "transformers"} & set(loaded)


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
