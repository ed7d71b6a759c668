"""Plots of diagnostics show their numbers, and report in one sentence what cannot be drawn."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from matplotlib.figure import Figure
from own_axes import labels, own_axes, words

import pyroformer as pf
from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference import plots
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.diagnostics import Calibration, PredictiveCheck, predictive_check
from pyroformer.inference.diagnostics.khat import khat_verdict
from pyroformer.inference.evaluation.report import Estimate, Evaluation, MetricResult
from pyroformer.inference.generation.traversal import Traversal, traverse
from pyroformer.inference.plots.attention_map import heat_map
from pyroformer.inference.plots.style import GRAY
from pyroformer.inference.plots.traversal_table import traversal_table
from pyroformer.inference.plots.weight_strip import strip
from pyroformer.inference.posterior.arviz_compat import dataset, from_groups
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.della import DELLA
from pyroformer.models.nvae import NVAE
from pyroformer.models.vae import VAE

SIZES = {"width": 16, "layers": 2, "heads": 2}
TEXT = "the number 7 is odd."


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(
        [f"the number {n} is {'odd' if n % 2 else 'even'}." for n in range(60)], vocabulary=270, max_length=32
    )


@pytest.fixture(scope="module")
def della(corpus: Corpus) -> Run:
    torch.manual_seed(0)
    model = DELLA.for_corpus(corpus, latent_size=4, **SIZES)
    return Run(model, DELLAGuide(model), corpus, RunFolder(Path("nowhere")), {}, step=0)


# Components against regularization


def counted(share: float, names: tuple[str, ...] = ("kept_alpha", "kept_attention")) -> Evaluation:
    units = {"components": Estimate(10 * share), "of the text's": Estimate(share, 0.01)}
    return Evaluation({name: MetricResult(name, units) for name in names}, {})


def test_components_are_drawn_in_the_order_of_the_strength() -> None:
    ax = plots.components_kept({10.0: counted(0.2), 0.1: counted(0.9)}, strength="beta", ax=own_axes())
    assert labels(ax) == ["alpha above 0.1", "with 99 % of the attention"]
    line = ax.lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.1, 10.0], [0.9, 0.2])
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "beta")


def test_components_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="there are 1 evaluations: give at least 2, of runs that differ"):
        plots.components_kept({1.0: counted(0.5)})
    with pytest.raises(ValueError, match="an evaluation has no count of components: evaluate runs of an NVAE"):
        plots.components_kept({1.0: counted(0.5), 2.0: Evaluation({}, {})})


# Paths


def initial_mixture(width: int = 2) -> pf.Mixture:
    return pf.Mixture(torch.zeros(3).log_softmax(-1), 2 * torch.randn(3, width), noise_variance=0.5)


@pytest.mark.parametrize("width", [2, 5])
def test_keys_go_where_em_takes_them(width: int) -> None:
    queries, mixture = torch.randn(40, width), initial_mixture(width)
    left, right = plots.key_paths(queries, mixture, steps=4, axes=Figure((6, 4)).subplots(1, 2))
    state = pf.em.adapt(queries, mixture, steps=4)
    np.testing.assert_allclose(right.lines[0].get_ydata(), state.objective, rtol=1e-5)
    assert len(left.lines) == 4 * 3  # a line, its steps, its start and its end, of each key
    if width == 2:
        ends = np.array([line.get_xydata()[0] for line in left.lines[3::4]])
        np.testing.assert_allclose(ends, state.mixture.means, rtol=1e-4)


def test_queries_climb_to_a_mode_of_the_evidence() -> None:
    mixture, queries = initial_mixture(), torch.randn(4, 2)
    left, right = plots.query_paths(queries, mixture, steps=30)
    for line in right.lines:
        assert (np.diff(line.get_ydata()) > -1e-5).all()
    first = pf.attend(queries, mixture)
    np.testing.assert_allclose(left.lines[0].get_xydata()[1], first[0], rtol=1e-5)
    assert len(left.images) == 1


def test_paths_say_what_is_wrong() -> None:
    mixture = initial_mixture()
    with pytest.raises(ValueError, match="steps is 0: a path needs at least 1"):
        plots.key_paths(torch.randn(4, 2), mixture, steps=0)
    with pytest.raises(ValueError, match="there are 1 axes for 2 panels: give 2, or none"):
        plots.query_paths(torch.randn(4, 2), mixture, axes=[own_axes()])
    with pytest.raises(ValueError, match="queries have 1 dimension: a path is drawn in a plane"):
        plots.key_paths(torch.randn(4, 1), initial_mixture(1))
    wide = pf.Mixture(torch.zeros(3), torch.randn(3, 2), torch.ones(3, 1))
    with pytest.raises(ValueError, match="the mixture has variances or values"):
        plots.query_paths(torch.randn(4, 2), wide)


# Layers


def test_the_parts_of_the_kl_add_up_to_it() -> None:
    parts = {"mutual_information": (2.0, 3.0), "marginal_kl": (1.0, -0.5), "kl": (3.0, 2.5)}  # one is a noisy estimate
    figures = {
        f"{measure}_{latent}": MetricResult(measure, {"nats/text": Estimate(value)})
        for measure, values in parts.items()
        for latent, value in zip(("z_1", "z_2"), values, strict=True)
    }
    ax = plots.layer_kl(Evaluation(figures, {"compared": 20}, ("z_1", "z_2")), ax=own_axes())
    assert [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in ax.patches] == [(0, 2), (0, 3), (2, 3), (0, -0.5)]
    assert [segment[0, 1] for segment in ax.collections[0].get_segments()] == [3, 2.5]
    assert "ln 20: most information of all latents together" in labels(ax)
    assert ax.lines[0].get_ydata()[0] == pytest.approx(np.log(20))
    with pytest.raises(ValueError, match="the evaluation has no metrics of single latents"):
        plots.layer_kl(Evaluation({}, {}))


def test_no_active_unit_is_a_number_too() -> None:
    units = {"above 0.01": Estimate(4.0), "above 0.1": Estimate(0.0), "of": Estimate(4.0)}
    ax = plots.active_units(Evaluation({"active_z_1": MetricResult("active", units)}, {}), ax=own_axes())
    assert words(ax) == ["4", "0"] and ax.get_ylim()[1] > 4


# Traversals


def test_a_traversal_changes_one_entry_of_the_reconstruction(della: Run) -> None:
    own = float(della.encode([TEXT]).mean[0, 1, 3])
    result = traverse(della, TEXT, 2, 3, values=np.array([own, 5.0]))  # type: ignore[arg-type]
    assert (result.latent, result.dimension) == (2, 3) and result.mean == pytest.approx(own, abs=1e-6)
    assert result.reconstruction == result.texts[0] == della.reconstruct(TEXT).text
    memory = della.encode([TEXT]).memory()
    moved = memory.latents.clone()
    moved[0, 1, 3] = 5.0
    assert result.texts[1] == della.decode(type(memory)(moved))[0]


def test_the_entry_of_the_smallest_variance_is_traversed_by_default(corpus: Corpus) -> None:
    torch.manual_seed(0)
    model = VAE.for_corpus(corpus, base_measure="gaussian", **SIZES)
    guide = VAEGuide(model)
    with torch.no_grad():
        guide.log_variance.bias[11] = -6.0
    run = Run(model, guide, corpus, RunFolder(Path("nowhere")), {}, step=0)
    assert traverse(run, TEXT, latent=4).dimension == 11


def test_a_table_has_a_row_for_each_value_and_one_for_the_text(della: Run) -> None:
    ax = plots.traversal(della, TEXT, 1, 0, values=[-3.0, 3.0])
    own = float(della.encode([TEXT]).mean[0, 0, 0])
    values = [f"{x:+.2f}".replace("-", "−") for x in sorted([-3.0, own, 3.0])]
    assert words(ax)[0] == "latent 1, entry 0" and words(ax)[1::2] == values
    assert [text.get_weight() for text in ax.texts[1::2]] == ["normal", "bold", "normal"]


@pytest.mark.parametrize("size", [None, (4.0, 2.5)])
def test_a_table_of_wide_letters_stays_inside_its_axes(size: tuple[float, float] | None) -> None:
    result = Traversal(1, 0, (-1.0, 1.0), ["W" * 300, ""], 0.0, "The cat sat. " * 20)
    ax = traversal_table(result, ax=None if size is None else Figure(size).subplots())
    ax.figure.draw_without_rendering()
    frame, boxes = ax.get_window_extent(), [text.get_window_extent() for text in ax.texts]
    assert all(frame.x0 - 1 < box.x0 and box.x1 < frame.x1 for box in boxes)
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes[2::2]))
    assert words(ax)[-1] == "(empty)"


def test_a_table_of_swaps_names_the_latents(della: Run) -> None:
    assert words(plots.swap_table(della, TEXT, "the number"))[::2] == [
        "text", "other", "reconstruction", "z_1 of other", "z_2 of other", "all latents of other"
    ]  # fmt: skip


def test_swaps_that_change_nothing_are_gray(della: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("text", "a"), ("other", "b"), ("reconstruction", "a"), ("z_1 of other", "a"), ("z_2 of other", "b")]
    monkeypatch.setattr("pyroformer.inference.plots.latent_layers.swap_rows", lambda *_, **__: rows)
    ax = plots.swap_table(della, TEXT, "the number")
    assert [text.get_color() == GRAY for text in ax.texts[1::2]] == [False, False, False, True, False]


def test_traversals_that_are_impossible(della: Run, corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="latent is 3: choose one from 1 to 2"):
        traverse(della, TEXT, 3)
    with pytest.raises(ValueError, match="dimension is 4: choose one from 0 to 3"):
        traverse(della, TEXT, 1, 4)
    with pytest.raises(ValueError, match="values is empty: give at least one"):
        traverse(della, TEXT, values=[])
    with pytest.raises(ValueError, match=r"values is \[0.0, nan\]: give finite numbers"):
        traverse(della, TEXT, values=[0.0, float("nan")])
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SIZES)
    nvae = Run(model, NVAEGuide(model), corpus, RunFolder(Path("nowhere")), {}, step=0)
    with pytest.raises(ValueError, match="NVAE has no per-dimension latents to traverse: choose a DELLA or a VAE"):
        traverse(nvae, TEXT)


# Prior and posterior


def drawn(before: np.ndarray, after: np.ndarray) -> object:
    import xarray

    both = {"prior": before, "posterior": after}
    one = {name: xarray.Dataset({"alpha": (("chain", "draw"), x[None])}) for name, x in both.items()}
    one["posterior"]["keys"] = ("chain", "draw", "key"), np.zeros((1, len(after), 2))
    one["prior"]["keys"] = ("chain", "draw", "key"), np.ones((1, len(before), 2))
    return from_groups(one, {})


def test_densities_integrate_to_one_and_the_median_is_told() -> None:
    rng = np.random.default_rng(0)
    ax = plots.prior_posterior(drawn(rng.normal(0, 3, 4000), rng.normal(2, 0.5, 4000)), "alpha", ax=own_axes())
    for patch, least in zip(ax.patches[::2], (0.97, 0.999), strict=True):
        heights, edges, _ = patch.get_data()
        assert least < (heights * np.diff(edges)).sum() <= 1 + 1e-9
    assert float(ax.get_title(loc="left").split()[2].rstrip(",")) == pytest.approx(2, abs=0.05)
    assert labels(ax) == ["prior", "posterior"]


def test_numbers_of_many_sizes_have_a_logarithmic_axis() -> None:
    rng = np.random.default_rng(0)
    ax = plots.prior_posterior(drawn(np.exp(rng.normal(0, 3, 999)), np.exp(rng.normal(1, 0.1, 999))), "alpha")
    assert ax.get_ylabel() == "density of the logarithm"
    assert float(ax.get_title(loc="left").split()[2].rstrip(",")) == pytest.approx(np.e, rel=0.05)


def test_prior_and_posterior_say_what_is_wrong() -> None:
    data = drawn(np.ones(30), np.ones(30))
    with pytest.raises(ValueError, match="there is no variable 'beta' in prior: choose among alpha, keys"):
        plots.prior_posterior(data, "beta")
    with pytest.raises(ValueError, match="keys has several entries, along key: select one with where="):
        plots.prior_posterior(data, "keys")
    with pytest.raises(ValueError, match=r"keys has no key 2: it has 2, 0 to 1\.$"):
        plots.prior_posterior(data, "keys", {"key": 2})
    with pytest.raises(ValueError, match=r"keys has no dimension 'dim': choose among key\.$"):
        plots.prior_posterior(data, "keys", {"dim": 0})
    with pytest.raises(ValueError, match="the data has no prior draws: export it with include_prior=True"):
        plots.prior_posterior(from_groups({"posterior": dataset(data, "posterior")}, {}), "alpha")
    assert plots.prior_posterior(data, "keys", {"key": 1}).get_xlabel() == "keys[1]"


# k-hat


def densities(widths: list[float]) -> object:
    """Log weights x * w with standard normal x: k-hat grows with w."""
    import xarray

    weights = np.random.default_rng(0).exponential(1, (1, 400, len(widths))) * np.array(widths)
    stats = {"log_p": (("chain", "draw", "text"), weights), "log_q": (("chain", "draw", "text"), 0 * weights)}
    return from_groups({"sample_stats": xarray.Dataset(stats, {"text": [f"text {w}" for w in widths]})}, {})


def test_the_worst_khat_is_on_top_in_its_color() -> None:
    data = densities([1.2, 0.1, 0.6])
    ax = plots.khats(data)
    assert [str(tick.get_text()) for tick in ax.get_yticklabels()] == ["text 0.1", "text 0.6", "text 1.2"]
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 0], np.sort(pf.diagnostics.khat(data)))
    assert labels(ax) == ["good: 1", "usable with weights: 1", "unreliable: 1"]
    assert words(ax) == words(plots.khats_by_guide({"one": data})) == ["good < 0.5", "0.7 < unreliable"]
    assert len(plots.khats(densities([0.3] * 40)).get_yticklabels()) < 40  # too many to name


def test_the_numbers_of_the_limits_stand_apart_wherever_the_axis_ends() -> None:
    for ax in (plots.khats(densities([9.0] * 3)), plots.khats_by_guide({"one": densities([9.0] * 3)})):
        ax.figure.draw_without_rendering()
        good, unreliable = (text.get_window_extent() for text in ax.texts)
        assert good.x1 < unreliable.x0
        assert ax.get_legend() is None or ax.get_legend().get_window_extent().y0 >= good.y1 - 2


def test_a_khat_that_is_infinite_or_far_is_an_arrow_at_the_edge() -> None:
    data = densities([0.1, np.nan, 30.0])
    dots, arrows, *_ = plots.khats(data).collections
    assert dots.get_offsets()[:, 1].tolist() == [0]
    assert arrows.get_offsets().tolist() == [[5, 1], [5, 2]]
    far = plots.khats_by_guide({"one": data}, ax=own_axes()).lines[1]
    assert (far.get_marker(), far.get_xdata().tolist()) == (">", [5, 5])


def test_a_khat_at_the_limit_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    values = xarray.DataArray([0.5, 0.7, 0.71], {"text": list("abc")})
    monkeypatch.setattr("pyroformer.inference.plots.diagnostics.khats.khat", lambda *_: values)
    assert labels(plots.khats(None)) == ["good: 0", "usable with weights: 2", "unreliable: 1"]
    assert ", for 1 of 3 texts" in khat_verdict(values.values)


def test_khat_of_shared_latents_is_no_picture() -> None:
    import xarray

    values = np.random.default_rng(0).normal(size=(1, 100))
    stats = xarray.Dataset({"log_p": (("chain", "draw"), values), "log_q": (("chain", "draw"), 0 * values)})
    data = from_groups({"sample_stats": stats}, {})
    for draw in (lambda: plots.khats(data), lambda: plots.khats_by_guide({"one": data})):
        with pytest.raises(ValueError, match="all latents are global, so there is a single k-hat"):
            draw()


# Ranks


def test_ranks_are_counted_in_bins_with_the_binomial_band() -> None:
    from torch.distributions import Binomial

    flat, low = np.arange(200) % 20, np.zeros(200, dtype=int)
    axes = plots.ranks(Calibration({"z": flat, "y": low}, 19), bins=10)
    assert len(axes) == 2
    assert [bar.get_height() for bar in axes[0].patches[1:]] == [20] * 10
    assert axes[0].get_title(loc="left") == "z   p = 1"
    band = axes[0].patches[0].get_extents().transformed(axes[0].transData.inverted())
    below = Binomial(200, torch.tensor(0.1)).log_prob(torch.arange(201.0)).exp().cumsum(0)
    assert below[round(band.y0) - 1] < 0.005 <= below[round(band.y0)]
    assert below[round(band.y1) - 1] < 0.995 <= below[round(band.y1)]
    with pytest.raises(ValueError, match="there are 1 axes for 2 panels: give 2, or none"):
        plots.ranks(Calibration({"z": flat, "y": low}, 19), axes=[own_axes()])


def test_ranks_are_those_of_a_name_or_of_names() -> None:
    calibration = Calibration({"z": np.arange(20), "log_p": np.arange(20)}, 19)
    (ax,) = plots.ranks(calibration, "log_p", axes=[own_axes()])
    assert ax.get_title(loc="left").startswith("log_p")
    with pytest.raises(ValueError, match="there are no quantities: give at least one, or leave names out"):
        plots.ranks(calibration, [])
    with pytest.raises(ValueError, match="there is no quantity 'y': choose among z, log_p"):
        plots.ranks(calibration, ["z", "y"])


# Predictive checks


def test_real_texts_stand_out_in_their_color() -> None:
    statistics = {"letters": lambda some: float(sum(map(len, some))), "texts": lambda some: float(len(some))}
    sets = [["a" * n] for n in range(1, 60)]
    ax = plots.predictive(predictive_check(["a" * 99], sets, statistics))
    diamonds = [line for line in ax.lines if line.get_marker() == "D" and len(line.get_xdata())]
    check = predictive_check(["a" * 99], sets, statistics)
    assert [line.get_xdata()[0] for line in diamonds] == pytest.approx([check.scaled[0], 0])  # nothing varies in these
    assert [line.get_color() for line in diamonds] == ["#d55e00", "#0072b2"]
    assert words(ax) == ["99  |  30", "1  |  1", "real  |  generated"]
    assert labels(ax) == ["1 real texts", "unlike the sets, p ≤ 0.05", "59 sets of as many generated texts"]


def test_sets_lie_above_the_real_texts_and_equal_ones_hide_no_difference() -> None:
    check = PredictiveCheck(["below", "nan"], np.array([-2.0, np.nan]), np.ones((40, 2)), 64)
    ax = plots.predictive(check, ax=own_axes())
    arrow = ax.lines[0]
    assert (arrow.get_marker(), arrow.get_color(), arrow.get_fillstyle()) == ("<", "#d55e00", "none")
    assert ax.get_xlim()[0] < arrow.get_xdata()[0] < 0
    dots = [dots for dots in ax.collections if len(dots.get_offsets())]
    assert dots[0].get_offsets()[:, 0].tolist() == [0] * 40 and dots[0].get_zorder() > arrow.get_zorder()
    few = plots.predictive(check._replace(replicated=np.ones((20, 2))), ax=own_axes())
    assert few.lines[0].get_color() == "#0072b2" and labels(few)[1] == "unlike the sets, p ≤ 0.05: takes 39 sets"


def scalar_draws(prior: np.ndarray, posterior: np.ndarray, name: str = "x") -> Any:
    return from_groups(
        {
            group: xarray.Dataset({name: (("chain", "draw"), values[None])})
            for group, values in (("prior", prior), ("posterior", posterior))
        },
        {},
    )


@pytest.mark.parametrize("decades", [2, 9, 40])
def test_ticks_of_a_wide_range_stand_apart(decades: int) -> None:
    rng = np.random.default_rng(0)
    data = scalar_draws(10.0 ** rng.uniform(-decades, 0, 1000), 10.0 ** rng.uniform(-1, 0, 200))
    ax = plots.prior_posterior(data, "x", ax=own_axes())
    ax.figure.canvas.draw()
    left, right = ax.get_xlim()
    shown = [tick for tick in ax.get_xticks() if left <= tick <= right]
    assert 2 <= len(shown) <= 8
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if left <= label.get_position()[0] <= right]
    boxes.sort(key=lambda box: box.x0)
    assert all(one.x1 < other.x0 for one, other in zip(boxes, boxes[1:], strict=False)), "labels overlap"


@pytest.mark.parametrize("draws", [200, 1000])
def test_a_histogram_is_closer_to_the_density_than_a_ragged_one(draws: int) -> None:
    """The squared error of a normal density by the bins drawn, and by 1.5 times the root of the draws of them."""
    errors = np.empty((20, 2))
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=draws)
        ax = plots.prior_posterior(scalar_draws(values, values), "x", ax=own_axes())
        heights, edges, _ = next(patch for patch in ax.patches if patch.get_label() == "posterior").get_data()
        ragged = np.histogram(values, round(1.5 * draws**0.5), density=True)
        errors[seed] = squared_error(heights, edges), squared_error(*ragged)
    assert errors[:, 0].mean() < 0.9 * errors[:, 1].mean()


def squared_error(heights: np.ndarray, edges: np.ndarray) -> float:
    x = np.linspace(-5, 5, 2001)
    padded = np.concatenate([[0], heights, [0]])[np.searchsorted(edges, x)]
    return float(((padded - np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)) ** 2).mean())


def test_a_sharp_posterior_has_bins_of_its_own() -> None:
    rng = np.random.default_rng(0)
    data = scalar_draws(rng.normal(0, 10, 2000), rng.normal(1, 0.01, 400))
    ax = plots.prior_posterior(data, "x", ax=own_axes())
    posterior = next(patch for patch in ax.patches if patch.get_label() == "posterior")
    heights, edges, _ = posterior.get_data()
    assert (heights > 0).sum() > 10 and (heights * np.diff(edges)).sum() == pytest.approx(1)


def test_a_posterior_of_one_value_is_drawn() -> None:
    ax = plots.prior_posterior(scalar_draws(np.linspace(0, 9, 50), np.full(50, 3.0)), "x", ax=own_axes())
    assert np.isfinite(ax.get_ylim()).all()


def test_an_entry_of_a_labeled_dimension_is_selected_by_label_or_by_number() -> None:
    values = np.random.default_rng(0).normal(size=(1, 40, 3)) + [0, 50, 100]
    group = xarray.Dataset({"w": (("chain", "draw", "component"), values)}, {"component": ["prior", "a", "b"]})
    data = from_groups({"prior": group, "posterior": group}, {})
    medians = [
        plots.prior_posterior(data, "w", {"component": entry}, ax=own_axes()).get_title("left") for entry in ("b", 2)
    ]
    assert medians[0] == medians[1] and medians[0].startswith(
        tuple(f"posterior median {number}" for number in ("99", "1e+02", "100"))
    )


def test_letters_that_no_font_has_are_drawn_as_boxes_without_a_warning() -> None:
    pieces = ["Größe", " \U00013000\U00013001", " 😀", "語"]
    for ax in (strip(pieces, np.full(5, 0.2)), heat_map(pieces, pieces, np.eye(4))):
        ax.figure.canvas.draw()  # a warning is an error here
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[:2] == ["Größe", " □□"]


def test_the_key_of_a_strip_says_what_its_numbers_are() -> None:
    ax = strip(["a", " b"], np.array([0.5, 0.25, 0.25]), np.log([4.0, 2.0, 2.0]))
    ax.figure.canvas.draw()
    left, right = ax.get_xlim()
    bar = ax.child_axes[0].get_window_extent()
    whole = ax.get_window_extent()
    assert bar.x1 <= whole.x1 and bar.x0 >= whole.x0
    assert whole.width / ax.figure.dpi < 6, "a short text has a short picture"
