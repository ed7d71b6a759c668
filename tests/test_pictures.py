"""Every picture of docs/plots.md exists, is small, and is made by the script."""

import ast
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import pyroformer as pf

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "plots.md").read_text()
SHOWN = re.findall(r"\(pictures/(\w+)\.png\)", PAGE)
MADE = {
    node.name for node in ast.parse((DOCS / "make_pictures.py").read_text()).body if isinstance(node, ast.FunctionDef)
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_exists_and_is_that_of_a_function(name: str) -> None:
    assert (DOCS / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert name in pf.plots.__all__ and name in MADE


def test_all_pictures_together_are_small_and_each_is_shown() -> None:
    files = list((DOCS / "pictures").iterdir())
    assert {path.stem for path in files} == set(SHOWN)
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_a_picture_is_saved_with_all_of_its_shades(tmp_path: Path) -> None:
    ax = Figure().subplots()
    ax.imshow(np.linspace(0, 1, 256)[None], cmap="gray", aspect="auto", interpolation="nearest")
    runpy.run_path(str(DOCS / "make_pictures.py"))["save"](ax, tmp_path / "shades.png")
    with Image.open(tmp_path / "shades.png") as picture:
        grays = {color[0] for _, color in picture.convert("RGB").getcolors(1 << 24) if len(set(color)) == 1}
    assert len(grays) > 250, "a palette of 128 colors draws steps into shades"


def test_every_function_that_the_page_calls_exists() -> None:
    for module, name in re.findall(r"pf\.(plots|diagnostics)\.(\w+)", PAGE):
        assert hasattr(getattr(pf, module), name), name


def test_every_plot_is_on_the_page() -> None:
    assert set(pf.plots.__all__) <= set(re.findall(r"pf\.plots\.(\w+)", PAGE))


def test_the_gallery_shows_every_picture_and_leads_to_its_section() -> None:
    gallery = (DOCS / "gallery.md").read_text()
    shown = re.findall(r"\(pictures/(\w+)\.png\)\]\(plots\.md#([\w-]+)\)\n\n`pf\.plots\.(\w+)`", gallery)
    assert {picture for picture, _, _ in shown} == set(SHOWN)
    sections = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^## (.*)", PAGE, re.M)
    }
    for picture, section, function in shown:
        assert picture == function and section in sections, (picture, section)
