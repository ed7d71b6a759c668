"""The page about a run: one file that a browser shows without network, with every text escaped."""

import re
import shlex
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.pages import sections
from pyroformer.inference.pages.document import pictures, shaded, text, visible
from pyroformer.inference.pages.sections import SECTIONS
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder

TINY = {"width": 8, "layers": 2, "heads": 2}
VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert({n})</script> & <b onclick='x'> https://example.org/{n} é 大"


class Page(HTMLParser):
    """Tags, attributes and texts of a page whose tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def headings(self) -> list[str]:
        return re.findall(r"<h2>([^<]*)</h2>", self.source)


@pytest.fixture(scope="module")
def corpus() -> pf.Corpus:
    texts = [HOSTILE.format(n=n) for n in range(60)]
    return pf.Corpus.from_texts(texts, vocabulary=330, max_length=24, name="<img src=x> texts")


@pytest.fixture(scope="module", params=["nvae", "vae", "della", "lm"])
def run(request: pytest.FixtureRequest, corpus: pf.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    options = TINY | {"della": {"latent_size": 4}, "nvae": {"base_measure": "gaussian"}}.get(request.param, {})
    classes = {"nvae": pf.NVAE, "vae": pf.VAE, "della": pf.DELLA, "lm": pf.LanguageModel}
    model = classes[request.param].for_corpus(corpus, **options)
    guides = {"nvae": pf.NVAEGuide, "vae": pf.VAEGuide, "della": pf.DELLAGuide}
    guide = guides[request.param](model) if request.param in guides else None
    folder = tmp_path_factory.mktemp("runs") / request.param
    return pf.fit(model, guide, corpus, out=folder, steps=2, batch_size=8, validations=1, progress=False)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    path = pf.look(run, limit=2)
    assert path == run.folder.path / "look.html"
    return Page(path)


def test_a_page_has_the_sections_of_its_model(run: Run, page: Page) -> None:
    every = ["Training", "Evaluation", "Samples", "How it was made"]
    latent = [*every, "Reconstructions", "Interpolation"]
    expected = {
        "nvae": latent,
        "vae": [*latent, "Traversals"],
        "della": [*latent, "Traversals", "Latents", "Exchanged latents"],
        "lm": every,
    }[run.folder.path.name]
    assert page.headings == [title for title in SECTIONS if title in expected]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    anchors = [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"]
    assert links == anchors and len(set(anchors)) == len(expected)
    assert ("the latents cost" in page.text) == (run.folder.path.name != "lm")


def test_nothing_is_loaded_and_nothing_runs(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "form", "base"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in {"src", "href"} & set(attributes):
            assert attributes[name].startswith(("data:image/svg+xml;base64,", "#")), (tag, attributes[name])
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    [policy] = [item["content"] for _, item in page.tags if item.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert any(item.get("name") == "viewport" for _, item in page.tags)


def test_texts_are_shown_as_they_are(run: Run, page: Page) -> None:
    assert "<script" not in page.source and "<img src=x>" not in page.source and "<b onclick" not in page.source
    assert "<img src=x> texts" in page.text
    if run.guide is not None:
        for original in run.corpus.entries("test", 2):
            assert str(original) in page.text


def test_the_figures_of_the_page_are_those_of_the_library(run: Run, page: Page) -> None:
    if run.folder.path.name in ("della", "lm"):
        evaluation = run.evaluate(limit=2, num_particles=8, progress=False)
        table = evaluation.table().removesuffix(evaluation.verdict).rstrip()
        assert table in page.text and evaluation.verdict in page.text
    samples = run.sample(8, seed=0)
    assert all(unescape(visible(sample)) in page.text for sample in samples)
    pictured = [item["alt"] for tag, item in page.tags if tag == "img"]
    assert len(pictured) == {"lm": 1, "della": 5}.get(run.folder.path.name, 2) and all(pictured)


def test_tokens_are_shaded_where_the_posterior_has_weights(run: Run, page: Page) -> None:
    tokens = [item for tag, item in page.tags if tag == "b"]
    first = str(run.corpus.entries("test", 1)[0])
    weights = run.encode([first]).token_weights() if run.guide is not None else None
    if weights is None:
        assert not tokens
        return
    for token, weight in zip(tokens, weights[0].tolist(), strict=False):
        assert token["title"] == f"weight {weight:.2g}"
        assert token["style"] == f"--weight: {100 * weight / weights.max().item():.0f}%"


def test_the_same_seed_gives_the_same_page(run: Run, page: Page, tmp_path: Path) -> None:
    if run.folder.path.name == "lm":
        again = pf.look(run, tmp_path / "again.html", limit=2)
        assert again.read_text(encoding="utf-8") == page.source


def test_samples_say_where_they_come_from(run: Run, page: Page) -> None:
    assert ("latents from the prior" in page.text) == bool(run.model.latents)


def test_control_characters_are_shown_as_escapes() -> None:
    assert text("a\r\n\x07b\tc") == '<span class="text" dir="auto">a\\r\n\\x07b\tc</span>'
    assert "a\\r</b>" in shaded(["a\r"], [1.0])
    joined = "\u3000\u200d\u200f"  # a space, a joiner and a mark of direction, which texts need
    assert joined in text(f"a{joined}b")


def test_the_page_names_its_run_from_any_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if run.folder.path.name == "lm":
        monkeypatch.chdir(run.folder.path.parent)
        page = Page(pf.look(pf.load("lm"), tmp_path / "relative.html", limit=2))
        path = str(run.folder.path.resolve())
        assert f"run = pf.load({path!r})" in page.text and f"pyroformer evaluate {shlex.quote(path)}" in page.text


def test_exchanges_that_change_nothing_are_faded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if run.folder.path.name == "della":
        rows = [("text", "a"), ("other", "b"), ("reconstruction", "a"), ("z_1 of other", "a"), ("z_2 of other", "b")]
        monkeypatch.setattr(sections, "swap_rows", lambda *_, **__: rows)
        texts = [str(entry) for entry in run.corpus.entries("test", 2)]
        context = sections.PageContext(run, run.encode(texts), texts, None, run.evaluate(limit=2, metrics=["rate"]), 0)
        cells = re.findall(r'"text( faded)?" dir="auto">(\w)<', sections.exchanges(context))
        assert cells == [("", "a"), ("", "b"), ("", "a"), (" faded", "a"), ("", "b")]


def test_shades_are_relative_to_the_largest_weight() -> None:
    assert re.findall(r"--weight: (\d+)%", shaded(["a", "b", "c"], [0.2, 0.1, 0.0])) == ["100", "50", "0"]
    assert re.findall(r"--weight: (\d+)%", shaded(["a", "b"], [0.0, 0.0])) == ["0", "0"]
    assert pictures([]) == '<div class="pictures"></div>\n'


@pytest.fixture(scope="module")
def command_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command line, on pairs."""
    here = tmp_path_factory.mktemp("my runs")
    rows = [f"{'odd' if n % 2 else '<even>'}\tnumber {n} is here" for n in range(40)]
    (here / "pairs.tsv").write_text("kind\ttext\n" + "\n".join(rows))
    assert main(fit_command(here)) == 0
    return here / "della"


def fit_command(here: Path) -> list[str]:
    options = "--field text --condition kind --steps 2 --validations 1 --vocabulary 270 --max_length 24 --model.width 8"
    more = "--model.heads 2 --model.layers 2 --model.latent_size 4 --batch_size 8"
    return ["fit", "della", "--data", f"{here}/pairs.tsv", "--out", f"{here}/della", *shlex.split(f"{options} {more}")]


def test_the_command_writes_a_page_of_pairs_and_says_what_began_the_run(
    command_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["look", str(command_run), "--limit", "2"]) == 0
    assert capsys.readouterr().out == f"{command_run}/look.html\n"
    page = Page(command_run / "look.html")
    began = shlex.join(["pyroformer", *fit_command(command_run.parent)])
    assert began in page.text and "condition: " in page.text
    assert yaml.safe_load((command_run / "source.yaml").read_text())["command"] == began
    assert page.headings == list(SECTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--out {run}/config.yaml", "is a file of the run .*, which needs it: choose another file"),
        ("--out {run}/corpus/look.html", "is a file of the run .*, which needs it: choose another file"),
        ("--out {run}", "--out .* is a folder: name a file"),
        ("--out {run}/none/look.html", "lies in no folder: make .*none first"),
        ("--limit 0", "--limit is 0: give a positive whole number"),
        ("--limit -3", "--limit is -3: give a positive whole number"),
    ],
)
def test_bad_options_are_refused_before_the_work(
    options: str, message: str, command_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in command_run.rglob("*") if path.is_file()}
    assert main(["look", str(command_run), *shlex.split(options.format(run=shlex.quote(str(command_run))))]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error
    assert before == {path: path.stat().st_mtime_ns for path in command_run.rglob("*") if path.is_file()}


def test_a_run_without_metrics_says_so_on_its_page(corpus: pf.Corpus, tmp_path: Path) -> None:
    run = Run(pf.LanguageModel.for_corpus(corpus, **TINY), None, corpus, RunFolder(tmp_path), {}, 0)
    run.config["objective"] = {"name": "elbo", "is_bound": True, "kl_weights": {}}
    page = Page(pf.look(run, limit=1))
    assert page.headings[0] == "Training" and "has no metrics yet: let fit run for longer" in page.text


def test_a_temporary_run_needs_a_path(corpus: pf.Corpus) -> None:
    model = pf.LanguageModel.for_corpus(corpus, **TINY)
    run = Run(model, None, corpus, RunFolder.temporary(), {}, 0)
    with pytest.raises(ValueError, match=r"the folder of this run is temporary: give the path of the page"):
        pf.look(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0: give a positive whole number"),
        ({"limit": 2.5}, r"limit is 2\.5"),
        ({"limit": "a"}, "limit is 'a'"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"path": "."}, "is a folder: name a file"),
        ({"run": "runs/mine"}, r"run is 'runs/mine': give the run that fit or load returns"),
    ],
)
def test_python_says_what_is_wrong_in_one_line(corpus: pf.Corpus, options: dict[str, Any], message: str) -> None:
    run = Run(pf.LanguageModel.for_corpus(corpus, **TINY), None, corpus, RunFolder("nowhere"), {}, 0)
    unchecked = getattr(pf.look, "__wrapped__", pf.look)  # without the tests' own checks of types
    with pytest.raises(ValueError, match=message):
        unchecked(**{"run": run, "path": "page.html"} | options)
