"""The ladder: its rungs, its shares of a run, and runs that are cut on one of its rungs."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.inference.options import TrainingOptions
from pyroformer.inference.runs.checkpoints import read_checkpoint
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.schedules import RUNGS, SCHEDULES, kl_schedule, ladder
from pyroformer.inference.training.fit import fit
from pyroformer.inference.training.status import Status

TEXTS = [f"Number {n % 43}." for n in range(120)]


@pytest.mark.parametrize("rungs", [RUNGS, (0.1, 1.0), (0.5,), (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)])
@pytest.mark.parametrize("each", [1, 3, 10])
def test_every_rung_has_the_same_number_of_steps(rungs: tuple[float, ...], each: int) -> None:
    steps = each * len(rungs)
    weights = [ladder(step / steps, rungs) for step in range(steps)]
    assert weights == [rung for rung in rungs for _ in range(each)]
    assert ladder(1.0, rungs) == rungs[-1]


def test_a_schedule_by_its_name() -> None:
    for name, schedule in SCHEDULES.items():
        assert [kl_schedule(name)(t / 8) for t in range(9)] == [schedule(t / 8) for t in range(9)]
    assert [kl_schedule("ladder", [0.2, 0.4])(t) for t in (0.0, 0.49, 0.5, 1.0)] == [0.2, 0.2, 0.4, 0.4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_schedule": "ladder", "ladder": []}, r"ladder is \[\]: give zero or positive numbers, such as"),
        ({"kl_schedule": "ladder", "ladder": [0.1, -1.0]}, r"ladder is \[0.1, -1.0\]: give zero or positive numbers"),
        ({"kl_schedule": "ladder", "ladder": [float("nan")]}, r"ladder is \[nan\]: give zero or positive numbers"),
        (
            {"kl_schedule": "ladder", "ladder": [0.01, 0.1]},
            r"ladder is \[0.01, 0.1\], which ends at 0.1: let it end at 1",
        ),
        ({"ladder": [0.1, 1.0]}, r"ladder is \[0.1, 1.0\], but kl_schedule is constant: choose the kl_schedule ladder"),
        ({"kl_schedule": "ladder", "target_kl": 3.0}, "kl_schedule is ladder, but target_kl alone decides the weight"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


@pytest.fixture(scope="module")
def corpus() -> pf.Corpus:
    return pf.Corpus.from_texts(TEXTS, vocabulary=270, max_length=16)


def train(corpus: pf.Corpus, out: Path, **options: Any) -> pf.Run:
    torch.manual_seed(0)
    prior = pf.priors.CodebookVectorPrior(8, entries=8, layers=1, heads=2, samples_per_component=0)
    model = pf.VAE.for_corpus(corpus, width=8, layers=1, heads=2, base_measure=prior)
    given: dict[str, Any] = {"objective": "elbo", "kl_schedule": "ladder", "ladder": [0.01, 0.1, 1.0]}
    given |= {"steps": 6, "validations": 6, "batch_size": 8, "beta": 0.5}
    return fit(model, pf.VAEGuide(model), corpus, out=out, **given | options)


class Cut(Exception):
    pass


def test_a_run_that_was_cut_on_a_rung_goes_on_to_the_same_bits(corpus: pf.Corpus, tmp_path: Path) -> None:
    def cut(status: Status) -> None:
        if status.split == "train" and status.step >= 4:
            raise Cut

    whole = train(corpus, tmp_path / "whole")
    with pytest.raises(Cut):
        train(corpus, tmp_path / "cut", callback=cut)
    assert RunFolder(tmp_path / "cut").step() == 3
    resumed = train(corpus, tmp_path / "cut", resume=True)
    assert resumed.config["training"]["ladder"] == [0.01, 0.1, 1.0]
    first, second = (read_checkpoint(RunFolder(tmp_path / name).last)["state_dict"] for name in ("whole", "cut"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    beta = whole.folder.read_metrics()["beta"]
    assert sorted(set(beta)) == pytest.approx([0.005, 0.05, 0.5])
    with pytest.raises(ValueError, match=r"ladder is \[0.1, 1.0\], but .* was begun with \[0.01, 0.1, 1.0\]"):
        train(corpus, tmp_path / "cut", resume=True, ladder=[0.1, 1.0])
