"""Tests of the notebooks: they run, and each .ipynb, with outputs, agrees with the .py that it is written from."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import jupytext
import matplotlib
import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
REMEDY = "run `make notebooks`"

each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def written(source: Path) -> NotebookNode:
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def cells(notebook: NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Figures without a window, and unchanged settings."""
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        yield
    plt.close("all")


def test_there_are_notebooks() -> None:
    assert SOURCES
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == {path.stem for path in SOURCES}


@pytest.mark.slow
@pytest.mark.usefixtures("pyplot")
@each
def test_it_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYROFORMER_NOTEBOOK", "quick")  # one that trains takes few steps then
    runpy.run_path(str(source))


@each
def test_both_of_a_pair_say_the_same(source: Path) -> None:
    assert cells(jupytext.read(source)) == cells(written(source)), f"{source.name} and its .ipynb differ: {REMEDY}"


@each
def test_every_cell_was_executed_in_order_without_complaint(source: Path) -> None:
    code = [cell for cell in written(source).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), REMEDY
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), f"no picture: {REMEDY}"
    for output in outputs:
        assert output.output_type != "error", output.get("evalue")
        assert output.get("name") != "stderr", f"a warning: {output.get('text')}"


@each
def test_it_opens_with_the_question_that_it_answers(source: Path) -> None:
    first = jupytext.read(source).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "?" in first.source
