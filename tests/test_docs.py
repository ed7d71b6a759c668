"""Tests of the pages in docs/: their code runs as printed, on a few texts and for a few steps."""

import ast
import inspect
import pkgutil
import re
import runpy
import shlex
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.objectives.elbo import Terms

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)
SHORTER = {
    "steps=2000": "steps=2",
    "--steps 2000": "--steps 2",
    "draws=50": "draws=25",
    "draws=100": "draws=25",
    "[:100], num_particles=64": "[:4], num_particles=2",
    "samples=500": "samples=5",
}
SMALLER = {"for_corpus(corpus": "for_corpus(corpus, width=16, layers=1, heads=2", "Heavy(width=128)": "Heavy(width=16)"}
SMALLER |= {"Places(width=128": "Places(width=16"}
SMALLER |= {"Flow(width=128)": "Flow(width=16)", "Weighted(width=128)": "Weighted(width=16)"}
SMALLER |= {"VampPrior(width=128, components=50)": "VampPrior(width=16, components=3)"}
SMALLER |= {"CodebookVectorPrior(width=128, entries=512": "CodebookVectorPrior(width=16, entries=64"}
SMALLER |= {"--data reviews.txt": "--data reviews.txt --model.width 16 --model.layers 1 --vocabulary 270"}
SHORTER |= {"--draws 100": "--draws 2 -n 2", "-n 3": "-n 1"}
SMALLER |= {"num_samples=50": "num_samples=5", "warmup_steps=50": "warmup_steps=5"}
SMALLER |= {"range(300)": "range(20)", "(1, 2, 3)": "(1, 2)"}
SMALLER |= {"pf.Corpus.builtin()": 'pf.Corpus.from_file("reviews.txt", vocabulary=270)'}
SMALLER |= {"evaluate runs": "evaluate --limit 4 --num_particles 2 runs", "test[:100]": "test[:4]"}
PRINTED = {
    "own_prior": ["the run uses my_priors.Heavy, which is code outside pyroformer: name it again", "'keys': (5, 3, 1)"],
    "own_guide": ["the guide draws 'vectors' with batch shape (", "and event shape (3,), expected"],
    "own_objective": [
        "beta is 0.5, which the objective Capacity does not use: leave it out",
        "the run uses my_objectives.Capacity, which is code outside pyroformer: name it again",
        "objective that was trained: Renyi, 4 draws",
    ],
    "metrics": ["weight of the prior's component", "Self-BLEU-4 of", "generated texts that are training texts"],
    "from_pyro": ["weights  LogDirichlet", "text     AutoregressiveText"],
    "attention_layers": ["tensor(True)", "torch.Size([8, 4, 5])", "torch.Size([8, 2, 32])"],
    "nvib_pretrained": ["tensor(True)", "of the attention", "['layers.0.self_attn', 'layers.1.self_attn']"],
    "gaussian_mixture": ["GaussianMixture(n_components=2", "tensor([["],
    "presence": ["vectors present in a draw", "presence is 0.1, and the prior of the vectors is a TokenVectorPrior"],
    "nvib_layers": ["of the encoder", "of the decoder", "layer 1: weights ["],
    "private_embeddings": ["order 2.0: these two", "at delta = 1e-5"],
    "howto": ["posterior", "conditional_log_likelihood", "sample_stats", "observed_data", "constant_data"],
    "own_likelihood": [
        "the likelihood of Unordered has the type Independent",
        "{'temperature': tensor(",
        "the site 'text' has size",
    ],
}


def run(kind: str, code: str, namespace: dict[str, Any]) -> None:
    for long, short in (SHORTER | SMALLER).items():
        code = code.replace(long, short)
    if kind == "sh":
        for line in code.splitlines():
            assert main(shlex.split(line)[1:]) == 0, line
    elif file := re.match(r"# (my_\w+\.py)\n", code):
        Path(file[1]).write_text(code)
    else:
        exec(compile(code, "docs", "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", PRINTED)
def test_every_block_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in (
        "my_priors",
        "my_starts",
        "my_weights",
        "my_flows",
        "my_vamp",
        "my_guides",
        "my_models",
        "my_objectives",
        "my_bounds",
        "my_encoders",
        "my_temperatures",
    ):  # another test may have imported one of them
        monkeypatch.setitem(sys.modules, name, sys)  # monkeypatch restores the original at the end
        del sys.modules[name]
    texts = [f"The {'food' if n % 3 else 'room'} was {'good' if n % 2 else 'bad'}, {n} of 100." for n in range(120)]
    Path("reviews.txt").write_text("\n".join(["The food was good.", *texts]))
    namespace: dict[str, Any] = {}
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text())
    assert len(blocks) >= 4
    for kind, code in blocks:
        run(kind, code, namespace)
    out = capsys.readouterr().out
    assert all(part in out for part in PRINTED[page])


def test_the_objective_of_the_page_charges_what_has_no_weight() -> None:
    namespace: dict[str, Any] = {}
    exec(BLOCK.findall((DOCS / "own_objective.md").read_text())[0][1], namespace)
    penalty = {"vectors": torch.tensor([13.0]), "base_measure.df": torch.tensor([0.5]), "length": torch.tensor([4.0])}
    terms = Terms(torch.tensor([-7.0]), penalty, penalty)
    loss = namespace["Capacity"]().text_losses(terms, {"vectors": 1.0}, torch.ones(1))
    assert loss.tolist() == [7 + 2 * 3 + 0.5 + 4]


def test_the_inventories_are_those_that_the_script_writes() -> None:
    script = runpy.run_path(str(DOCS / "make_inventories.py"))
    assert {path.stem for path in (DOCS / "inventories").iterdir()} == set(script["PROJECTS"])
    for name, project in script["PROJECTS"].items():
        stored = (DOCS / "inventories" / f"{name}.inv").read_bytes().partition(b"zlib.\n")[2]
        assert zlib.decompress(stored).decode() == "".join(sorted(script["lines"](project))), name


def test_every_plot_and_diagnostic_is_on_the_api_page() -> None:
    page = (DOCS / "api.md").read_text()
    for module in (pf.plots, pf.diagnostics):
        names = [name for name in module.__all__ if callable(getattr(module, name))]
        kind = module.__name__.rpartition(".")[2]
        assert not [name for name in names if f"   pyroformer.{kind}.{name}\n" not in page]


def names_of_the_api_page() -> list[str]:
    page = (DOCS / "api.md").read_text()
    names = re.findall(r"^   ~?(pyroformer[\w.]*)$", page, re.MULTILINE)
    return names + re.findall(r"\{py:\w+\}`(?:~|[\w .]+<)?(pyroformer[\w.]*)", page)


def test_every_name_of_the_api_page_exists_and_has_an_example() -> None:
    named = {name: pkgutil.resolve_name(name) for name in names_of_the_api_page()}
    assert len(named) > 60
    described = {name: item.__doc__ or "" for name, item in named.items() if not inspect.ismodule(item)}
    assert not [name for name, text in described.items() if ">>> " not in text and "code-block:: python" not in text]


def stories(docstring: str) -> list[str]:
    """The literal blocks of a docstring, without directives such as formulas, from their own margin."""
    lines, blocks = [*docstring.splitlines(), ""], []
    for start, line in enumerate(lines):
        if line.rstrip().endswith("::") and not line.lstrip().startswith(".. "):
            margin = len(line) - len(line.lstrip())
            rest = lines[start + 1 :]
            ends = (n for n, item in enumerate(rest) if item.strip() and not item[: margin + 1].isspace())
            end = next(ends, len(rest))
            blocks.append(inspect.cleandoc("\n" + "\n".join(rest[:end])))
    return blocks


def test_stories_of_models_fit_a_page() -> None:
    found = 0
    for folder in ("models", "guides", "inference"):
        for path in (DOCS.parent / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    for story in stories(ast.get_docstring(node) or ""):
                        found += 1
                        wide = [line for line in story.splitlines() if len(line) > 80]
                        assert not wide, f"{path}: wider than a page: {wide}"
    assert found > 10


def test_a_source_links_back_to_the_page_of_its_module() -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("sphinx-mathjax-offline")
    link = runpy.run_path(str(DOCS / "conf.py"))["link_sources_back"]
    pages = {"pyroformer.DELLA": "reference/pyroformer.DELLA", "pyroformer.models.della.DELLA": "reference/della"}
    pages |= {"pyroformer.diagnostics.khat": "reference/public"}
    pages |= {"pyroformer.inference.diagnostics.khat": "reference/khat"}  # a function with the name of its module
    domain = SimpleNamespace(objects={name: SimpleNamespace(docname=page) for name, page in pages.items()})
    env = SimpleNamespace(domains=SimpleNamespace(python_domain=domain))
    # As viewcode leaves it: the path of one page beside the name of another.
    env._viewcode_modules = {
        "pyroformer.models.della": ("code", {}, {"DELLA": "reference/della"}, "pyroformer"),
        "pyroformer.inference.diagnostics.khat": ("code", {}, {"khat": "reference/khat"}, "pyroformer.diagnostics"),
        "no_source": False,
    }
    assert not list(link(SimpleNamespace(env=env)))
    for _, _, used, path in filter(None, env._viewcode_modules.values()):
        assert used == {name: pages[f"{path}.{name}"] for name in used}, "the path and the page of one name"
    assert env._viewcode_modules["pyroformer.models.della"][3] == "pyroformer.models.della"
