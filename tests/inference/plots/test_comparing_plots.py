"""Plots that set several runs, guides, tokens or groups side by side."""

from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from own_axes import labels, own_axes

import pyroformer as pf
from pyroformer.inference import plots
from pyroformer.inference.diagnostics import khat
from pyroformer.inference.nvib.kept import Kept
from pyroformer.inference.plots.attention_map import heat_map
from pyroformer.inference.posterior.arviz_compat import ArviZData, from_groups


def rows(ax: Axes) -> list[str]:
    return [str(label.get_text()) for label in ax.get_yticklabels()]


# Numbers of tokens


def test_each_token_has_its_number() -> None:
    values = {"beta 1": torch.tensor([640.0, 3.0]), "beta 10": np.array([0.5, 0.01])}
    ax = plots.token_values(["a", " text"], values, label="nats", ax=own_axes())
    assert [text.get_text() for text in ax.texts] == ["a", "640", "0.5", "text", "3.0", "0.01"]
    assert rows(ax) == ["beta 1", "beta 10"]
    assert ax.get_title(loc="left") == "nats, shades are logarithmic"
    np.testing.assert_allclose(ax.collections[0].get_array(), [[640, 3], [0.5, 0.01]], rtol=1e-6)
    assert plots.token_values(["a"], {"beta": np.ones(1)}, label="nats", ax=own_axes()).get_title(loc="left") == "nats"


@pytest.mark.parametrize("given", [False, True])
def test_long_tokens_have_room_and_long_texts_continue_below(given: bool) -> None:
    pieces = ["incomprehensibilities", " of", " internationalization", "."] * 10
    ax = plots.token_values(pieces, {"x": np.arange(40.0)}, ax=own_axes() if given else None)
    ax.figure.draw_without_rendering()
    assert 6 <= ax.figure.get_figwidth() < 9
    assert [text.get_text() for text in ax.texts[::2]] == [piece.strip() for piece in pieces]
    boxes = [text.get_window_extent() for text in ax.texts[::2]]
    beside = [(a, b) for a, b in zip(boxes, boxes[1:], strict=False) if abs(a.y0 - b.y0) < 9]
    assert len(beside) > 20 and all(a.x1 < b.x0 for a, b in beside)
    np.testing.assert_array_equal(np.concatenate([part.get_array()[0] for part in ax.collections]), np.arange(40))
    assert rows(ax) == ["x"] * len(ax.collections) and len(ax.collections) == 40 - len(beside)


@pytest.mark.parametrize("row", [[0.0, 0.0], [-3.0, 1.0], [2.0, 2.0], [float("nan"), 1.0]])
def test_numbers_of_any_sign_are_drawn(row: list[float]) -> None:
    figure = Figure()
    plots.token_values(["a", "b"], {"": np.array(row)}, ax=figure.subplots())
    figure.canvas.draw()


def test_token_values_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"'x' has shape \(3,\) for 2 tokens: give one number for each"):
        plots.token_values(["a", "b"], {"x": np.zeros(3)})
    with pytest.raises(ValueError, match="values are {} for 2 tokens: give rows of numbers by name"):
        plots.token_values(["a", "b"], {})


# Intervals


def shares(**coordinates: list[str]) -> tuple[ArviZData, np.ndarray]:
    values = np.random.default_rng(0).gamma([[[1.0, 5.0, 3.0]]], size=(2, 400, 3))
    after = xarray.Dataset({"share": (("chain", "draw", "cloud"), values)}, coordinates)
    before = xarray.Dataset({"share": (("chain", "draw", "cloud"), values[:1, :50] + 1)}, coordinates)
    return from_groups({"prior": before, "posterior": after}, {}), values


def test_intervals_are_those_of_the_draws() -> None:
    data, values = shares(cloud=["near", "far", "off"])
    ax = plots.intervals(data, "share", ax=own_axes())
    assert rows(ax) == ["near", "far", "off"]
    assert labels(ax) == ["prior", "posterior"]
    segments = np.stack(ax.collections[1].get_segments())[:, :, 0]
    np.testing.assert_allclose(segments, np.quantile(values, [0.05, 0.95], axis=(0, 1)).T)
    np.testing.assert_allclose(ax.lines[1].get_xdata(), np.median(values, axis=(0, 1)))


def test_intervals_can_be_ordered() -> None:
    ax = plots.intervals(shares()[0], "share", ordered=True, ax=own_axes())
    assert rows(ax) == ["1", "2", "0"]
    assert (np.diff(ax.lines[1].get_xdata()) < 0).all()


def of_texts(*lengths: int) -> ArviZData:
    """Draws of a weight for each token of texts, NaN beyond the end of a text."""
    values = np.random.default_rng(0).random((1, 20, len(lengths), max(lengths)))
    values[:, :, np.arange(max(lengths)) >= np.array(lengths)[:, None]] = np.nan
    coordinates = {"text": [f"{length} tokens" for length in lengths]}
    group = xarray.Dataset({"weights": (("chain", "draw", "text", "token"), values)}, coordinates)
    return from_groups({"prior": group, "posterior": group}, {})


def test_a_short_text_has_rows_for_its_tokens_alone() -> None:
    assert rows(plots.intervals(of_texts(90, 3), "weights", {"text": "3 tokens"}, ax=own_axes())) == ["0", "1", "2"]
    assert rows(plots.intervals(of_texts(3), "weights", ax=own_axes())) == ["0", "1", "2"]
    assert rows(plots.intervals(of_texts(1), "weights", ax=own_axes())) == ["0"]
    assert plots.prior_posterior(of_texts(3), "weights", {"token": 2}, ax=own_axes()).get_xlabel() == "weights[2]"
    with pytest.raises(ValueError, match="weights has no numbers at text '3 tokens', token 6: select an entry that"):
        plots.prior_posterior(of_texts(90, 3), "weights", {"text": "3 tokens", "token": 6})


def test_intervals_say_what_is_wrong() -> None:
    data, values = shares()
    with pytest.raises(ValueError, match="there is no variable 'sharse' in prior: choose among share"):
        plots.intervals(data, "sharse")
    with pytest.raises(ValueError, match="share has one entry: draw it with pf.plots.prior_posterior"):
        plots.intervals(data, "share", {"cloud": 1})
    many = xarray.Dataset(
        {
            "x": (("chain", "draw", "n"), np.zeros((1, 4, 61))),
            "y": (("chain", "draw", "a", "b"), np.zeros((1, 4, 2, 2))),
        }
    )
    groups = from_groups({"prior": many, "posterior": many}, {})
    with pytest.raises(ValueError, match="x has 61 entries, and 60 have room: select some of them first"):
        plots.intervals(groups, "x")
    with pytest.raises(ValueError, match="y has its entries along a, b: leave one dimension by where="):
        plots.intervals(groups, "y")


# Coverage


def test_coverage_of_the_exact_posterior_is_the_level() -> None:
    ax = plots.coverage(pf.diagnostics.Calibration({"exact": np.arange(1000)}, draws=999), ax=own_axes())
    [line] = ax.lines
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata(), atol=2 / 1000)


@pytest.mark.parametrize("draws", [1, 2, 9, 39, 40, 99, 999])
def test_a_calibrated_guide_of_few_draws_stays_in_its_band(draws: int) -> None:
    """Ranks of an exact guide are uniform: at each level the line is a binomial share, within 4 standard errors."""
    ranks = np.random.default_rng(draws).integers(0, draws + 1, 20_000)
    [line] = plots.coverage(pf.diagnostics.Calibration({"z": ranks}, draws), ax=own_axes()).lines
    levels, inside = line.get_xdata(), line.get_ydata()
    assert (np.abs(inside - levels) <= 4 * np.sqrt(levels * (1 - levels) / 20_000) + 1e-9).all()
    assert levels[-1] == 1 and len(levels) == min(41, (draws + 1) // 2 + 1)


def test_coverage_is_that_of_gaussian_intervals() -> None:
    """A guide of half the width covers at level p what Phi(Phi^-1((1 + p) / 2) / 2) says."""
    generator = np.random.default_rng(0)
    truth, drawn = generator.normal(size=2000), 0.5 * generator.normal(size=999)
    calibration = pf.diagnostics.Calibration({"narrow": (drawn < truth[:, None]).sum(1)}, draws=999)
    [line] = plots.coverage(calibration, ax=own_axes()).lines
    normal = torch.distributions.Normal(0.0, 1.0)
    levels = torch.tensor(line.get_xdata())
    expected = 2 * normal.cdf(normal.icdf((1 + levels[:-1]) / 2) / 2) - 1
    np.testing.assert_allclose(line.get_ydata()[:-1], expected, atol=0.05)


def test_coverage_says_what_is_wrong() -> None:
    calibration = pf.diagnostics.Calibration({"z": np.arange(10)}, draws=9)
    with pytest.raises(ValueError, match="there is no quantity 'y': choose among z"):
        plots.coverage(calibration, ["y"])
    with pytest.raises(ValueError, match="there are no quantities: give at least one, or leave names out"):
        plots.coverage(calibration, [])
    with pytest.raises(ValueError, match="level is 90.0: give the share that the interval should hold, from 0 to 1"):
        calibration.coverage("z", 90.0)


# k-hat of guides


def drawn(scale: float) -> ArviZData:
    """Draws of a guide of another width than its posterior's, for four texts."""
    z = scale * np.random.default_rng(0).normal(size=(1, 300, 4))
    dims = ("chain", "draw", "text")
    densities = {"log_p": (dims, -(z**2) / 2), "log_q": (dims, -((z / scale) ** 2) / 2 - np.log(scale))}
    posterior = xarray.Dataset({"z": (dims, z)}, {"text": list("abcd")})
    return from_groups({"posterior": posterior, "sample_stats": xarray.Dataset(densities, {"text": list("abcd")})}, {})


def test_each_guide_has_its_khats() -> None:
    data = {"too narrow": drawn(0.5), "too wide": drawn(2.0)}
    ax = plots.khats_by_guide(data, ax=own_axes())
    assert rows(ax) == ["too narrow", "too wide"]
    for row, each in enumerate(data.values()):
        values, median = ax.lines[3 * row].get_xdata(), ax.lines[3 * row + 2].get_xdata()
        np.testing.assert_allclose(values, khat(each).values)
        np.testing.assert_allclose(median, np.median(values))
    with pytest.raises(ValueError, match="data has type dict or is empty: give a dictionary of draws"):
        plots.khats_by_guide({})


# The dial


def kept(*layers: str) -> dict[str, Kept]:
    return {layer: Kept(prior=0.25, vectors=0.75) for layer in layers}


def test_each_layer_has_two_lines() -> None:
    ax = plots.vectors_kept([1.0, 0.0], [kept("a", "b"), kept("a", "b")], ax=own_axes())
    lines = [line for line in ax.lines if len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in lines] == [[0.75, 0.75], [0.25, 0.25]] * 2
    assert [line.get_linestyle() for line in lines] == ["-", ":"] * 2
    assert ax.xaxis_inverted()
    assert labels(ax) == ["vectors that stay", "attention to the prior", "a", "b"]


@pytest.mark.parametrize("name", ["bert.encoder.layer.{}.attention.self", "model.layer_{}"])
def test_many_layers_have_colors_of_their_own_and_room(name: str) -> None:
    result = kept(*(name.format(layer) for layer in range(24)))
    ax = plots.vectors_kept([1.0, 0.0], [result, result])
    assert labels(ax)[2:] == [f"layer {layer}" if "bert" in name else f"layer_{layer}" for layer in range(24)]
    by_layer = [line.get_color() for line in ax.lines[2:]][::3]
    lightness = [sum(color[:3]) for color in by_layer]
    assert lightness == sorted(lightness, reverse=True) and len(set(by_layer)) == 24
    ax.figure.draw_without_rendering()
    legend, frame, figure = ax.get_legend().get_window_extent(), ax.get_window_extent(), ax.figure.bbox
    assert frame.x1 < legend.x0 and legend.x1 <= figure.x1 and legend.height <= figure.height
    assert frame.width > 0.8 * 5.2 * ax.figure.dpi and frame.height > 200


def test_the_dial_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="there are 1 results for 2 places of the dial: give one for each"):
        plots.vectors_kept([0.0, 1.0], [kept("a")])
    with pytest.raises(ValueError, match="results are of layers a and of b: give one model's"):
        plots.vectors_kept([0.0, 1.0], [kept("a"), kept("b")])


# Groups of vectors


def two_lines() -> dict[str, Any]:
    """Two groups that only one direction separates, which has less variance than others."""
    vectors = 10 * torch.randn(200, 4)
    groups = torch.arange(200) % 2
    vectors[:, 2] = groups + 0.1 * torch.randn(200)
    return {"vectors": vectors, "groups": groups, "words": ["the", " list"] * 100}


def test_groups_are_shown_apart() -> None:
    ax = plots.vector_groups(**two_lines(), ax=own_axes())
    zero, one = (line.get_xdata() for line in ax.lines[::2])
    assert zero.max() < one.min() or one.max() < zero.min()
    assert [text.get_text() for text in ax.texts] == ["0", "1"]
    assert labels(ax) == ["0: the", "1: list"]


def test_distances_are_in_standard_deviations_within_groups() -> None:
    ax = plots.vector_groups(**two_lines(), ax=own_axes())
    spread = [line.get_xdata().std() for line in ax.lines[::2]]
    np.testing.assert_allclose(np.mean(np.square(spread)), 1.0, rtol=0.02)


def test_groups_say_what_is_wrong() -> None:
    data = two_lines()
    with pytest.raises(ValueError, match="there are 200 vectors, 200 groups and 3 words: give as many"):
        plots.vector_groups(data["vectors"], data["groups"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="there are 1 groups in 4 dimensions: a plane needs 2 of each"):
        plots.vector_groups(data["vectors"], torch.zeros(200).long(), data["words"])


# Attention


def test_only_a_component_of_the_prior_is_set_apart() -> None:
    weights = np.full((1, 2), 0.5)
    assert len(heat_map(["a"], ["prior", "a"], weights, ax=own_axes()).lines) == 1
    assert not heat_map(["a"], ["a", "b"], weights, ax=own_axes()).lines


# What is given in place of numbers


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.posterior_means([[0.0, 0.0]], PLANE), "queries has type list: give a tensor"),
        (
            lambda: plots.posterior_means(torch.full((1, 2), torch.nan), PLANE),
            "numbers that are not finite",
        ),
        (lambda: plots.posterior_means(torch.zeros(1, 2), torch.zeros(2, 2)), "mixture has type Tensor: give a pf.Mix"),
        (lambda: plots.mixture_map(PLANE, points={"a": [1.0]}), r"the point 'a' has shape \(1,\): give \(2,\)"),
        (lambda: plots.mixture_map(PLANE, within=(0, 1, 2)), r"within has shape \(3,\): give \(4,\)"),
        (lambda: plots.mixture_map(PLANE, within=(1, 0, 0, 1)), r"within is \(1, 0, 0, 1\): give left, right"),
        (lambda: plots.gaussian(torch.zeros(2), -torch.eye(2)), "give a symmetric matrix without negative eigenvalues"),
        (lambda: plots.gaussian("a", torch.eye(2)), "mean is 'a': give a tensor or an array of numbers"),
        (lambda: plots.token_values(["a"], {"x": ["b"]}), r"'x' is \['b'\]: give a number for each token"),
        (lambda: plots.token_values(["a"], [1.0]), r"values are \[1.0\] for 1 tokens: give rows of numbers by name"),
        (lambda: plots.vector_groups(torch.zeros(3, 3, 3), torch.zeros(3), "abc"), r"vectors has shape \(3, 3, 3\)"),
        (
            lambda: plots.vector_groups(torch.zeros(2, 2), [0.0, 0.5], "ab"),
            "groups has 0.5: give the number",
        ),
        (lambda: plots.coverage({"z": np.arange(3)}), "calibration has type dict: give what calibrate returns"),
        (lambda: plots.khats_by_guide(drawn(1.0)), "data has type .* give a dictionary of draws"),
        (lambda: plots.vectors_kept(1.0, {}), "places are 1.0 and kept {}: give a list of each"),
        (lambda: plots.intervals(None, "x"), "data has type NoneType: give"),
    ],
)
def test_what_cannot_be_drawn_is_told(draw: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value)


PLANE = pf.Mixture(torch.zeros(2), torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.ones(2, 1))
