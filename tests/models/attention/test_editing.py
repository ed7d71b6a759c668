"""Mixtures interpolated and edited: against the explicit posterior mean of the intended mixture; bad input."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from pyroformer.models.attention.bayes_rule import posterior_mean
from pyroformer.models.attention.components import concatenated, padded, selected
from pyroformer.models.attention.editing import compacted, dropped, exchanged, interpolated, scaled
from pyroformer.models.attention.log_space import normalized
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import SharedVariances
from pyroformer.models.base import Model
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText

BATCH, WIDTH = 3, 8
KINDS = ["point masses", "isotropic", "diagonal", "one for all", "shared"]
TABLE = torch.rand(2, WIDTH, dtype=torch.double) + 0.1


def draw(kind: str = "diagonal", components: int = 5, seed: int = 0, batch: tuple[int, ...] = (BATCH,)) -> Mixture:
    """A mixture of texts of different lengths: some of its last components are absent."""
    torch.manual_seed(seed)
    variances: dict[str, Any] = {
        "point masses": None,
        "isotropic": torch.rand(*batch, components, 1).double(),
        "diagonal": torch.rand(*batch, components, WIDTH).double(),
        "one for all": torch.full((1, WIDTH), 0.3).double(),
        "shared": SharedVariances(TABLE, torch.arange(components).clamp(max=1)),
    }
    vectors = torch.randn(*batch, components, WIDTH, dtype=torch.double)
    mask = torch.arange(components) < torch.randint(2, components + 1, (*batch, 1))
    log_weights = normalized(torch.randn(*batch, components, dtype=torch.double), mask)
    return Mixture(log_weights, vectors, variances[kind], mask)


def mean(mixture: Mixture) -> Tensor:
    torch.manual_seed(99)
    return posterior_mean(torch.randn(4, WIDTH, dtype=torch.double), mixture)


def weights(mixture: Mixture) -> Tensor:
    return torch.where(mixture.present, mixture.log_weights.exp(), 0)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def alone(mixture: Mixture, text: int) -> list[tuple[float, list[float], list[float]]]:
    """Weight, vector and variance of each component that one text has."""
    dense = mixture.dense_variances()
    rows = torch.zeros_like(mixture.means) if dense is None else dense.expand(mixture.means.shape)
    every = zip(weights(mixture)[text].tolist(), mixture.means[text].tolist(), rows[text].tolist(), strict=True)
    return [item for item, there in zip(every, mixture.present[text].tolist(), strict=True) if there]


def of(components: list[tuple[float, list[float], list[float]]]) -> Mixture:
    """The mixture of components that were written out, one after the other."""
    weight, vectors, variances = (torch.tensor(part, dtype=torch.double) for part in zip(*components, strict=True))
    return Mixture(weight.log(), vectors, variances)


@pytest.mark.parametrize("kinds", [*pairwise([*KINDS, KINDS[0]]), *zip(KINDS, KINDS, strict=True)])
def test_an_interpolation_has_the_weighted_components_of_both(kinds: tuple[str, str]) -> None:
    one, other = draw(kinds[0]), draw(kinds[1], 7, seed=1)
    result = mean(interpolated(one, other, 0.3))
    for text in range(BATCH):
        parts = [(0.7 * pi, *rest) for pi, *rest in alone(one, text)]
        parts += [(0.3 * pi, *rest) for pi, *rest in alone(other, text)]
        assert_same(result[text], mean(of(parts)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_an_interpolation_are_the_texts_themselves(kind: str) -> None:
    config = TransformerConfig(vocabulary=20, max_length=6, width=WIDTH, layers=2, heads=2)
    decoder = Decoder(config, cross_attention=True).double().eval()
    one, other = draw(kind), draw(kind, 7, seed=1)
    tokens = torch.randint(3, 20, (BATCH, 6))
    for share, own in ((0.0, one), (1.0, other)):
        mixed = decoder(tokens, interpolated(one, other, share))
        assert_same(mixed, decoder(tokens, own), 1e-12)
    assert not torch.allclose(decoder(tokens, one), decoder(tokens, other), atol=1e-3)


def test_absent_components_are_never_read() -> None:
    one, other = draw(), draw(seed=1)
    spoilt = replace(other, means=torch.full_like(other.means, torch.nan))
    assert_same(mean(interpolated(one, spoilt, 0.0)), mean(one))


def test_weights_that_were_not_normalized_count_as_shares() -> None:
    one, other = draw(), draw(seed=1)
    heavy = replace(other, log_weights=other.log_weights + 3)
    assert_same(mean(interpolated(one, heavy, 0.5)), mean(interpolated(one, other, 0.5)))


def test_groups_of_one_posterior_stay_groups() -> None:
    mixed = interpolated(draw("shared"), draw("shared", seed=1), 0.5)
    assert isinstance(mixed.variances, SharedVariances) and len(mixed.variances.table) == 2
    foreign = SharedVariances(2 * TABLE, torch.tensor([0, 1, 1, 1, 1]))
    mixed = interpolated(draw("shared"), replace(draw(), variances=foreign), 0.5)
    assert isinstance(mixed.variances, SharedVariances) and len(mixed.variances.table) == 4
    one_for_all = interpolated(draw("one for all"), draw("one for all", 7, seed=1), 0.5).variances
    assert isinstance(one_for_all, Tensor) and one_for_all.shape == (1, WIDTH)


def test_any_leading_shape_mixes() -> None:
    one, other = draw(batch=(2, 3)), draw(components=4, seed=1, batch=(2, 3))
    mixed = interpolated(one, other, 0.25)
    assert mixed.means.shape == (2, 3, 9, WIDTH)
    names = ("log_weights", "means", "variances", "mask")
    rows = [replace(mixture, **{name: getattr(mixture, name)[1] for name in names}) for mixture in (one, other)]
    assert_same(mean(mixed)[1], mean(interpolated(*rows, 0.25)))


def test_values_go_with_their_components() -> None:
    one, other = (
        replace(m, values=torch.randn(BATCH, 5, 2).double(), value_variances=torch.ones(1, 2).double())
        for m in (draw(), draw(seed=1))
    )
    mixed = interpolated(one, other, 1.0)
    assert mixed.value_variances is not None and mixed.value_variances.shape == (BATCH, 10, 2)
    assert_same(mean(mixed), mean(other))


def test_an_interpolation_has_gradients() -> None:
    one, other = draw(), draw(seed=1)
    leaves = [part.requires_grad_() for m in (one, other) for part in (m.log_weights, m.means)]
    for share in (0.0, 0.5):
        result = torch.autograd.grad(mean(interpolated(one, other, share)).sum(), leaves)
        assert all(bool(gradient.isfinite().all()) for gradient in result)


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_components_leave_no_trace(kind: str) -> None:
    mixture = draw(kind)
    result = dropped(mixture, [1, 3])
    assert_same(weights(result).sum(-1), torch.ones(BATCH).double())
    for text in range(BATCH):
        keep = [n for n in (0, 2, 4) if mixture.present[text, n]]
        parts = [(pi, v, s) for n, (pi, v, s) in enumerate(alone(mixture, text)) if n in keep]
        assert_same(mean(result)[text], mean(of(parts)))


def test_a_factor_changes_the_odds_and_nothing_else() -> None:
    mixture = draw()
    before, after = weights(mixture), weights(scaled(mixture, [1, 2], 0.25))
    assert_same(after.sum(-1), torch.ones(BATCH).double())
    chosen, others = before[:, [1, 2]], before[:, [0, 3, 4]]
    total = 0.25 * chosen.sum(-1, keepdim=True) + others.sum(-1, keepdim=True)
    assert_same(after[:, [1, 2]], 0.25 * chosen / total)
    assert_same(after[:, [0, 3, 4]], others / total)


def test_a_factor_and_its_inverse_undo_one_another() -> None:
    mixture = draw()
    assert_same(weights(scaled(scaled(mixture, [0], 8.0), [0], 0.125)), weights(mixture))


@pytest.mark.parametrize("kinds", [("diagonal", "isotropic"), ("shared", "shared"), ("point masses", "diagonal")])
def test_an_exchanged_component_has_its_own_weight_and_the_others_vector_and_variance(kinds: tuple[str, str]) -> None:
    one, other = (replace(draw(kind, seed=seed), mask=None) for seed, kind in enumerate(kinds))
    one, other = (replace(m, log_weights=torch.randn(BATCH, 5).double().log_softmax(-1)) for m in (one, other))
    result = exchanged(one, other, {1: 0, 4: 2})
    for text in range(BATCH):
        mine, theirs = alone(one, text), alone(other, text)
        for number, source in {1: 0, 4: 2}.items():
            mine[number] = (mine[number][0], *theirs[source][1:])
        assert_same(mean(result)[text], mean(of(mine)))


def test_a_component_that_is_absent_in_the_other_text_is_absent() -> None:
    one, other = replace(draw(), mask=None, log_weights=torch.zeros(BATCH, 5).double()), draw(seed=1)
    result = exchanged(one, dropped(other, [4]), {2: 4})
    assert not bool(result.present[:, 2].any())
    assert_same(weights(result), torch.tensor([0.25, 0.25, 0, 0.25, 0.25]).double().expand(BATCH, 5))


def test_padding_is_absent_and_selection_keeps_order() -> None:
    mixture = draw("shared")
    assert_same(mean(padded(mixture, 9)), mean(mixture))
    assert_same(mean(selected(mixture, torch.tensor([4, 3, 2, 1, 0]))), mean(mixture))
    texts = concatenated([mixture, mixture], along="texts")
    assert_same(mean(texts), mean(mixture).repeat(2, 1, 1))


class Silent(Model):
    """A model that defines no interpolation."""

    latents = ("z",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: interpolated(m, m, -0.1), r"t is -0\.1: give a number from 0, all of the first, to 1, all"),
        (lambda m: interpolated(m, m, float("nan")), "t is nan: give a number from 0"),
        (
            lambda m: interpolated(m, Mixture(torch.zeros(BATCH, 2), torch.zeros(BATCH, 2, 3)), 0.5),
            "vectors of 8 and 3 dimensions: give two of one width",
        ),
        (lambda m: interpolated(m, draw(batch=(2,)), 0.5), r"batch shapes \(3,\) and \(2,\): give as many of each"),
        (lambda m: interpolated(m, replace(m, values=m.means), 0.5), "only one of the mixtures has values: give"),
        (
            lambda m: interpolated(m, replace(m, noise_variance=2.0), 0.5),
            "noise_variance is None in one mixture and 2.0 in another: give both the same",
        ),
        (lambda m: dropped(m, [5]), "there is no component 5: they are numbered from 0 to 4"),
        (lambda m: dropped(m, [-1]), "there is no component -1: they are numbered from 0 to 4"),
        (lambda m: dropped(m, range(5)), "all components of a text are to be dropped: keep at least one"),
        (lambda m: dropped(replace(m, mask=torch.arange(5) < 1), [0]), "all components of a text are to be dropped"),
        (lambda m: dropped(m, iter([1.5])), r"there is no component 1\.5"),
        (lambda m: scaled(m, [0], 0.0), r"factor is 0\.0: give a positive, finite number"),
        (lambda m: scaled(m, [0], float("inf")), "factor is inf: give a positive, finite number"),
        (lambda m: scaled(m, [7], 2.0), "there is no component 7"),
        (lambda m: exchanged(m, m, {0: 9}), "there is no component 9"),
        (lambda m: exchanged(m, m, {9: 0}), "there is no component 9"),
        (lambda m: dropped(m, 1), "components is 1: give a list of numbers from 0 to 4"),
        (lambda m: exchanged(m, m, [1]), r"components is \[1\]: give a dictionary from numbers to those of the other"),
        (lambda m: scaled(m, [0], None), "factor is None, a NoneType: give a number"),
        (lambda m: interpolated(m, m, "0.5"), "t is '0.5', a str: give a number"),
        (lambda m: compacted(m, "0.1"), "threshold is '0.1', a str: give a number"),
        (lambda m: compacted(m, 0.1, keep=1.5), "keep is 1.5: give a whole number, such as 2"),
        (lambda m: Model().interpolate(m, m, 0.5), "a Model has no latents to interpolate between: choose"),
        (lambda m: Silent().interpolate(m, m, 0.5), "a Silent defines no interpolation: write interpolate"),
    ],
)
def test_bad_arguments(call: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        call(draw())


def two(mask: list[bool], weights: tuple[float, float] = (0.0, 0.0)) -> Mixture:
    return Mixture(torch.tensor(weights), torch.randn(2, WIDTH), mask=torch.tensor(mask))


def test_components_of_no_weight_are_masked_in_the_result() -> None:
    """At an end of an interpolation, and what is exchanged for a component that is absent in either mixture."""
    whole, none = two([True, True]), (0.0, -torch.inf)
    masks: Any = [interpolated(two([True, False]), whole, t).mask for t in (0.0, 1.0)]
    assert [mask.tolist() for mask in masks] == [[True, False, False, False], [False, False, True, True]]
    for first, second in ((two([True, False]), whole), (whole, two([True, False])), (whole, two([True, True], none))):
        mask: Any = exchanged(first, second, {1: 1}).mask
        assert mask.tolist() == [True, False]


def test_a_text_without_components_loses_none() -> None:
    masks = torch.tensor([[True, True], [False, False]])
    edited: Any = dropped(Mixture(torch.zeros(2, 2), torch.randn(2, 2, WIDTH), mask=masks), [1]).mask
    assert edited.tolist() == [[True, False], [False, False]]


def test_variances_stay_with_their_mixtures() -> None:
    """Groups that return later, and one variance for all components of a text."""
    tables = TABLE, 2 * TABLE, TABLE
    groups = [SharedVariances(table, torch.tensor([0, 1, 1])) for table in tables]
    parts = [Mixture(torch.zeros(3), torch.randn(3, WIDTH), shared) for shared in groups]
    expected = torch.cat([shared.dense() for shared in groups])
    variances = concatenated(parts).dense_variances()
    assert variances is not None and torch.equal(variances, expected)
    one = Mixture(torch.zeros(2, 3), torch.randn(2, 3, WIDTH), torch.rand(2, 1, WIDTH))
    variances = concatenated([one, one], along="texts").dense_variances()
    assert variances is not None and isinstance(one.variances, Tensor)
    assert torch.equal(variances.expand(4, 3, WIDTH), one.variances.repeat(2, 1, 1).expand(4, 3, WIDTH))


def test_an_edited_mixture_generates() -> None:
    decoder = Decoder(TransformerConfig(vocabulary=20, max_length=6, width=WIDTH), cross_attention=True).double()
    edited = dropped(scaled(draw("shared"), [0], 2.0), [1])
    assert AutoregressiveText(decoder, edited).sample().shape == (BATCH, 6)
