"""A language model as a judge of texts: its own log probabilities are the oracle."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.evaluation.judge import Judge
from pyroformer.inference.evaluation.metrics import Judged

TEXTS = [f"{n} and {n + 1} are {2 * n + 1}" for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a language model, whose judgments differ from text to text."""
    corpus = pf.Corpus.from_texts(TEXTS, vocabulary=280, max_length=24)
    torch.manual_seed(0)
    model = pf.LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2, init_std=0.3)
    out = tmp_path_factory.mktemp("judge") / "lm"
    pf.fit(model, None, corpus, out=out, steps=1, batch_size=4, validation_texts=4, progress=False)
    return out


def test_its_loss_is_that_of_the_run(folder: Path) -> None:
    run = pf.load(folder)
    judge, texts = Judge(run.backbone), [*TEXTS[:9], "a", "7"]
    loss = judge.loss(texts, batch_size=4)
    np.testing.assert_allclose(loss.nats, -np.asarray(run.bound(texts)), rtol=1e-5)
    assert loss.tokens.tolist() == [len(tokens) for tokens in run.tokenizer.encode_batch(texts)]
    np.testing.assert_allclose(judge.loss(texts[::-1]).nats[::-1], loss.nats, rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size is -1: give a whole number of at least 1"):
        judge.loss(texts, batch_size=-1)


def test_of_a_longer_text_it_judges_the_beginning(folder: Path) -> None:
    backbone = pf.load(folder).backbone
    long = " and ".join(TEXTS[:5])
    loss = Judge(backbone).loss([long, TEXTS[0]])
    assert loss.tokens[0] == 24 and np.isfinite(loss.nats).all()
    assert Judge(backbone, max_length=5).loss([long]).tokens[0] == 5


def test_the_metric_is_the_loss_on_the_samples_beside_that_on_held_out_texts(folder: Path) -> None:
    run = pf.load(folder)
    samples = run.sample(400, seed=0)
    kept = [text for text in samples if text.strip()]
    metrics = run.evaluate(metrics=[Judged(Judge(run.backbone))], samples=len(samples), seed=0).metrics
    loss = Judge(run.backbone).loss(kept)
    value, error = metrics["judged"].units["nats/token"]
    assert value == pytest.approx(loss.nats.sum() / loss.tokens.sum(), rel=1e-6)
    assert error is not None and 0 < error < 0.2
    assert metrics["judged_held_out"].label == f"loss of the judge on {len(run.corpus.test)} held-out texts"


def test_the_command_line_has_a_judge(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(arguments: str) -> tuple[int, str, str]:
        code = main(shlex.split(f"evaluate {folder} --limit 4 {arguments}"))
        return code, *capsys.readouterr()

    code, out, _ = says(f"--samples 6 --judge {folder}")
    assert code == 0 and "loss of the judge on 6 generated texts" in out and "held-out texts" in out
    for arguments, message in (
        (f"--judge {folder}", "there is nothing to judge: give --samples, such as --samples 200"),
        (f"--samples 6 --judge {tmp_path}", f"{tmp_path} holds no model (no config.json)"),
    ):
        code, out, error = says(arguments)
        assert code != 0 and message in error and error.count("\n") == 1 and not out
