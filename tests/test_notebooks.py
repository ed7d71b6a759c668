"""Tests of the notebooks: they run, and each .ipynb, with outputs, agrees with the .py that it is written from."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import matplotlib
import nbformat
import pytest
from few_sentences import few_sentences
from nbformat import NotebookNode

from pyroformer.inference.data import corpus

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
REMEDY = "run `make notebooks`"

# What the tests assign in the cell tagged "parameters", in place of what is written there: the same code on less.
TINY: dict[str, dict[str, Any]] = {
    "02_nvae": {"steps": 2, "more_steps": 1, "prior_steps": 1, "held_out": 4, "draws": 25},
    "03_della": {
        "steps": 2,
        "conditional_steps": 2,
        "particles": 2,
        "held_out": 4,
        "generated": 2,
        "draws": 20,
    },
    "04_new_prior": {"steps": 2, "prior_steps": 2, "held_out": 4, "particles": 2, "draws": 20},
    "05_check_your_posterior": {"cases": 20, "learning_steps": 10, "draws": 50, "most_draws": 4},
    "07_from_pyro_and_pymc": {"warmup": 3, "draws": 25, "steps": 2},
    "08_your_own_texts": {"steps": 2, "held_out": 8, "replications": 2},
    "06_nvib_pretrained": {"steps": 2, "positions": 2, "batch_size": 8, "batches": 2, "bert": ""},
}
CHARACTERS = 92  # in a line of code on the site
DRAWING = 12  # lines of a cell that draw; what takes more is a function of pf.plots
DRAWS = re.compile(r"\b(plt|ax|axes|left|right|above|below|one|many)\.|pf\.plots\.|\baz\.plot")

each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def with_values(notebook: NotebookNode, values: dict[str, Any]) -> str:
    """The code of a notebook, with these values in its cell of parameters."""
    code = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tagged = "parameters" in cell.metadata.get("tags", ())
            code.append("\n".join(f"{name} = {value!r}" for name, value in values.items()) if tagged else cell.source)
    return "\n\n".join(code)


def parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Names and values in the cell tagged ``parameters``, of which there is one at most, with plain values only."""
    found: list[str] = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert len(found) <= 1
    assignments: list[Any] = ast.parse("\n".join(found)).body
    return {assignment.targets[0].id: ast.literal_eval(assignment.value) for assignment in assignments}


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
    monkeypatch.setattr(corpus, "sentences", few_sentences)
    notebook = jupytext.read(source)
    values = TINY.get(source.stem, {})
    assert parameters(notebook).keys() == values.keys()
    script = tmp_path / source.name
    script.write_text(with_values(notebook, values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))


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


@each
def test_it_shows_what_a_reader_would_type(source: Path) -> None:
    for cell in written(source).cells:
        if cell.cell_type == "code":
            assert "rcParams" not in cell.source and "environ" not in cell.source
            assert not cell.source.rstrip().endswith(";")
            if "hide-input" not in cell.metadata.get("tags", ()):
                long = [line for line in cell.source.splitlines() if len(line) > CHARACTERS]
                assert not long, f"wider than a page: {long}"


@each
def test_a_cell_draws_in_a_few_lines(source: Path) -> None:
    for cell in written(source).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if DRAWS.search(line)]
            assert len(lines) <= DRAWING, f"{len(lines)} lines of drawing: move them into pf.plots"


@each
def test_its_outputs_are_for_readers(source: Path) -> None:
    outputs = [output for cell in written(source).cells if cell.cell_type == "code" for output in cell.outputs]
    for output in outputs:
        data = output.get("data", {})
        text = output.get("text", "") if "image/png" in data else output.get("text", data.get("text/plain", ""))
        assert not re.search(r"<Axes|<Figure size|<matplotlib|^Text\(| at 0x", text), f"not for readers: {text}"
