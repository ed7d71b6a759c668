"""The demonstration: every part of it is printed, and the run is kept."""

import re
from pathlib import Path

import pytest

import pyroformer as pf
from pyroformer.inference.cli.commands import demo
from pyroformer.inference.cli.main import main

TEXTS = [f"{'One' if n % 3 else 'No'} {n % 43} of {n}." for n in range(400)]


def test_what_fails_or_is_stopped_early_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pf.Corpus, "builtin", stop)
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_shows_what_it_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = pf.Corpus.from_texts(TEXTS, vocabulary=270, max_length=16)
    monkeypatch.setattr(pf.Corpus, "builtin", lambda: corpus)
    monkeypatch.setattr(demo, "SAMPLES", 6)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--minutes", "0.02"]) == 0
    said = capsys.readouterr().out
    parts = said.split("\n\n")
    [samples] = [part for part in parts if part.startswith("samples from the prior:")]
    assert samples.count("\n") == 6 - 1
    [steps] = [part for part in parts if part.startswith("from one text to another")]
    assert steps.count("\n") == 5
    assert sum(f"  {text}" in said.split("\n") for text in corpus.test[:5]) == 5
    line = (
        r"accuracy [01]\.\d{3}; rate \(KL of all latents\) [\d,.]+ nats/token; -log p\(x\) is at most [\d,.]+ "
        r"nats/token, and [\d,.]+ by the language model, which gives samples of the NVAE [\d,.]+ and its own [\d,.]+ n"
    )
    assert re.search(line, said)
    assert pf.load(tmp_path / "runs" / "demo").step > 0
