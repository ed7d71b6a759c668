"""Plots of mixtures in the plane: what they show is what attention computes."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.quiver import Quiver
from own_axes import own_axes, words

import pyroformer as pf
from pyroformer.inference import plots
from pyroformer.inference.plots.plane.arrays import in_plane
from pyroformer.models.attention.bayes_rule import responsibilities
from pyroformer.models.attention.mixture import in_dtype
from pyroformer.models.attention.variances import Covariances, SharedVariances

MEANS = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
LOG_WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).log()


def mixture(**options: object) -> pf.Mixture:
    return pf.Mixture(LOG_WEIGHTS, MEANS, torch.tensor([[0.5, 0.2]] * 3), noise_variance=0.4, **options)


# Gaussians


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.95])
def test_an_ellipse_holds_its_share_of_the_mass(mass: float) -> None:
    covariance = torch.tensor([[0.6, -0.4], [-0.4, 0.9]])
    mean = torch.tensor([1.0, -2.0])
    [patch] = plots.gaussian(mean, covariance, mass=mass, ax=own_axes()).patches
    draws = torch.distributions.MultivariateNormal(mean, covariance).sample((20_000,)).numpy()
    inside = patch.get_path().contains_points(patch.get_patch_transform().inverted().transform(draws)).mean()
    assert inside == pytest.approx(mass, abs=0.02)


def test_an_ellipse_is_filled_or_a_line() -> None:
    ax = plots.gaussian(torch.zeros(2), torch.eye(2), filled=True, color="red", label="posterior", ax=own_axes())
    plots.gaussian(torch.zeros(2), torch.eye(2), color="blue", ax=ax)
    filled, line = ax.patches
    assert (filled.get_facecolor(), filled.get_label()) == ((1, 0, 0, 1), "posterior")
    assert (line.get_facecolor()[3], line.get_edgecolor()) == (0, (0, 0, 1, 1))


def test_gaussians_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"mean has shape \(3,\): give \(2,\)"):
        plots.gaussian(torch.zeros(3), torch.eye(3), ax=own_axes())
    with pytest.raises(ValueError, match="mass is 1.0: give the share of the mass inside, above 0 and below 1"):
        plots.gaussian(torch.zeros(2), torch.eye(2), mass=1.0, ax=own_axes())


# Components


@pytest.mark.parametrize(
    ("variances", "expected"),
    [
        (None, torch.zeros(3, 2, 2)),
        (torch.tensor([[2.0], [3.0], [4.0]]), torch.tensor([2.0, 3.0, 4.0])[:, None, None] * torch.eye(2)),
        (SharedVariances(torch.tensor([[2.0, 1.0]]), torch.zeros(3).long()), torch.diag(torch.tensor([2.0, 1.0]))),
        (Covariances(torch.tensor([[2.0, 1.0], [1.0, 3.0]]).expand(3, 2, 2)), torch.tensor([[2.0, 1.0], [1.0, 3.0]])),
    ],
)
def test_every_kind_of_variances_is_a_covariance(variances: object, expected: torch.Tensor) -> None:
    plane = in_plane(pf.Mixture(LOG_WEIGHTS, MEANS, variances))
    np.testing.assert_allclose(plane.covariances, expected.expand(3, 2, 2))


def test_absent_components_are_left_out() -> None:
    plane = in_plane(mixture(mask=torch.tensor([True, False, True])))
    np.testing.assert_allclose(plane.weights, [5 / 7, 2 / 7], rtol=1e-6)
    np.testing.assert_allclose(plane.means, MEANS[[0, 2]])


# Posterior means


def test_queries_move_to_their_posterior_means() -> None:
    queries = torch.randn(5, 2)
    ax = plots.posterior_means(queries, mixture(), ax=own_axes())
    [arrows] = [artist for artist in ax.collections if isinstance(artist, Quiver)]
    moved = np.stack([arrows.U, arrows.V], -1)
    np.testing.assert_allclose(queries.numpy() + moved, pf.attend(queries, mixture()), atol=1e-5)
    assert len([patch for patch in ax.patches if isinstance(patch, Ellipse)]) == 2 * 3
    assert words(ax) == []


def test_a_single_query_shows_its_responsibilities() -> None:
    query = torch.tensor([[0.5, 0.5]])
    ax = plots.posterior_means(query, mixture(), ax=own_axes())
    assert words(ax)[:3] == [f"{share:.2f}" for share in responsibilities(query, mixture())[0].tolist()]
    present = mixture(mask=torch.tensor([True, False, True]))
    assert len(words(plots.posterior_means(query, present, ax=own_axes()))) == 2


def test_only_responsibilities_that_matter_are_written() -> None:
    means = torch.cat([MEANS, MEANS + 50])
    crowded = pf.Mixture(torch.cat([LOG_WEIGHTS, LOG_WEIGHTS]), means, torch.full((6, 2), 0.3), noise_variance=0.4)
    query = torch.tensor([[0.5, 0.5]])
    shares = [f"{share:.2f}" for share in responsibilities(query, crowded)[0].tolist() if share >= 0.01]
    assert words(plots.posterior_means(query, crowded, ax=own_axes())) == shares and len(shares) <= 3


def test_points_are_dots() -> None:
    ax = plots.posterior_means(torch.randn(2, 2), pf.Mixture(LOG_WEIGHTS, MEANS), ax=own_axes())
    assert not ax.patches
    np.testing.assert_allclose([line.get_xydata()[0] for line in ax.lines[:3]], MEANS)


def test_posterior_means_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"means have shape \(3, 4\): a plane is drawn, so give \(N, 2\)"):
        plots.posterior_means(torch.zeros(1, 2), pf.Mixture(LOG_WEIGHTS, torch.zeros(3, 4)))
    with pytest.raises(ValueError, match="the mixture has values, which are in no plane"):
        plots.posterior_means(torch.zeros(1, 2), pf.Mixture(LOG_WEIGHTS, MEANS, values=torch.zeros(3, 2)))
    with pytest.raises(ValueError, match=r"queries have shape \(0, 2\): a plane is drawn"):
        plots.posterior_means(torch.zeros(0, 2), mixture())


# Maps


def test_a_map_shows_the_evidence_of_each_place() -> None:
    ax = plots.mixture_map(mixture(), ax=own_axes())
    [filled] = ax.collections[:1]
    assert filled.levels[-1] == math.ceil(float(pf.attend(MEANS, mixture(), returns="evidence").max()))
    place = torch.tensor([[0.3, 0.4]])
    value = float(pf.attend(place, mixture(), returns="evidence"))
    level = int(np.searchsorted(filled.levels, value))  # the shade of this place lies between these two levels
    assert filled.get_paths()[level].contains_point(place[0])


def test_a_map_shows_the_responsibility_of_a_component() -> None:
    ax = plots.mixture_map(mixture(), 1, names=("left", "right", "below"), ax=own_axes())
    border = ax.collections[1].get_paths()[0].vertices
    on_border = responsibilities(torch.tensor(border, dtype=torch.float32), mixture())[:, 1]
    np.testing.assert_allclose(on_border, 0.5, atol=0.01)
    assert words(ax) == ["left", "right", "below"]


def test_a_map_has_room_for_its_points() -> None:
    ax = plots.mixture_map(mixture(), "largest weight", points={"far": torch.tensor([9.0, -7.0])}, ax=own_axes())
    assert ax.get_xlim()[1] > 9 and ax.get_ylim()[0] < -7
    assert words(ax) == ["far"]
    ax = plots.mixture_map(mixture(), within=(-1.0, 2.0, -3.0, 4.0), ax=own_axes())
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 2), (-3, 4))


def test_the_color_bar_is_as_high_as_a_flat_map() -> None:
    ax = plots.mixture_map(mixture(), within=(-6.0, 6.0, -1.0, 1.0))
    ax.figure.draw_without_rendering()
    [bar] = ax.child_axes
    frame, inside = ax.get_window_extent(), bar.get_window_extent()
    assert 0.9 * frame.height < inside.height <= frame.height and frame.y0 <= inside.y0  # its arrow has the rest


def test_the_number_of_a_component_may_be_one_of_numpy_or_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    for number in (np.int64(1), torch.tensor(1)):
        assert len(plots.mixture_map(mixture(), number, ax=own_axes()).collections) == 2  # shades and a border


@pytest.mark.parametrize("name", ["mixture_map", "posterior_means", "query_paths", "key_paths"])
def test_vectors_in_bfloat16_are_drawn(name: str) -> None:
    queries, half = torch.randn(4, 2).bfloat16(), in_dtype(pf.Mixture(LOG_WEIGHTS, MEANS), torch.bfloat16)
    figure = Figure()
    if name == "mixture_map":
        plots.mixture_map(half, ax=figure.subplots())
    elif name == "posterior_means":
        plots.posterior_means(queries, half, ax=figure.subplots())
    else:
        getattr(plots, name)(queries, half, steps=2, axes=figure.subplots(1, 2))
    figure.draw_without_rendering()


def test_maps_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match="shows is 3: the mixture has components 0 to 2"):
        plots.mixture_map(mixture(), 3)
    with pytest.raises(ValueError, match="shows is True: give 'evidence', 'largest weight' or the index"):
        plots.mixture_map(mixture(), True)
    with pytest.raises(ValueError, match="shows is 'variance': give 'evidence', 'largest weight' or the index"):
        plots.mixture_map(mixture(), "variance")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there are 2 names for 3 components: give one for each"):
        plots.mixture_map(mixture(), names=("a", "b"))
