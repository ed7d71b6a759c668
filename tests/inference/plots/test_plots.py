"""Plots show their numbers under the right names and leave matplotlib's settings as they were."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from own_axes import labels, own_axes

from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference import plots
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.pages.document import shaded
from pyroformer.inference.plots import weight_strip
from pyroformer.inference.plots.attention_map import decoder_attention, heat_map
from pyroformer.inference.plots.running_text import letters, set_in_lines, text_width
from pyroformer.inference.plots.style import INK, SHADES, printable
from pyroformer.inference.plots.weight_strip import strip, token_weights
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE

TEXT = "Return a copy of the $list$."
SIZES: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    texts = [f"Return a copy of the list, number {n}, and {n % 7} more." for n in range(60)]
    return Corpus.from_texts(texts, vocabulary=280, max_length=48)


@pytest.fixture
def run(corpus: Corpus, tmp_path: Path) -> Run:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SIZES)
    config = {"objective": {"name": "nvib", "is_bound": False, "kl_weights": {}}}
    return Run(model, NVAEGuide(model).eval(), corpus, with_metrics(tmp_path / "run", latent=True), config, step=30)


@pytest.fixture
def plain(corpus: Corpus, tmp_path: Path) -> Run:
    config = {"objective": {"name": "elbo", "is_bound": True, "kl_weights": {}}}
    model = LanguageModel.for_corpus(corpus, **SIZES)
    return Run(model, None, corpus, with_metrics(tmp_path / "plain", latent=False), config, step=30)


def with_metrics(path: Path, latent: bool, **more: float) -> RunFolder:
    folder = RunFolder(path)
    folder.prepare(resume=False)
    for step, split in itertools.product(range(10, 40, 10), ("train", "valid")):
        row = {"bound": 500.0 + step} | ({"kl_weights": 0.5, "kl_vectors": 400.0} if latent else {}) | more
        folder.append_metrics(metrics_at(step, split, **row))
    return folder


def metrics_at(step: int, split: str, **more: float) -> dict[str, float | str]:
    row = {"step": step, "seconds": step / 2, "split": split}
    return row | {"objective": 90.0 / step, "reconstruction": 80.0 / step} | more


def cells(ax: Axes) -> PatchCollection:
    [collection] = [artist for artist in ax.collections if isinstance(artist, PatchCollection)]
    return collection


# Training curves


def test_curves_show_the_metrics_and_say_what_is_a_bound(run: Run) -> None:
    trained, bound = plots.curves(run)
    assert labels(trained) == ["objective: nvib, not a bound", "reconstruction: not a bound"]
    assert labels(bound) == ["−ELBO: bounds −log p(x)", "KL of weights", "KL of vectors"]
    train, valid = trained.lines[:2]
    assert list(valid.get_xdata()) == list(train.get_xdata()) == [10, 20, 30]
    assert list(valid.get_ydata()) == [9, 4.5, 3]
    assert len(trained.lines) == 4 and len(bound.lines) == 6
    assert {ax.get_ylabel() for ax in (trained, bound)} == {"nats per token"}
    assert bound.get_yscale() == "log" and trained.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("weights", "label"),
    [
        ({"weights": 1.0, "means": 1.0}, "objective: −ELBO, bounds −log p(x)"),
        ({"weights": 4.0, "means": 4.0}, "objective: −ELBO, beta = 4, bounds −log p(x)"),
        ({"weights": 0.1, "means": 0.1}, "objective: −ELBO, beta = 0.1, not a bound"),
        ({"weights": 0.0, "means": 1.0}, "objective: −ELBO, beta = 0 and 1, not a bound"),
    ],
)
def test_an_elbo_bounds_only_with_its_whole_kl(run: Run, weights: dict[str, float], label: str) -> None:
    run.config["objective"] = {"name": "elbo", "is_bound": True, "kl_weights": weights}
    assert labels(plots.curves(run)[0])[0] == label


@pytest.mark.parametrize(("length", "shown"), [(1e-7, False), (0.2, True)])
def test_a_length_that_costs_nothing_has_no_curve(run: Run, tmp_path: Path, length: float, shown: bool) -> None:
    run.folder = with_metrics(tmp_path / "lengths", latent=True, kl_length=length)
    assert ("−log p(length)" in labels(plots.curves(run)[1])) is shown


def test_what_is_infinite_has_a_label_and_no_line(run: Run, tmp_path: Path) -> None:
    run.folder = with_metrics(tmp_path / "off", latent=True, bound=np.inf, kl_weights=np.inf)
    bound = plots.curves(run)[1]
    off = "infinite: vectors are switched off"
    assert labels(bound) == [f"−ELBO, {off}", f"KL of weights, {off}", "KL of vectors"]
    assert [handle.get_linestyle() for handle in bound.get_legend().legend_handles] == ["None", "None", "-"]
    assert bound.get_yscale() == "linear"
    run.folder.append_metrics(metrics_at(40, "valid", bound=7.0, kl_weights=np.inf, kl_vectors=400.0))
    assert labels(plots.curves(run)[1])[0] == "−ELBO: bounds −log p(x), infinite where it is not drawn"


@pytest.mark.parametrize(
    ("options", "more", "trained", "held_out"),
    [
        ({}, {}, [10, 20, 30], ""),
        ({}, {"beta": 0.5}, [], ""),  # while the weights of the KL grow
        ({}, {"beta": 1.0}, [10, 20, 30], ""),
        ({"target_kl": 5.0}, {"beta": 0.3}, [], "held-out, at least the target is charged"),
        ({}, {"delta": 0.2}, [], "held-out, vectors beyond the share are charged"),
    ],
)
def test_the_objective_is_drawn_beside_that_of_held_out_texts_where_both_are_the_same(
    run: Run, tmp_path: Path, options: dict[str, float], more: dict[str, float], trained: list[int], held_out: str
) -> None:
    run.folder = with_metrics(tmp_path / "other", latent=True, **more)
    run.config["objective"] = {"name": "elbo", "is_bound": False, "kl_weights": {"weights": 1.0}} | options
    ax = plots.curves(run)[0]
    assert list(ax.lines[0].get_xdata()) == trained and list(ax.lines[1].get_xdata()) == [10, 20, 30]
    assert list(ax.lines[2].get_xdata()) == [10, 20, 30]  # of the reconstruction
    assert labels(ax)[0].replace("\n", " ").endswith(held_out) and ("held-out" in labels(ax)[0]) is bool(held_out)


def test_a_kl_has_its_color_wherever_it_is_among_the_columns(run: Run, tmp_path: Path) -> None:
    drawn = []
    for order in (("kl_vectors", "kl_weights"), ("kl_length", "kl_weights", "kl_vectors"), ("kl_vectors", "kl_z_1")):
        run.folder = with_metrics(tmp_path / "-".join(order), latent=False, **dict.fromkeys(order, 1.0))
        lines = plots.curves(run)[1].lines
        drawn.append({line.get_label(): line.get_color() for line in lines if not line.get_label().startswith("_")})
        assert len(set(drawn[-1].values())) == 1 + len(order)
    assert len({colors["KL of vectors"] for colors in drawn}) == 1
    assert drawn[0]["KL of weights"] == drawn[1]["KL of weights"]


def test_without_latents_the_objective_is_the_likelihood(plain: Run) -> None:
    [ax] = plots.curves(plain, axes=[own_axes()])
    assert labels(ax) == ["objective: −log p(x), exact"]


def test_curves_say_what_is_missing(run: Run) -> None:
    with pytest.raises(ValueError, match="there are 1 axes for 2 panels"):
        plots.curves(run, axes=[own_axes()])
    run.folder.metrics_file.unlink()
    with pytest.raises(ValueError, match="has no metrics yet: let fit run for longer"):
        plots.curves(run)


def test_shared_axes_hold_the_kl_of_both_runs(run: Run, corpus: Corpus, tmp_path: Path) -> None:
    folder = with_metrics(tmp_path / "collapsed", latent=True, kl_weights=0.001, kl_vectors=0.002)
    collapsed = Run(run.model, run.guide, corpus, folder, run.config, step=30)
    left, right = Figure().subplots(1, 2, sharey=True)
    assert labels(plots.layer_curves(collapsed, ax=left)) == ["weights", "vectors"]
    plots.layer_curves(run, ax=right)
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] == 0 and left.get_ylim()[1] > 400


# Weights over a text


@pytest.mark.parametrize("samples_per_component", [1, 3])
def test_weights_are_the_posterior_means_token_by_token(corpus: Corpus, run: Run, samples_per_component: int) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", samples_per_component=samples_per_component, **SIZES)
    run = Run(model, NVAEGuide(model).eval(), corpus, run.folder, run.config, 0)
    result = token_weights(run, TEXT)
    assert result.pieces == corpus.tokenizer.pieces(TEXT)
    alpha = run.encode([TEXT]).log_alpha[0].double().exp().tolist()
    each = [sum(alpha[start : start + samples_per_component]) for start in range(0, len(alpha), samples_per_component)]
    np.testing.assert_allclose(np.exp(result.log_alpha), each, rtol=1e-6)
    np.testing.assert_allclose(result.weights, np.array(each) / sum(alpha), rtol=1e-6)


def test_weights_draw_a_cell_for_each_token_and_one_for_the_prior(run: Run) -> None:
    result = token_weights(run, TEXT)
    ax = plots.weights(run, TEXT)
    np.testing.assert_array_equal(cells(ax).get_array(), result.weights)
    assert len(cells(ax).get_paths()) == len(result.pieces) + 1
    assert [bar.get_title() for bar in ax.child_axes] == ["posterior mean weight"]
    assert plt.get_fignums() == [ax.figure.number]  # a notebook shows it


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("size", [(6.0, 4.0), (2.0, 2.0), (9.0, 0.8)])
def test_a_long_text_stays_inside_the_axes_it_is_given(run: Run, size: tuple[float, float], alpha: bool) -> None:
    text = "Return a copy of the list and of"
    ax = own_axes(size)
    assert plots.weights(run, text, alpha=alpha, ax=ax) is ax
    ax.figure.draw_without_rendering()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    drawn = [*cells(ax).get_paths(), *(patch.get_path() for patch in ax.patches)]
    corners = np.concatenate([path.get_extents().get_points() for path in drawn])
    assert left <= corners[:, 0].min() and corners[:, 0].max() <= right
    assert bottom <= corners[:, 1].min() and corners[:, 1].max() <= top
    assert not plt.get_fignums()


def test_a_prior_that_outweighs_every_token_hides_nothing() -> None:
    ax = strip(["a", " b"], np.array([0.8, 0.15, 0.05]), ax=own_axes())
    assert cells(ax).norm.vmax == pytest.approx(0.2)  # twice the mean of tokens


def test_texts_are_compared_on_one_scale(run: Run) -> None:
    one, other = (plots.weights(run, text, vmax=0.25, colorbar=text == TEXT, ax=own_axes()) for text in (TEXT, "a"))
    assert cells(one).norm.vmax == cells(other).norm.vmax == 0.25
    assert len(one.child_axes) == 1 and not other.child_axes
    assert np.ptp(other.get_ylim()) < np.ptp(plots.weights(run, "a", ax=own_axes()).get_ylim())  # no empty line
    with pytest.raises(ValueError, match="vmax is 0: give the weight of the darkest shade, above 0, or leave it out"):
        plots.weights(run, TEXT, vmax=0)
    with pytest.raises(ValueError, match="vmax is inf: give the weight"):
        plots.weights(run, TEXT, vmax=float("inf"))


def test_equal_weights_have_a_middle_shade_as_on_the_page() -> None:
    collection = cells(strip(["a", " b", " c"], np.full(4, 0.25), ax=own_axes()))
    np.testing.assert_allclose(collection.norm(np.full(4, 0.25)), 0.5)
    assert shaded(["a", "b"], [0.5, 0.5]).count("--weight: 50%") == 2
    assert shaded(["a", "b", "c"], [0.8, 0.1, 0.1]).count("--weight: 100%") == 1
    assert cells(strip(["a"], np.array([1.0, 0.0]), ax=own_axes())).norm.vmax == 1


def test_a_vector_that_is_switched_off_has_concentration_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(weight_strip, "letters", lambda text, *rest: written.append(text) or letters(text, *rest))
    strip(["a", " b", " c"], np.array([0.2, 0.4, 0.0, 0.4]), np.log([1.0, 2.0, 2.1e-9, 2.0]), ax=own_axes())
    assert written == ["prior", "a", "b", "c", "1 = alpha", "0.2", "2", "0", "2"]


@pytest.mark.parametrize(("last", "title"), [(0.32, ": all alike"), (0.2, "")])
def test_weights_that_are_alike_are_said_to_be(last: float, title: str) -> None:
    [bar] = strip(["a", " b"], np.array([0.34, 0.34, last]), ax=own_axes()).child_axes
    assert bar.get_title() == "posterior mean weight" + title


def contrast(color: ColorType) -> float:
    """Contrast ratio of ``INK`` on a color by WCAG 2, from 1 to 21; 4.5 is legible."""
    weights = (0.2126, 0.7152, 0.0722)
    linear = [[x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(c)] for c in (color, INK)]
    lighter, darker = (sum(w * x for w, x in zip(weights, rgb, strict=True)) + 0.05 for rgb in linear)
    return lighter / darker


def test_text_can_be_read_on_every_shade() -> None:
    assert min(contrast(SHADES(share)) for share in np.linspace(0, 1, 20)) > 5


def test_weights_say_what_is_wrong(run: Run, plain: Run) -> None:
    with pytest.raises(ValueError, match="a LanguageModel has no mixture weights to draw: fit an nvae"):
        plots.weights(plain, TEXT)
    with pytest.raises(ValueError, match="the model's max_length is 48: shorten it"):
        plots.weights(run, TEXT * 9)
    with pytest.raises(ValueError, match="2 weights for 2 tokens: give one for the prior and one for each"):
        strip(["a", "b"], np.ones(2))


# Setting a text in lines

PIECES = st.lists(
    st.sampled_from(["a", " of", " the", "list", " incomprehens", "ibilities", ".", "$", "\n", " ", "   "])
)


@given(pieces=PIECES.filter(bool), width=st.floats(4, 60))
@settings(max_examples=50, deadline=None)
def test_lines_hold_every_token_once_in_order_and_none_overlap(pieces: list[str], width: float) -> None:
    placed = set_in_lines(pieces, width)
    assert len(placed) == len(pieces)
    assert [box.text.strip() for box in placed] == [
        piece.strip(" ").replace("\n", "↵") or "␣" * len(piece) for piece in pieces
    ]
    for before, after in itertools.pairwise(placed):
        assert after.line - before.line in (0, 1)
        assert after.x >= before.x + before.width if after.line == before.line else after.x == 0
    for box in placed:
        assert box.x + box.width <= width or box.x == 0


def test_a_word_breaks_only_where_it_is_longer_than_a_line() -> None:
    word = [" incom", "pre", "hensible"]
    overlong, short = text_width("incomprehensible") + 1, text_width("hensible") + 1
    assert [box.line for box in set_in_lines(["of", *word], overlong)] == [0, 1, 1, 1]
    assert len({box.line for box in set_in_lines(word, short)}) > 1


def test_spaces_at_the_ends_count_as_width() -> None:
    assert text_width(" a ") > text_width("a") > text_width(".") > 0


# Attention


def test_attention_has_a_row_for_each_token_written_and_a_column_for_each_read(run: Run) -> None:
    result = decoder_attention(run, TEXT)
    assert result.inputs == ["prior", *run.tokenizer.pieces(TEXT)]
    assert result.weights.shape == (2, 2, len(result.generated), len(result.inputs))
    np.testing.assert_allclose(result.weights.sum(-1), 1, rtol=1e-5)
    ax = plots.attention(run, TEXT)
    [image] = ax.images
    np.testing.assert_allclose(image.get_array(), result.weights.mean((0, 1)))
    assert [str(tick.get_text()) for tick in ax.get_xticklabels()] == [printable(piece) for piece in result.inputs]
    assert len(ax.get_yticklabels()) == len(result.generated)


def test_attention_takes_the_vectors_of_a_token_together(corpus: Corpus, run: Run) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", samples_per_component=2, **SIZES)
    result = decoder_attention(Run(model, NVAEGuide(model), corpus, run.folder, run.config, 0), TEXT)
    assert result.weights.shape[-1] == len(result.inputs)
    np.testing.assert_allclose(result.weights.sum(-1), 1, rtol=1e-5)


def test_attention_of_a_layer_into_given_axes(run: Run) -> None:
    result = decoder_attention(run, TEXT)
    ax = own_axes()
    assert plots.attention(run, TEXT, layer=1, ax=ax) is ax
    np.testing.assert_allclose(ax.images[0].get_array(), result.weights[1].mean(0))
    assert ax.get_title() == "layer 1, mean of its heads"
    assert not plt.get_fignums()


def test_attention_leaves_the_random_state_and_the_modes_alone(run: Run) -> None:
    run.model.train()
    state = torch.random.get_rng_state()
    first, second = (decoder_attention(run, TEXT).weights for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert torch.equal(torch.random.get_rng_state(), state) and run.model.training


def test_attention_says_what_is_wrong(run: Run, plain: Run) -> None:
    with pytest.raises(ValueError, match="a LanguageModel attends to no mixture: fit an nvae"):
        plots.attention(plain, TEXT)
    with pytest.raises(ValueError, match="layer is 2: the decoder has layers 0 to 1"):
        plots.attention(run, TEXT, layer=2)
    with pytest.raises(ValueError, match=r"weights have shape \(2, 2\) for 1 generated and 2 input tokens"):
        heat_map(["a"], ["prior", "a"], np.ones((2, 2)))


# Files


DRAWING: dict[str, tuple[Any, ...]] = {  # each plot of a run, and the arguments after it
    "attention": (TEXT,),
    "curves": (),
    "layer_curves": (),
    "save_all": (),
    "swap_table": (TEXT, TEXT),
    "traversal": (TEXT,),
    "weights": (TEXT,),
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_model_in_place_of_its_run_is_refused(run: Run, name: str) -> None:
    plot = getattr(plots, name)
    unchecked = getattr(plot, "__wrapped__", plot)  # without the tests' own checks of types
    for other, value in ((run.model, "of type NVAE"), ("runs/mine", "'runs/mine'")):
        with pytest.raises(ValueError, match=f"run is {value}: give the run that fit or load returns"):
            unchecked(other, *DRAWING[name])


def test_every_picture_is_saved(run: Run) -> None:
    paths = plots.save_all(run, texts=[TEXT, "大 \x07\n"])
    names = ["curves", "weights-1", "attention-1", "weights-2", "attention-2"]
    assert paths == [run.folder.path / "plots" / f"{name}.png" for name in names]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG") and plt.imread(path).std() > 0
    assert sorted(path.name for path in (run.folder.path / "plots").iterdir()) == sorted(path.name for path in paths)
    assert not plt.get_fignums()


def test_attention_is_saved_with_its_title(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: saved.append(figure) or Path(file).touch())
    plots.save_all(run, texts=[TEXT])
    assert saved[-1].axes[0].get_title() == "mean of all layers and heads"


def test_a_language_model_has_curves_only(plain: Run, tmp_path: Path) -> None:
    assert plots.save_all(plain, tmp_path / "pictures") == [tmp_path / "pictures" / "curves.png"]


def test_held_out_texts_are_drawn_by_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: Path(file).touch())
    assert len(plots.save_all(run)) == 1 + 2 * min(3, len(run.corpus.test))


def test_pictures_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"curves\.png cannot be written \(.*\): choose another folder"):
        plots.save_all(run, tmp_path / "file")
