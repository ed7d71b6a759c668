"""Tests of the benchmarks: the report of each script at a tiny size."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from few_sentences import few_sentences
from pyro import poutine

import pyroformer as pf
from pyroformer.inference.data import corpus
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.transformer.memory import Context

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module(request.param)


def numbers(text: str) -> dict[str, list[float]]:
    """First numbers of the cells of each row that a table names."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: [float(x) for cell in row[1:] for x in re.findall(r"^-?[\d.]+", cell)] for row in rows}


def corpus_of(texts: int) -> pf.Corpus:
    lines = [f"The number {n} follows {n - 1}." for n in range(texts)]
    return pf.Corpus.from_texts(lines, vocabulary=270, max_length=24)


@pytest.mark.parametrize("script", ["em"], indirect=True)
def test_em_agrees_with_scikit_learn(script: ModuleType) -> None:
    text = script.report(queries=400, components=4, width=3, steps=3, rounds=1, threads=1)
    assert "pyroformer, float32" in text and "peak beyond the inputs" in text


@pytest.mark.parametrize("script", ["beside_transformers"], indirect=True)
def test_every_kind_of_work_is_done_beside_transformers(script: ModuleType) -> None:
    options = SimpleNamespace(model=None, texts=2, length=6, new=5, rounds=1, only=list(script.WORK))
    text = script.report(options)
    for form in ("GPT-2's form", "Llama's form"):
        for work in script.WORK:
            assert re.search(rf"\| {form}, width 256 \| {work} \| [\d.e-]+ s \| [\d.e-]+ s \| [\d.]+ \|", text)


@pytest.mark.parametrize("script", ["reliability"], indirect=True)
def test_reliability(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "TEMPERATURES", (0.35,))
    monkeypatch.setattr(script, "QUERIES", 128)
    rows = numbers(script.report(seeds=2))
    accuracy, nll, error = rows["precision of each unit"]
    assert accuracy > 0.7 and nll < 0.9 and error < 0.4
    assert rows["precision of each entry"][0] > 0.9


@pytest.mark.parametrize("script", ["out_of_distribution"], indirect=True)
def test_out_of_distribution(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PRECISIONS", (4.0, 16.0))
    rows = numbers(script.report(seeds=1))
    assert min(rows["log p(q)"]) > 0.95


@pytest.mark.parametrize("kind", ["noisy", "incomplete", "contaminated"])
@pytest.mark.parametrize("script", ["in_context"], indirect=True)
def test_in_context(script: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"BATCH": 8, "TESTS": 64, "LOOKS": (2,)}.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(script, "NETWORKS", {n: script.NETWORKS[n] for n in ("softmax", "diagonal precisions")})
    rows = numbers(script.report(kind, 2, 3, tmp_path))
    assert [len(row) for row in rows.values()][-2:] == [3, 2] and len(rows["diagonal precisions"]) == 2
    files = list(tmp_path.rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(before) == 4 and numbers(script.report(kind, 2, 3, tmp_path)) == rows
    assert {path: path.stat().st_mtime_ns for path in files} == before
    alone = script.report(kind, 1, 4, tmp_path, ["softmax"])  # a longer run takes the place of the shorter
    assert "4 steps" in alone and len(list(tmp_path.rglob("*.json"))) == 5


@pytest.mark.parametrize("script", ["in_context_tasks"], indirect=True)
def test_in_context_oracles_are_posterior_means(script: ModuleType) -> None:
    """Against sums over a fine grid of every hidden entry."""
    grid = torch.linspace(-8, 8, 4001)
    normal = torch.distributions.Normal

    def density(query: torch.Tensor, likelihood: torch.Tensor) -> torch.Tensor:
        """p(query, key) of one entry, with the hidden one summed out."""
        return (normal(0.0, 1.0).log_prob(grid) + likelihood + normal(grid, script.QUERY).log_prob(query)).logsumexp(-1)

    for kind, draw in script.KINDS.items():
        tasks = draw(2, torch.Generator().manual_seed(0))
        keys, queries = tasks.keys[..., None], tasks.queries[..., None]
        if kind == "noisy":
            likelihood = normal(grid, (0.5 * tasks.known).exp()[..., None]).log_prob(keys)
        elif kind == "incomplete":
            likelihood = tasks.known[..., None] * normal(grid, script.QUIET).log_prob(keys)
        else:
            fine, gross = (normal(grid, x).log_prob(keys).exp() for x in (script.QUIET, script.GROSS))
            likelihood = ((1 - script.WRONG) * fine + script.WRONG * gross).log()
        joint = density(queries, likelihood)
        alone = (normal(0.0, 1.0).log_prob(grid) + likelihood).logsumexp(-1)
        weights = (joint - alone).sum(-1).softmax(-1)
        expected = (weights * tasks.values[..., 0]).sum(-1)
        torch.testing.assert_close(tasks.expected[:, 0, 0], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("script", ["mixtures_in_context"], indirect=True)
def test_mixtures_in_context(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"BATCH": 4, "TESTS": 16}.items():
        monkeypatch.setattr(script, name, value)
    rows = numbers(script.report(2, 2, tmp_path))
    assert rows["EM, one step"][0] < rows["labeled points as means"][0]
    assert len(rows) == 2 + len(script.NETWORKS) + 3 and all(len(row) == 4 for row in list(rows.values())[2:])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert numbers(script.report(2, 2, tmp_path)) == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("script", ["mixtures_in_context"], indirect=True)
def test_the_divergence_of_the_oracle_is_zero(script: ModuleType) -> None:
    tasks = script.Tasks.draw(3, 4, 2, 1.5, torch.Generator().manual_seed(0))
    oracle = tasks.oracle()
    distances = torch.cdist(tasks.points[:, 4:], tasks.means).square()
    expected = (-0.5 * distances).softmax(-1).gather(-1, tasks.labels.argsort(-1)[:, None].expand(-1, 32, -1))
    torch.testing.assert_close(oracle.gather(-1, tasks.labels.sort(-1).values[:, None].expand(-1, 32, -1)), expected)
    assert abs(float(script.divergence(oracle.log(), oracle))) < 1e-6


@pytest.mark.parametrize("script", ["streaming"], indirect=True)
def test_streaming(script: ModuleType, tmp_path: Path) -> None:
    """In this process: one of its own takes seconds to start."""
    script.write(tmp_path / "rows.npy", 120_000)
    scores = [script.measured(tmp_path / "rows.npy", how, 2)["score"] for how in ("fit", "partial_fit")]
    assert abs(scores[0] - scores[1]) < 0.3


@pytest.mark.parametrize("script", ["one_shot"], indirect=True)
def test_one_shot(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PRECISIONS", (0.5,))
    rows = numbers(script.report(seeds=20))
    assert rows["keys adapted, 20 steps (0.5)"][0] > rows["L2 (0.5)"][0] + 0.1
    assert rows["digits, oracle: the class means"][0] > rows["digits, L2 (0.5)"][0] > 0.5


@pytest.mark.parametrize("script", ["one_shot"], indirect=True)
def test_images_of_digits_are_for_tuning_or_for_tasks(script: ModuleType) -> None:
    tuning, tasks = (script.tasks_of_digits(range(3), held_out) for held_out in (False, True))
    assert tuning.queries.shape == tasks.queries.shape == (3, 75, script.WIDTH)
    both = torch.cdist(tuning.queries.flatten(0, 1), tasks.queries.flatten(0, 1))
    assert both.min() > 1e-6 and torch.equal(tuning.means, tasks.means)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["shift"], indirect=True)
def test_shift(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LABELED", (10,))
    settings = {name: grid[0] for name, (_, grid) in script.METHODS.items()}
    settings |= {"L2": (6.0,), "keys and values": (12.0, 10.0, 8.0, 0.5)}
    rows = numbers(script.table(script.compare(settings, script.rotate, 1)))
    assert set(rows) > set(script.METHODS)
    assert rows["keys and values"][0] > rows["L2"][0]
    gated = numbers(script.table(script.gate(settings, 1, 10)))
    assert gated["invert"][3] == 1 and gated["none"][3] == 0


@pytest.mark.parametrize("script", ["uncertainty"], indirect=True)
def test_uncertainty(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PRECISIONS", (10.0, 100.0))
    rows = numbers(script.table(script.compare(script.bimodal, script.to_nearer_branch, 1)))
    assert rows["mixture, mode"][0] < rows["mean and variance"][0]
    assert rows["mixture, mode"][3] < 0.3 < rows["mean and variance"][3]


@pytest.mark.parametrize("script", ["della"], indirect=True)
def test_della(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LENGTH", 8)
    rows = numbers(script.report(width=16, layers=2, vocabulary=40, texts=4, time=8, repeats=1, device="cpu"))
    assert rows["by hand"][1] == 1.0
    assert 1.0 < rows["collapsed"][3] < rows["product"][3]  # activations


@pytest.mark.parametrize("script", ["della_table"], indirect=True)
def test_the_models_of_the_table_are_of_one_size(script: ModuleType) -> None:
    config = script.TransformerConfig(vocabulary=60, max_length=8, width=32, layers=2, heads=2)
    sizes = [script.parameters(*script.make(name, script.equal(name, config))) for name in script.PUBLISHED]
    assert max(sizes) < 1.01 * min(sizes)
    done = [task.file for task in script.tasks(2, list(script.VARIANTS), list(script.HELP))]
    assert len(set(done)) == len(done) == 2 * sum(map(len, script.HELPED.values()))
    trained = script.make("mixture prior", config)[0].latent_prior, script.make("flow prior", config)[0].latent_prior
    assert [type(prior).__name__ for prior in trained] == ["LinearMixture", "LinearFlow"]
    before, after = script.LanguageModel(config).eval(), script.make("product", config)
    tokens = torch.randint(3, 60, (2, 8))
    hidden = {
        identity: script.grown(before, *after, identity=identity)[0].eval().decoder(tokens, context)
        for context in [Context(torch.randn(2, 2, script.LATENT))]
        for identity in (True, False)
    }
    torch.testing.assert_close(hidden[True], before.decoder(tokens))
    assert (hidden[False] - hidden[True]).abs().mean() > 0.1


@pytest.mark.parametrize("script", ["compaction"], indirect=True)
def test_compaction(script: ModuleType) -> None:
    corpus = corpus_of(60)
    model = pf.NVAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1, heads=2)
    run = pf.Run(model, pf.NVAEGuide(model), corpus, RunFolder(corpus.folder), {}, 0)
    rows = numbers(script.report(run, thresholds=(0.01, 0.9), texts=3, rounds=1))
    cache = {name: rows[name][3] for name in ("0", "0.01", "0.9")}
    assert rows["0"][0] == 100 and rows["0"][-1] == 0
    assert rows["0.9"][0] < rows["0.01"][0] <= 100
    assert cache["0.9"] < cache["0.01"] <= cache["0"]  # of one vector each, the prior's
    language_model = pf.Run(pf.LanguageModel.for_corpus(corpus, width=16), None, corpus, run.folder, {}, 0)
    with pytest.raises(ValueError, match="a LanguageModel has no mixture to thin: give a run of an nvae"):
        script.report(language_model)


@pytest.mark.parametrize("script", ["nvib_dial"], indirect=True)
def test_fixed_ways_to_drop_vectors_keep_what_they_say(script: ModuleType) -> None:
    texts = [f"The number {n} follows {n - 1}." for n in range(60)]
    corpus = pf.Corpus.from_texts(texts, tokenizer="bytes", max_length=32)
    options = SimpleNamespace(width=16, layers=1)
    batch = next(corpus.batches("test", batch_size=4))
    n, kept = batch.lengths, {}
    for family in ("relu", "linear", "stride 2", "stride 3", "one vector"):
        guide = script.make(script.Point("bytes", family, 0.3), corpus, options)[1].eval()
        kept[family] = guide.encode(batch).kept.sum(-1) - 1
        assert poutine.trace(guide).get_trace(batch).nodes["weights"]["infer"]["switches_off"] == (family != "linear")
    assert torch.equal(kept["linear"], n) and bool((kept["relu"] < n).all())
    assert torch.equal(kept["stride 2"], (n + 1) // 2) and torch.equal(kept["stride 3"], (n + 2) // 3)
    assert kept["one vector"].unique().tolist() == [1]
    posterior = guide.encode(batch)  # of the mean over the text: padding does not change it
    alone = guide.encode(batch._replace(tokens=batch.tokens[:1, : n[0]], mask=batch.mask[:1, : n[0]]))
    torch.testing.assert_close(alone.mean[0, 1], posterior.mean[0, 1])


@pytest.mark.parametrize("script", ["nvib_dial"], indirect=True)
def test_the_threshold_of_a_removal_is_chosen_on_validation_texts(script: ModuleType) -> None:
    valid = dict.fromkeys([f"{least:g}" for least in script.THRESHOLDS], {"bleu": 50.0, "kept_share": 0.1})
    valid |= {"0": {"bleu": 90.0}, f"{script.THRESHOLDS[0]:g}": {"bleu": 89.5}}
    test = {
        f"{least:g}": {"kept_share": 1 - 10 * least, "bleu": 88.0, "accuracy_kept": 0.9} for least in script.THRESHOLDS
    }
    whole = {"accuracy": 0.95, "bleu": 91.0, "kept_share": 1.0, "kept_attention_share": 0.99}
    results = [
        {"point": script.Point("bytes", "linear", 0.3, seed)._asdict(), "whole": whole, "valid": valid, "test": test}
        for seed in (0, 1)
    ]
    assert script.fewer(results[0]) == test[f"{script.THRESHOLDS[0]:g}"]
    row = script.table(results).splitlines()[2]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:4] == ["bytes", "linear", "0.3", "2"]
    assert [cell.split()[0] for cell in cells[4:]] == ["0.950", "91.0", "100.0", "99.0", "95.0", "0.900", "88.0"]


@pytest.mark.parametrize("script", ["samples", "interpolation"], indirect=True)
def test_texts_are_judged(script: ModuleType) -> None:
    corpus = corpus_of(480)
    torch.manual_seed(0)
    runs = []
    for model in (
        pf.LanguageModel.for_corpus(corpus, width=16),
        pf.VAE.for_corpus(corpus, base_measure="gaussian", width=16, layers=1),
    ):
        guide = None if isinstance(model, pf.LanguageModel) else pf.VAEGuide(model)
        runs.append(pf.fit(model, guide, corpus, steps=1, batch_size=8))
    judge, vae = runs
    if script.__name__ == "samples":
        network = {"width": 16, "layers": 1, "heads": 2}
        educated = script.Judge(judge.backbone)  # the same judge, so that both columns agree
        rows = numbers(script.report(judge, {"a vae": vae}, n=30, educated=educated, steps=2, network=network))
        assert rows["real texts"][:1] == rows["real texts"][1:2]
        assert set(rows) == {"texts of", "real texts", "the judge", "a vae", "---"}
        assert rows["real texts"][-1] == 0 and 100 < rows["real texts"][0] < 400  # 270 tokens, nothing learned
        return
    text = script.report(judge, {"a vae": vae}, n=2)
    first, last = ([float(cell) for cell in line.split("|")[2:6]] for line in text.splitlines()[2:7:4])
    assert (first[0], last[0]) == (0, 1) and first[3] + last[3] <= 2
    assert script.rows([["a", "", "", "b", "b"]], judge, [("a", "b")])[1][3:] == [1.0, 0.0, None]  # blank is not new


@pytest.mark.parametrize("script", ["curve"], indirect=True)
def test_the_curve(script: ModuleType, tmp_path: Path) -> None:
    assert len({point.name for point in script.POINTS}) == len(script.POINTS)
    first_stages = {point for point in script.POINTS if not point.prior}
    assert all(point._replace(prior="") in first_stages for point in script.POINTS)
    corpus = corpus_of(60)
    for point in script.POINTS[:10]:
        model, guide = script.make(point, corpus, width=16, layers=1)
        assert (guide is None) == (point.family in script.LANGUAGE_MODELS)
        assert len(model.decoder.blocks) == (2 if point.family == "language model" else 1)
    results = [fake_result(script, point, level) for level, point in enumerate(script.POINTS)]
    rows = numbers(script.table(results, SimpleNamespace(steps=100, width=96)))
    assert rows["nvae, autoregressive prior"][3] != rows["nvae"][3]
    assert rows["language model"][0] == 400  # steps of the last of its rows
    alone = [one for one in results if one["point"]["prior"]]
    script.plot(alone, tmp_path / "curve.png")  # a second stage whose first is not measured yet
    script.plot(results, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("script", ["curve"], indirect=True)
def test_no_line_of_the_curve_runs_through_its_legend(script: ModuleType, tmp_path: Path) -> None:
    script.plot(script.read(FOLDER / "results" / "curve"), tmp_path / "curve.png")
    whole = plt.gcf().axes[0]
    place = whole.get_legend().get_window_extent()
    assert not [
        line
        for line in whole.lines
        if line.get_transform().transform_path(line.get_path()).intersects_bbox(place, False)
    ]
    plt.close()


def fake_result(script: ModuleType, point: Any, level: float) -> dict[str, Any]:
    """A result in the format of the script."""
    metrics = {name: {"units": {unit: {"value": 1.0 + level}}} for name, unit, _ in script.COLUMNS.values()}
    return {"point": point._asdict(), "evaluation": {"metrics": metrics}}


def test_faults_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    runner = importlib.import_module("fault_runner")
    place = runner.Workplace.make(tmp_path / "place", models=())

    def crash(_: object) -> None:
        raise RuntimeError("nobody wrote a message")

    cases = [
        ("refused", "fit gpt5 --data {root}/good.txt --out {new}", None),
        ("refused", "fit lm --data {root}/good.txt --out {new} --steps many", None),
        ("right", "--version", lambda ending, place: "pyroformer" in ending.out),
        ("wrong", "--version", None),
        ("wrong", "--version", lambda ending, place: False),
        ("traceback", crash, None),
        ("lost", lambda place: (place.root / "good.txt").unlink(), lambda ending, place: True),
    ]
    results = [runner.run_case(runner.Case("files", name, act, works), place) for name, act, works in cases]
    assert [result.verdict for result in results] == [name for name, *_ in cases]
    assert numbers(runner.table(results))["files"] == [7, 2, 1, 1, 2, 1, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("script", ["scaling"], indirect=True)
def test_the_model_of_scaling(script: ModuleType) -> None:
    fast = script.Machine(rate=6e12, node=1e10, network=1e9, delay=0.0, memory=160.0)
    assert script.step(fast, 1, 1e6, 1000) == pytest.approx(1e-3)
    assert script.sent(2, 100) == 400 and script.sent(4, 100, sharded=True) == 900
    assert script.step(fast, 2, 1e6, 1000) == pytest.approx(1e-3)  # 4 MB take 0.4 ms, two thirds of 1 ms hide them
    assert script.step(fast, 2, 1e6, 100) == pytest.approx(1e-4 + 4e-4 - 2 / 3 * 1e-4)
    assert script.step(fast, 16, 1e6, 1000) == pytest.approx(1e-3 + 7.5e-3 - 2 / 3 * 1e-3)  # over the network
    tokens = script.hiding_tokens(fast, 8, 1e6)
    assert tokens == pytest.approx(2 * 7 / 8 * fast.rate / fast.node)  # N cancels
    assert script.step(fast, 8, 1e6, tokens) == pytest.approx(1e-6 * tokens)
    assert script.largest(fast, 2, spare=0.5) == 10
    slow = fast._replace(delay=1e-3)
    assert script.step(slow, 8, 1e6, 0.0) == pytest.approx(script.step(fast, 8, 1e6, 0.0) + 6e-3)  # one bucket
    rows = [line for line in script.table(script.Machine()).splitlines() if line.startswith("| 8 ")]
    assert len(rows) == 3 and all(row.endswith("100 % |") for row in rows)


@pytest.mark.parametrize("script", ["step_profile"], indirect=True)
def test_where_the_time_of_a_step_goes(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "VOCABULARY", 300)
    monkeypatch.setattr(script, "TEXTS", 2)
    systems = script.systems(16)
    monkeypatch.setattr(script, "systems", lambda width: {name: systems[name] for name in ("language model", "NVAE")})
    assert [
        script.group(f"aten::{name}") for name in ("bmm", "_softmax", "exp_", "normal_", "embedding", "expand")
    ] == [
        "products",
        *2 * ["norms, softmax, gates"],
        "random, special",
        *2 * [script.OTHERS],
    ]
    rows = numbers(script.table([16], "off", 1, "cpu"))
    assert len(systems) == 5 and len(rows) == 4  # with those of the head
    for name, (time, rate, *shares) in list(rows.items())[2:]:
        assert time > 0 and 0 <= rate < 100, name
        assert 97 <= sum(shares[:-1]) <= 103 and shares[0] > 0 and 0 <= shares[-1] < 100, name
    assert script.likelihood_flops((8, 16), (300, 16)) == 2 * 8 * 16 * 300
    assert script.likelihood_gradient_flops((8,), (8, 16), (300, 16)) == 4 * 8 * 16 * 300


@pytest.mark.slow
@pytest.mark.parametrize("script", ["bench"], indirect=True)
def test_bench(script: ModuleType, tmp_path: Path) -> None:
    sections = {
        "attention": lambda device: script.layers(device, 8, 16, 1),
        "likelihood": lambda device: script.vocabularies(device, 300, 9000, 8, 1),
        "mixtures": lambda device: script.mixtures(device, 200, 1),
        "trunk": lambda device: script.trunks(device, 16, 1, 8),
        "generate": lambda device: script.writing(device, 16, 1, 4, 2),
        "della": lambda device: script.chains(device, 16, 1),
    }
    said: list[str] = []
    text = script.report(sections, "cpu", 5, said.append)
    assert [line.split(":")[0] for line in said] == list(sections)
    rows = text.splitlines()[4:]
    assert len(rows) == 12 and all(row.count("|") == 7 for row in rows)
    ratios = {row.split(" | ")[0][2:]: float(row.split(" | ")[4]) for row in rows}
    assert all(ratio > 0 for ratio in ratios.values())
    assert ratios["likelihood of 300 of 9,000 tokens, memory"] < 1.1  # so few logits are kept, as in the dense form
    late = script.report(sections, "cpu", -1)
    assert "Without attention, likelihood, mixtures, trunk, generate, della, for which no time was left" in late
    results = tmp_path / "RESULTS.md"
    results.write_text("before\n<!-- bench: here -->\nold\n<!-- end of bench -->\nafter\n")
    script.write("bench", text, results)
    script.write("bench", text, results)  # replaced, not added
    assert results.read_text() == f"before\n<!-- bench: here -->\n\n{text}\n<!-- end of bench -->\nafter\n"
    with pytest.raises(ValueError, match="has no place for bench-gpu: put the lines"):
        script.write("bench-gpu", text, results)
    row = script.Row("work", "others", 2.0, 1.0, asked=1.5)
    assert row.cells() == ["work", "others", "2 ms", "1 ms", "2.00", "1.5, missed"]


@pytest.mark.compile
@pytest.mark.parametrize("script", ["bench_gpu"], indirect=True)
def test_bench_gpu_on_a_cpu(script: ModuleType) -> None:
    size = script.Size(width=16, layers=1, vocabulary=50, texts=2, length=8, rounds=1, components=8, backend="eager")
    sections = [script.kernels, script.waits, script.by_hand, script.rates, script.memory]
    rows = {row.work: row for section in sections for row in section("cpu", size)}
    assert len(rows) == 12 and all(row.ours >= 0 for row in rows.values())
    assert all(rows[f"waits in a step of {name}"].ours == 0 for name in ("lm", "della", "nvae"))
    assert script.count_waits(lambda: torch.ones(2).sum().item()) == 1
    assert any("scaled_dot_product" in work for work in rows)


@pytest.mark.parametrize("script", ["preparing"], indirect=True)
def test_the_text_that_is_prepared_is_varied_and_the_memory_that_of_all_processes(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "sentences", few_sentences)
    lines = script.write(tmp_path / "texts.txt", 0.5)
    texts = (tmp_path / "texts.txt").read_text().splitlines()
    assert len(texts) == lines and (tmp_path / "texts.txt").stat().st_size >= 5e5
    longer = [text for text in texts if len(text.split()) > 8]
    assert len(longer) > lines / 4 and len(set(longer)) == len(longer)
    child = "import time; held = bytes(range(256)) * 200_000; time.sleep(3)"
    parent = (
        f"import subprocess, sys; held = bytes(range(256)) * 200_000; subprocess.run([sys.executable, '-c', {child!r}])"
    )
    both, one = script.measured([sys.executable, "-c", parent]), script.measured([sys.executable, "-c", child], 1.5)
    assert both.status == 0 and both.peak > 2 * 51.2 > 1.5 * one.peak > 1.5 * 51.2
    assert one.status == -9 and 1.5 < one.seconds < 3
