"""Sphinx reads the repository's own Markdown, the notebooks and the docstrings: ``make docs``."""

import runpy
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

from sphinx.util.inspect import signature, stringify_signature

from pyroformer import __version__
from pyroformer.models.serialization import Configurable

HERE = Path(__file__).resolve().parent

project = "pyroformer"
author = "the pyroformer developers"
copyright = author  # the page puts its sign before it
version = release = __version__

# The root of the repository is the source, so that links between README, docs, notebooks and benchmarks mean the same
# here and on a code host.
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md", "docs/**.rst"]
include_patterns += ["benchmarks/*.md", "notebooks/0*.ipynb"]
exclude_patterns = ["docs/templates/**"]

extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
# Links to other projects need no network: docs/make_inventories.py writes the inventories.
intersphinx_mapping = {
    name: (project.url, str(HERE / "inventories" / f"{name}.inv"))
    for name, project in runpy.run_path(str(HERE / "make_inventories.py"))["PROJECTS"].items()
}

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # Lightning's speak of its own site
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
templates_path = [str(HERE / "templates")]  # autosummary would look beside the source

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # show the outputs stored in the notebooks
nb_merge_streams = True  # what a cell prints is one block, however often it was flushed
# Public names are documented under their public path and in their module; a short reference may mean either.
suppress_warnings = ["mystnb.unknown_mime_type", "ref.python"]

highlight_language = "text"  # of literal blocks, such as stories of models; doctests stay Python

# The page's own copy of MathJax, one file that needs no fonts: formulas need no network either.
MATHJAX = "tex-svg-full.js"
html_static_path = [str(file.locate()) for file in files("sphinx-mathjax-offline") or () if file.name == MATHJAX]
mathjax_path = MATHJAX

html_theme = "furo"
html_title = f"pyroformer {version}"


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", signature_of_init)
    app.connect("html-collect-pages", link_sources_back, priority=400)  # before viewcode writes its pages, at 500


def signature_of_init(app: Any, what: str, name: str, obj: Any, *_: Any) -> tuple[str, None] | None:
    """The signature of ``__init__`` for classes that record their arguments in ``__new__``."""
    if what != "class" or not issubclass(obj, Configurable):
        return None
    arguments = signature(obj.__init__, bound_method=True)
    return stringify_signature(arguments, show_return_annotation=False, unqualified_typehints=True), None


def link_sources_back(app: Any) -> Iterator[Any]:
    """Links from the source of a name to an anchor that exists.

    A public name has two pages, under its public path and in its module. viewcode keeps one path for all names of a
    module, that of the page read first, and links it on the page read last. Here the path is the one under which most
    names are documented, the module's own if there is a choice, and each page is that of the path.
    """
    pages = {name: entry.docname for name, entry in app.env.domains.python_domain.objects.items()}
    for module, entry in app.env._viewcode_modules.items():
        if entry:
            code, tags, used, path = entry
            paths = [module, path, module.rpartition(".")[0]]  # the package's, of a function named as its module
            best = max(paths, key=lambda path: sum(f"{path}.{name}" in pages for name in used))
            used = {name: pages.get(f"{best}.{name}", page) for name, page in used.items()}
            app.env._viewcode_modules[module] = code, tags, used, best
    return iter(())
