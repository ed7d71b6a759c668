"""Notebooks with outputs, each .ipynb written from the .py beside it: ``make notebooks``.

Edit the .py. Without arguments, all notebooks run. The same code gives the same file, apart from its numbers.
"""

import argparse
import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent

# Warnings of no use to readers: tqdm, which Pyro imports, lacks a progress bar, and ArviZ is about to change.
IGNORED = ("ignore:IProgress not found", "ignore::FutureWarning:arviz")

OF_PICTURES = ("<Axes", "<matplotlib.", "Text(")  # what plots return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "notebooks",
        nargs="*",
        type=Path,
        help="the .py files; by default all that are numbered",
    )
    for source in parser.parse_args().notebooks or sorted(HERE.glob("[0-9]*.py")):
        target = source.with_suffix(".ipynb")
        nbformat.write(executed(source), target)
        print(f"wrote {target}")


def executed(source: Path) -> NotebookNode:
    """The notebook of a .py in percent format with what its cells print and draw."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = (
            f"cell-{number}"  # jupytext's are random, and every line of a diff counts
        )
    client = NotebookClient(
        notebook,
        coalesce_streams=True,  # what a cell prints is one block, however often it was flushed
        record_timing=False,
        resources={"metadata": {"path": source.parent}},
    )
    quiet = {
        "PYTHONWARNINGS": ",".join(IGNORED),
        "TQDM_DISABLE": "1",
    }  # a progress bar is nothing to keep
    client.execute(env={**os.environ, **quiet})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if not names_a_picture(output)
            ]
    return notebook


def names_a_picture(output: NotebookNode) -> bool:
    """Whether an output is the name of what a plot returns, axes or a legend, under its picture."""
    result = output.get("data", {}) if output.output_type == "execute_result" else {}
    name = result.get("text/plain", "").removeprefix("array(").lstrip("[")
    return name.startswith(OF_PICTURES) and "text/html" not in result


if __name__ == "__main__":
    main()
