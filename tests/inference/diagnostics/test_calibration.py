"""Simulation-based calibration, for models with a known posterior."""

import math
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.diagnostics import Calibration, calibrate
from pyroformer.models.batch import Batch
from pyroformer.models.della import DELLA
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.config import TransformerConfig

CONFIG = TransformerConfig(vocabulary=9, max_length=4, width=8, layers=1, heads=2)
TEXTS = 50


class Gaussian(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 1): the posterior is N(x / 2, 1 / 2)."""

    def forward(self, seen: Tensor | None = None) -> None:
        with pyro.plate("texts", TEXTS, dim=-1):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(TEXTS), 1.0))
            pyro.sample("text", dist.Normal(mean, 1.0), obs=seen)


class Guess(nn.Module):
    def __init__(self, slope: float = 0.5, shift: float = 0.0, scale: float = math.sqrt(0.5)) -> None:
        super().__init__()
        self.slope, self.shift, self.scale = slope, shift, scale

    def forward(self, seen: Tensor) -> None:
        with pyro.plate("texts", TEXTS, dim=-1):
            pyro.sample("mean", dist.Normal(self.slope * seen + self.shift, self.scale))


def seen_of(trace: Trace) -> Tensor:
    return trace.nodes["text"]["value"]


def calibrated(guide: nn.Module, **options: Any) -> Calibration:
    return calibrate(Gaussian(), guide, simulations=10, draws=39, args=(), observe=seen_of, **options)


def test_the_posterior_is_calibrated() -> None:
    calibration = calibrated(Guess())
    assert len(calibration.ranks["mean"]) == 10 * TEXTS
    assert 0 <= calibration.ranks["mean"].min() and calibration.ranks["mean"].max() == 39
    assert calibration.p_value("mean") > 0.01 and calibration.p_value("log_p") > 0.01


def test_the_bar_counts_simulations(capsys: pytest.CaptureFixture[str]) -> None:
    shown = calibrated(Guess(), progress=True)
    assert "calibrating:   0%|" in (bar := capsys.readouterr().err) and "/10 [" in bar
    quiet = calibrated(Guess(), progress=False)
    assert all((shown.ranks[name] == quiet.ranks[name]).all() for name in shown.ranks)
    assert not capsys.readouterr().err


def test_a_narrow_guide_leaves_the_truth_in_the_tails() -> None:
    calibration = calibrated(Guess(scale=0.35))
    counts = calibration.counts("mean")
    assert calibration.p_value("mean") < 1e-6
    assert counts[0] + counts[-1] > 0.3 * counts.sum()


def test_a_wide_guide_has_it_in_the_middle() -> None:
    counts = calibrated(Guess(scale=1.4)).counts("mean")
    assert counts[0] + counts[-1] < 0.1 * counts.sum()


def test_a_biased_guide_is_too_low() -> None:
    calibration = calibrated(Guess(shift=-0.5))
    assert calibration.p_value("mean") < 1e-6
    assert calibration.ranks["mean"].mean() > 24


def test_only_the_joint_density_detects_the_prior() -> None:
    calibration = calibrated(Guess(slope=0.0, scale=1.0))  # ranks of z are uniform under the prior too
    assert calibration.p_value("mean") > 0.01
    assert calibration.p_value("log_p") < 1e-6


class Shared(nn.Module):
    """A global mean: the posterior of m given n observations with unit noise is N(sum / (n + 1), 1 / (n + 1))."""

    def forward(self, seen: Tensor | None = None) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("texts", 4, dim=-1):
            pyro.sample("text", dist.Normal(mean, 1.0).to_event(1), obs=seen)


class Exact(nn.Module):
    def forward(self, seen: Tensor) -> None:
        pyro.sample("mean", dist.Normal(seen.sum(0) / 5, math.sqrt(0.2)).to_event(1))


def test_what_all_texts_share_has_one_rank_a_run() -> None:
    calibration = calibrate(Shared(), Exact(), simulations=100, draws=9, args=(), observe=seen_of)
    assert {name: len(ranks) for name, ranks in calibration.ranks.items()} == {
        "mean[0]": 100,
        "mean[1]": 100,
        "log_p": 100,
    }
    assert min(calibration.p_value(name) for name in calibration.ranks) > 0.01


def test_quantities_of_ones_own() -> None:
    calibration = calibrated(Guess(), quantities=lambda sites: {"size": sites["mean"]["value"].abs()})
    assert list(calibration.ranks) == ["size"] and calibration.p_value("size") > 0.01


def test_ties_are_broken_at_random() -> None:
    calibration = calibrated(Guess(), quantities=lambda sites: {"one": torch.ones(TEXTS)})
    assert calibration.p_value("one") > 0.01


def test_an_untrained_guide_of_texts_is_detected() -> None:
    torch.manual_seed(0)
    model = DELLA(CONFIG, latent_size=2)
    guide = DELLAGuide(model)
    assert calibrate(model, guide, simulations=1, draws=9, texts=40).ranks["z_1[1]"].shape == (40,)
    with torch.no_grad():
        for head in guide.heads:
            head.bias[2:] = -3.0
    assert calibrate(model, guide, simulations=1, draws=9, texts=40).p_value("z_1[1]") < 1e-6


def test_texts_of_another_length_than_was_drawn_do_not_count() -> None:
    torch.manual_seed(0)
    model = NVAE(CONFIG)
    ranks = calibrate(model, NVAEGuide(model), simulations=1, draws=3, texts=60).ranks
    assert set(ranks) == {"mean of weights", "mean of vectors", "log_p"}
    assert 0 < len(ranks["log_p"]) < 60


PRESENT = torch.tensor([[True, False], [True, True]]).repeat(TEXTS // 2, 1)


class Padded(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 1), with a second entry of both in every other text."""

    def forward(self, seen: Tensor | None = None) -> None:
        with pyro.plate("texts", TEXTS, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(TEXTS, 2), 1.0).mask(PRESENT).to_event(1))
            pyro.sample("text", dist.Normal(z, 1.0).mask(PRESENT).to_event(1), obs=seen)


class FarWhereAbsent(nn.Module):
    """The exact posterior of the entries that exist; the others are far away."""

    def forward(self, seen: Tensor) -> None:
        mean = torch.where(PRESENT, 0.5 * seen, 100.0)
        with pyro.plate("texts", TEXTS, dim=-1):
            pyro.sample("z", dist.Normal(mean, math.sqrt(0.5)).mask(PRESENT).to_event(1))


def test_entries_that_a_text_has_not_do_not_count() -> None:
    calibration = calibrate(Padded(), FarWhereAbsent(), simulations=4, draws=39, args=(), observe=seen_of)
    assert set(calibration.ranks) == {"mean of z", "log_p"}
    assert min(calibration.p_value(name) for name in calibration.ranks) > 0.01


def test_chi_square_is_that_of_scipy() -> None:
    from scipy.stats import chisquare

    ranks = np.random.default_rng(0).integers(0, 20, 137)
    calibration = Calibration({"z": ranks}, 19)
    assert calibration.p_value("z", 5) == pytest.approx(chisquare(np.bincount(ranks // 4)).pvalue)
    outer = ((ranks < 4) | (ranks >= 16)).mean()
    mean, p = (ranks.mean() + 0.5) / 20, calibration.p_value("z", 5)  # 0.5 for uniform ranks
    assert calibration.table(5).splitlines()[1].split() == ["z", "137", f"{mean:.3f}", f"{outer:.3f}", f"{p:.3f}"]


def test_invalid_calibrations() -> None:
    with pytest.raises(ValueError, match="draws is 0: give a whole number of at least 1"):
        calibrate(Gaussian(), Guess(), draws=0)
    calibration = Calibration({"z": np.arange(10)}, 9)
    with pytest.raises(ValueError, match="bins is 3: give 2 or more, a divisor of the 10 possible ranks"):
        calibration.counts("z", 3)
    with pytest.raises(ValueError, match="there is no quantity 'y': choose among z"):
        calibration.p_value("y")
    model = DELLA(CONFIG, latent_size=65)
    with pytest.raises(ValueError, match="there are 65 entries of latents to rank: give at most 64"):
        calibrate(model, DELLAGuide(model), simulations=1, texts=2)
    nvae = NVAE(CONFIG)
    with pytest.raises(ValueError, match="no text of 1 had the length that was drawn for it"):
        calibrate(nvae, NVAEGuide(nvae), simulations=1, draws=3, texts=1, seed=1)


def test_conditions_are_those_of_the_texts_that_are_given() -> None:
    model = DELLA(replace(CONFIG, max_condition_length=2), latent_size=2)
    guide = DELLAGuide(model)
    batch = Batch.pad([[5, 2], [6, 7, 2], [8, 2]], conditions=[[3], [4, 5], [6]])
    calibration = calibrate(model, guide, simulations=2, draws=9, args=[batch])
    assert len(calibration.ranks["log_p"]) == 6
    again = calibrate(model, guide, simulations=2, draws=9, args=[batch._replace(tokens=None, mask=None)])
    assert (calibration.ranks["log_p"] == again.ranks["log_p"]).all()  # texts are drawn, not those of the batch
    with pytest.raises(ValueError, match=r"the model reads conditions: give those of some texts, args=\[run.batch\("):
        calibrate(model, guide, simulations=1)


class Alone(nn.Module):
    def forward(self) -> None:
        pyro.sample("mean", dist.Normal(0.0, 1.0))


def test_a_model_without_texts_needs_to_observe() -> None:
    with pytest.raises(ValueError, match="the model has no site 'text' to make a batch of: give observe="):
        calibrate(Alone(), Guess(), args=())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((TEXTS,), torch.nan), "the quantity 'f' is NaN in a draw, which has no rank"),
        (torch.zeros(TEXTS, 2), r"the quantity 'f' has shape \(50, 2\): give one value for each text, or a single one"),
        ("0.5", "the quantity 'f' is a str: give a tensor or a number"),
    ],
)
def test_quantities_that_have_no_rank(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrated(Guess(), quantities=lambda sites: {"f": value})


def test_a_quantity_has_one_value_for_each_text_of_a_batch_or_one() -> None:
    model = DELLA(CONFIG, latent_size=2)
    options: dict[str, Any] = {"simulations": 1, "draws": 9, "texts": 4}
    with pytest.raises(ValueError, match=r"the quantity 'f' has shape \(3,\): give one value for each of 4 texts"):
        calibrate(model, DELLAGuide(model), quantities=lambda sites: {"f": torch.zeros(3)}, **options)
    calibration = calibrate(model, DELLAGuide(model), quantities=lambda sites: {"f": 0.5}, **options)
    assert calibration.ranks["f"].shape == (1,)


def test_ranks_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    ranks: Any = [0, 4, 9]  # a list, too
    assert Calibration({"z": ranks}, 9).counts("z", 2).tolist() == [2, 1]
    for wrong, message in [
        ([0, 10], "the ranks of 'z' go from 0 to 10: give whole numbers from 0 to 9, the number of draws"),
        ([-1, 3], "the ranks of 'z' go from -1 to 3"),
        ([0.5], r"the ranks of 'z' have shape \(1,\) and type float64"),
        ([[1]], r"the ranks of 'z' have shape \(1, 1\) and type int64"),
        ([], r"the ranks of 'z' have shape \(0,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            Calibration({"z": np.array(wrong)}, 9)
