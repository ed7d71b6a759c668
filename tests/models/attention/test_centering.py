"""Attention where data lie far from zero: float32 and half precision against double precision."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pyroformer.models.attention.attend import attend
from pyroformer.models.attention.bayes_rule import evidence, posterior_mean, posterior_variance, responsibilities
from pyroformer.models.attention.blockwise.attend import blockwise_attend
from pyroformer.models.attention.centering import common_center, visible_center
from pyroformer.models.attention.em.expected_statistics import expected_statistics
from pyroformer.models.attention.key_adaptation import adapt_keys
from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.observations import Observations
from pyroformer.models.transformer.self_attention import SelfAttention

M, N, D = 40, 50, 8
EXPLICIT: dict[Any, Any] = {"mean": posterior_mean, "variance": posterior_variance, "evidence": evidence}
COLUMNS = [None, 1, D]


def draw(offset: float, columns: int | None) -> tuple[torch.Tensor, Mixture]:
    variances = None if columns is None else 0.5 + torch.rand(N, columns)
    means = torch.randn(N, D) + offset
    return torch.randn(M, D) + offset, Mixture(torch.randn(N).log_softmax(-1), means, variances)


def double(mixture: Mixture) -> Mixture:
    variances = mixture.variances
    return replace(
        mixture, log_weights=mixture.log_weights.double(), means=mixture.means.double(),
        variances=variances.double() if isinstance(variances, torch.Tensor) else None,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["all", "causal", "attn_mask"])
@pytest.mark.parametrize("columns", COLUMNS)
def test_offset_of_data_changes_nothing(columns: int | None, how: str) -> None:
    attn_mask = torch.ones(M, N, dtype=torch.bool).tril(N - M)
    options: dict[str, Any] = {"all": {}, "causal": {"causal": True}, "attn_mask": {"attn_mask": attn_mask}}[how]
    for offset in (0.0, 10.0, 1000.0):
        queries, mixture = draw(offset, columns)
        for returns, explicit in EXPLICIT.items():
            expected = explicit(queries.double(), double(mixture), None if how == "all" else attn_mask)
            actual = attend(queries, mixture, returns=returns, **options)
            atol = 1e-5 + (1e-6 * offset if returns == "mean" else 0)
            torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=atol)


def test_latitude_and_longitude() -> None:
    x = torch.tensor([37.7, -122.4]) + 0.01 * torch.randn(300, 2)
    means = torch.tensor([[37.7, -122.4], [37.71, -122.39]])
    mixture = Mixture(torch.tensor([0.5, 0.5]).log(), means, torch.full((2, 1), 1e-4), noise_variance=0.0)
    torch.testing.assert_close(attend(x, mixture, returns="evidence"), evidence(x, mixture), rtol=0, atol=1e-4)
    shares = attend(x, replace(mixture, values=torch.eye(2)))
    torch.testing.assert_close(shares, responsibilities(x, mixture), rtol=0, atol=1e-5)


def test_statistics_and_adapted_keys_far_from_zero() -> None:
    queries, mixture = draw(1000.0, 1)
    found, expected = (expected_statistics(Observations(x), m) for x, m in twice(queries, mixture))
    torch.testing.assert_close(found.counts.double(), expected.counts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.evidence.double(), expected.evidence, rtol=1e-6, atol=0)
    one, other = (adapt_keys(x, m, steps=3).means.double() for x, m in twice(queries, mixture))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    isotropic = Mixture(mixture.log_weights[:20], mixture.means[:20], noise_variance=1.0)
    shares = [(x, replace(m, values=torch.eye(20).to(x))) for x, m in twice(queries[:20], isotropic)]
    one, other = (blockwise_attend(x, m, steps=2, causal=True).double() for x, m in shares)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def twice(queries: torch.Tensor, mixture: Mixture) -> list[tuple[torch.Tensor, Mixture]]:
    return [(queries, mixture), (queries.double(), double(mixture))]


def test_weights_of_softmax_far_from_zero() -> None:
    queries, keys, values = torch.randn(M, D), torch.randn(N, D) + 1000, torch.randn(N, D)
    expected = scaled_dot_product_attention(*(x.double()[None] for x in (queries, keys, values)))[0]
    actual = attend(queries, Mixture.from_attention(keys, values)).double()
    assert (actual - expected).abs().max() < 1e-3


def test_center() -> None:
    """Data around zero stay to the bit, as one vector far from the others does not move them."""
    means = torch.randn(N, D)
    assert (common_center(means) == 0).float().mean() > 0.8
    means[3] = 1e4
    assert (common_center(means) == 0).all()
    means = torch.randn(N, D) + 100
    means[3] = torch.nan
    present = torch.arange(N) != 3
    assert (common_center(means, present) - 100).abs().max() < 1


def test_visible_center_is_seen_by_all() -> None:
    queries, means = torch.randn(M, D) + 100, torch.randn(M, D) + 100
    present = torch.arange(M) > 2
    for attn_mask in (None, torch.ones(M, M, dtype=torch.bool).tril()):
        center = visible_center(queries, means, present, attn_mask)
        assert (center - 100).abs().max() < 5
        changed, other = queries.clone(), means.clone()
        changed[4:], other[4:], other[:3] = 7, 7, torch.nan
        assert torch.equal(visible_center(changed, other, present, attn_mask), center)
    means[3] = 1e4  # a first token far from all others
    assert visible_center(queries - 100, means, present).abs().max() < 5
    apart = torch.eye(M, dtype=torch.bool)
    assert (visible_center(queries, means, present, apart) == 0).all()
    assert (visible_center(-queries, means, present) == 0).all()  # between them


def test_visible_center_does_not_depend_on_what_some_query_does_not_see() -> None:
    """Queries that see nothing, and later queries where components of a cache come before them."""
    queries, means, present = torch.randn(3, D) + 100, torch.randn(5, D) + 200, torch.arange(5) > 2
    attn_mask = present & torch.tensor([[False], [True], [True]])
    for changed_rows, mask in (([0], attn_mask), ([2], None)):
        changed = queries.clone()
        changed[changed_rows] = 7
        center = visible_center(queries, means, present, mask)
        assert (center > 0).all() and torch.equal(visible_center(changed, means, present, mask), center)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("how", [{}, {"precision": "diagonal", "prior": "learned"}, {"precision": "shared"}])
def test_bias_of_keys_in_half_precision(how: dict[str, Any], causal: bool) -> None:
    """Softmax does not see it; the error is softmax attention's own."""
    softmax, layer = SelfAttention(64, 2), ProbabilisticAttention(64, 2, **how)
    with torch.no_grad():
        softmax.qkv.bias[64:128] = 10 * torch.randn(64).sign()
    layer.load_state_dict(softmax.state_dict(), strict=False)
    x = torch.randn(2, 32, 64)
    expected = softmax(x, causal=causal)
    torch.testing.assert_close(layer(x, causal=causal), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = (part(x, causal=causal) for part in (softmax, layer))
    assert (ours - expected).square().mean() < 2 * (theirs - expected).square().mean()


def test_bias_of_keys_with_trained_precisions() -> None:
    """Where precisions and priors are no longer softmax's, float32 follows double precision at any bias."""
    layer = ProbabilisticAttention(16, 2, precision="diagonal", prior="learned", components=2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.2)
        layer.qkv.bias[16:32] = 3 * torch.randn(16).sign()
    x = torch.randn(2, 12, 16)
    for causal in (False, True):
        low = layer.float()(x, causal=causal)
        mean = layer.double().posterior(x.double(), causal=causal).mean
        expected = layer.out(mean.transpose(1, 2).flatten(-2))
        torch.testing.assert_close(layer(x.double(), causal=causal), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(low.double(), expected, rtol=1e-4, atol=1e-4)
