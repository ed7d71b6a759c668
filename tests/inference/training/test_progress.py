"""What a training shows: its bar, and the line about it."""

import pytest

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.progress import TrainingBar, TrainingLine
from pyroformer.inference.training.status import Status
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts([f"number {n} of many" for n in range(40)], vocabulary=265, max_length=24)


def language_model(corpus: Corpus) -> LanguageModel:
    return LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)


def test_progress_fits_its_terminal_and_drops_the_least_first() -> None:
    progress = TrainingLine()
    values = {"objective": 2.31, "reconstruction": 0.41, "kl_weights": 18.2, "kl_vectors": 100.0}
    progress.train = values
    status = Status(1940, 0.62, 372.0, 227.0, 9800.0, "train", values, "objective (nvib, not a bound)")
    assert progress.text(status) == (
        " 62 % | step 1,940 | objective (nvib, not a bound) 2.31 | reconstruction 0.41 | KL 118.2 nats/token | "
        "9.8k tokens/s | 3:47 left"
    )
    for width in (120, 80, 60, 40, 20):
        assert len(progress.text(status, width)) <= width
    assert progress.text(status, 60) == " 62 % | objective (nvib, not a bound) 2.31 | 3:47 left"
    progress.train = values | {"beta": 0.03125}
    assert "| KL 118.2 nats/token | beta 0.0312 |" in progress.text(status)


def test_a_divergence_that_rounds_to_nothing_is_not_negative() -> None:
    line = TrainingLine()
    status = Status(3, 0.5, 2.0, 2.0, 9.0, "train", {"objective": 1.0, "reconstruction": 1.0, "kl_latent": -0.004})
    line.update(status)
    assert "KL 0.0 nats/token" in line.text(status)


def test_a_training_says_how_far_it_is(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Status] = []
    fit(language_model(corpus), None, corpus, steps=4, batch_size=8, progress=True, callback=seen.append)
    captured = capsys.readouterr()
    assert not captured.out
    assert "training: 100 %" in captured.err.replace("100%", "100 %")
    assert "step 4 | objective " in captured.err and "held-out " in captured.err and "left" in captured.err
    assert seen[-1].step == 4, "a callback of one's own is called as well"


def test_a_training_and_its_run_say_that_the_objective_is_no_bound(
    corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", width=8, layers=1, heads=2)
    seen: list[Status] = []
    run = fit(model, NVAEGuide(model), corpus, steps=1, batch_size=8, progress=True, callback=seen.append)
    assert "objective (nvib, not a bound) " in capsys.readouterr().err
    assert {status.objective for status in seen} == {"objective (nvib, not a bound)"}
    assert "; objective: nvib, not a bound; " in repr(run)
    assert "<td>nvib, not a bound</td>" in run._repr_html_()


def test_a_training_is_quiet_on_request_and_in_pipes(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, None):
        fit(language_model(corpus), None, corpus, steps=1, batch_size=8, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_drawn_before_the_first_report(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar()
    bar.close("done")
    assert capsys.readouterr() == ("", "")
