"""Packages: the wheel, the sdist, and the wheel built from the sdist."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import pyroformer

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("models", "guides", "inference")
MODULES = {str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("build", "hatchling")),
        reason="needs build and hatchling: pip install -e '.[dev]'",
    ),
]


def run(*command: str | Path, **variables: str) -> str:
    environment = {**os.environ, "PIP_NO_INDEX": "1", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, target: Path, what: str) -> Path:
    """Builds with the installed hatchling, so that nothing is fetched."""
    run(sys.executable, "-m", "build", "--no-isolation", f"--{what}", "--outdir", target, source)
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def test_wheel_holds_the_folders_as_one_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"pyroformer", f"pyroformer-{pyroformer.__version__}.dist-info"}
    package = {f"pyroformer/{name}" for name in ("__init__.py", "__main__.py", "priors.py", "py.typed")}
    shipped = {name for name in names if name.startswith("pyroformer/")}
    assert shipped == package | {f"pyroformer/{module}" for module in MODULES}


def test_wheel_says_what_it_is(wheel: Path) -> None:
    information = f"pyroformer-{pyroformer.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{information}/METADATA").decode()
        scripts = archive.read(f"{information}/entry_points.txt").decode()
        license_text = archive.read(f"{information}/licenses/LICENSE").decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "pyroformer = pyroformer.inference.cli.main:main" in scripts
    assert "Apache License" in license_text


def test_wheel_from_the_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    present = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert present >= MODULES | {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"}
    again = build(source, tmp_path / "again", "wheel")
    assert again.name == wheel.name
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_installed_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel)
    code = "import pyroformer; print(pyroformer.__version__, pyroformer.models.__file__)"  # not what would import torch
    printed = run(sys.executable, "-c", code, PYTHONPATH=str(tmp_path / "site")).split()
    assert printed == [pyroformer.__version__, str(tmp_path / "site" / "pyroformer" / "models" / "__init__.py")]
