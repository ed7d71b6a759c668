"""Compacted mixtures: exactly the mixture of the components that stay."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pyroformer.models.attention.bayes_rule import posterior_mean
from pyroformer.models.attention.editing import compacted
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import SharedVariances
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder

WIDTH, COMPONENTS = 8, 6
KINDS = ["point masses", "isotropic", "diagonal", "one for all", "shared"]
WEIGHTS = torch.tensor(
    [
        [0.05, 0.30, 0.00, 0.40, 0.01, 0.24],
        [0.02, 0.01, 0.01, 0.01, 0.05, 0.90],
        [0.60, 0.40, 0.00, 0.00, 0.00, 0.00],
    ],
    dtype=torch.double,
)
KEPT = [[0, 1, 3, 5], [0, 5], [0, 1]]  # those of 0.1 at least, and the first
STAY = WEIGHTS.new_zeros(WEIGHTS.shape, dtype=torch.bool)
for text, numbers in enumerate(KEPT):
    STAY[text, numbers] = True


def draw(kind: str = "diagonal", batch: tuple[int, ...] = (), weights: Tensor = WEIGHTS) -> Mixture:
    torch.manual_seed(0)
    shape = (*batch, 3, COMPONENTS)
    variances: dict[str, Any] = {
        "point masses": None,
        "isotropic": torch.rand(*shape, 1).double(),
        "diagonal": torch.rand(*shape, WIDTH).double(),
        "one for all": torch.full((1, WIDTH), 0.3).double(),
        "shared": SharedVariances(torch.rand(2, WIDTH).double(), torch.tensor([0, 1, 1, 1, 1, 1])),
    }
    return Mixture(weights.log(), torch.randn(*shape, WIDTH, dtype=torch.double), variances[kind])


def mean(mixture: Mixture) -> Tensor:
    torch.manual_seed(99)
    return posterior_mean(torch.randn(4, WIDTH, dtype=torch.double), mixture)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", [(), (2,), (2, 2)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_that_over_the_components_that_stay(kind: str, batch: tuple[int, ...]) -> None:
    mixture = draw(kind, batch)
    result = compacted(mixture, 0.1)
    assert result.means.shape == (*batch, 3, 4, WIDTH)
    assert result.present.sum(-1).tolist() == torch.tensor([4, 2, 2]).expand(*batch, 3).tolist()
    assert_same(mean(result), mean(replace(mixture, mask=STAY)))
    assert_same(result.log_weights.exp().sum(-1), torch.ones(*batch, 3).double())


@pytest.mark.parametrize("kind", KINDS)
def test_components_without_weight_do_not_change_a_decoder(kind: str) -> None:
    weights = torch.where(STAY, WEIGHTS, 0)
    mixture = draw(kind, weights=weights / weights.sum(-1, keepdim=True))
    config = TransformerConfig(vocabulary=20, max_length=6, width=WIDTH, layers=2, heads=2)
    decoder = Decoder(config, cross_attention=True).double().eval()
    tokens = torch.randint(3, 20, (3, 6))
    result = compacted(mixture, 0.0)
    assert_same(decoder(tokens, result), decoder(tokens, mixture), 1e-6)
    for small, large in zip(decoder.project(result), decoder.project(mixture), strict=True):
        assert (small.keys.shape[-2], large.keys.shape[-2]) == (4, COMPONENTS)
        assert small.keys.shape[-1] == large.keys.shape[-1]  # at the cost of attention over the same kind of mixture
        assert small.values.nbytes * COMPONENTS == large.values.nbytes * 4


def test_the_kind_of_variances_stays() -> None:
    for kind in KINDS:
        assert type(compacted(draw(kind), 0.1).variances) is type(draw(kind).variances)
    one_for_all = compacted(draw("one for all"), 0.1).variances
    assert isinstance(one_for_all, Tensor) and one_for_all.shape == (1, WIDTH)


def test_the_prior_stays_where_no_weight_reaches_the_threshold() -> None:
    result = compacted(draw(), 0.95)
    assert result.components == 1
    assert_same(result.means, draw().means[:, :1])
    assert_same(result.log_weights, torch.zeros(3, 1).double())
    assert compacted(draw(), 0.95, keep=3).components == 3  # each of the prior's, had a component three vectors


def test_only_masked_components_leave_at_threshold_zero() -> None:
    mask = torch.tensor([[True] * 5 + [False], [True] * 2 + [False] * 4, [True] * 4 + [False] * 2])
    mixture = replace(draw(weights=torch.full((3, COMPONENTS), 1 / COMPONENTS).double()), mask=mask)
    spoilt = replace(mixture, means=torch.where(mask[..., None], mixture.means, torch.nan))
    result = compacted(spoilt, 0.0)
    assert result.components == 5
    assert_same(mean(result), mean(mixture))


def test_the_threshold_is_on_weights_that_sum_to_one() -> None:
    mixture = draw()
    heavy = replace(mixture, log_weights=mixture.log_weights + 5)
    assert_same(mean(compacted(heavy, 0.1)), mean(compacted(mixture, 0.1)))


def test_values_go_with_their_components() -> None:
    mixture = replace(draw(), values=torch.randn(3, COMPONENTS, 2).double())
    assert_same(mean(compacted(mixture, 0.1)), mean(replace(mixture, mask=STAY)))


def test_gradients_are_those_of_masking() -> None:
    mixture = draw()
    leaves = [part.requires_grad_() for part in (mixture.means, mixture.variances) if isinstance(part, Tensor)]
    result = torch.autograd.grad(mean(compacted(mixture, 0.1)).square().sum(), leaves)
    expected = torch.autograd.grad(mean(replace(mixture, mask=STAY)).square().sum(), leaves)
    for one, other in zip(result, expected, strict=True):
        assert_same(one, other)
        assert bool(one.abs().sum() > 0)


def test_at_zero_only_masked_components_leave() -> None:
    """Not one whose weight underflows; and of a mixture without any, those of the prior stay, masked."""
    mixture = Mixture(torch.tensor([0.0, -200.0, 0.0]), torch.arange(3.0)[:, None])
    absent = torch.tensor([True, True, False])
    assert compacted(replace(mixture, mask=absent), 0.0).means.flatten().tolist() == [0.0, 1.0]
    empty = compacted(replace(mixture, mask=absent & False), 0.0, keep=2)
    assert empty.mask is not None and empty.mask.tolist() == [False, False]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_is_a_weight(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold is {threshold}: give a weight from 0 to below 1"):
        compacted(draw(), threshold)


@pytest.mark.parametrize("keep", [0, 7])
def test_the_prior_has_some_components(keep: int) -> None:
    with pytest.raises(ValueError, match=f"keep is {keep}: give a number from 1 to 6, the number of components"):
        compacted(draw(), 0.1, keep)
