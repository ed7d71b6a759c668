"""Keys that adapt inside a network, against the EM driver, brute force and their own unrolled gradients."""

from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from pyroformer.inference.em import ConjugatePriors, adapt
from pyroformer.models.attention import chunked as parts
from pyroformer.models.attention.bayes_rule import responsibilities
from pyroformer.models.attention.key_adaptation import adapt_keys
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import Covariances

M, N, D = 12, 6, 3


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


def draw(columns: int | None, *batch: int) -> tuple[Tensor, Mixture]:
    variances = None if columns is None else torch.rand(*batch, N, columns, dtype=torch.double) + 0.1
    weights = randn(*batch, N).log_softmax(-1)
    return randn(*batch, M, D), Mixture(weights, randn(*batch, N, D), variances, values=randn(*batch, N, 2))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pseudo_counts", [1.0, 0.3, torch.linspace(0.2, 2, N, dtype=torch.double)])
@pytest.mark.parametrize("columns", [None, 1, D])
def test_adapted_keys_are_those_of_em(columns: int | None, pseudo_counts: float | Tensor) -> None:
    queries, mixture = draw(columns, 2)
    mixture = replace(mixture, mask=torch.tensor([[True] * N, [True] * 4 + [False] * 2]))
    mask = torch.rand(2, M) < 0.8
    expected = adapt(
        queries, mixture, steps=4, mask=mask, priors=ConjugatePriors(pseudo_counts=pseudo_counts)
    ).mixture.means
    actual = adapt_keys(queries, mixture, steps=4, mask=mask, pseudo_counts=pseudo_counts).means
    present = mixture.present[..., None]
    close(torch.where(present, actual, 0), torch.where(present, expected, 0))


@pytest.mark.parametrize("columns", [None, 1, D])
def test_gradients_are_those_of_the_matrix(columns: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the normalizer is computed a few queries at a time."""
    queries, mixture = draw(columns, 2)
    leaves = [queries.requires_grad_(), mixture.means.requires_grad_()]
    by_hand = mixture
    for _ in range(3):
        weights = responsibilities(queries, by_hand)
        moved = (mixture.means + weights.mT @ queries) / (1 + weights.sum(-2))[..., None]
        by_hand = replace(by_hand, means=moved)
    upstream = randn(2, N, D)
    expected = torch.autograd.grad(by_hand.means, leaves, upstream)
    sizes: list[int] = []
    monkeypatch.setattr(parts, "MIN_QUERIES", 5)
    monkeypatch.setattr(parts, "_entries", lambda _: sizes.append(5) or 1)
    actual = torch.autograd.grad(adapt_keys(queries, mixture, steps=3).means, leaves, upstream)
    assert len(sizes) == 3
    for a, e in zip(actual, expected, strict=True):
        close(a, e, 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pseudo_counts": 0.0}, "pseudo_counts is 0.0: give (a )?positive"),
        ({"steps": -1}, "steps is -1: give a whole number of at least 0"),
        ({"steps": -1, "gradient": "implicit"}, "steps is -1: give a whole number of at least 0"),
        ({"steps": 1.5}, "steps is 1.5: give a whole number, such as 2"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    queries, mixture = draw(D)
    with pytest.raises(ValueError, match=message):
        adapt_keys(queries, mixture, **options)
    full = replace(mixture, variances=Covariances(torch.eye(D, dtype=torch.double).expand(N, D, D)))
    with pytest.raises(ValueError, match="attention does not take full covariances"):
        adapt_keys(queries, full)
    assert adapt_keys(queries, mixture, steps=0) is mixture


def test_bad_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    queries, mixture = draw(1)
    with pytest.raises(ValueError, match="queries have 2 dimensions and the mixture's vectors 3: give them as many"):
        adapt_keys(queries[:, :2], mixture)
    with pytest.raises(ValueError, match="mask has shape"):
        adapt_keys(queries, mixture, mask=torch.ones(5, dtype=torch.bool))


@pytest.mark.parametrize("value", [-1.0, torch.full((N,), -1.0), torch.tensor([1.0, 1.0, torch.nan, 1.0, 1.0, 1.0])])
def test_pseudo_counts_of_every_kind_are_positive(value: float | Tensor) -> None:
    queries, mixture = draw(1)
    with pytest.raises(ValueError, match=r"pseudo_counts is (-1.0|nan): give positive, finite numbers"):
        adapt_keys(queries, mixture, pseudo_counts=value)


@pytest.mark.parametrize("queries", [0, 6])
def test_batches_of_nothing(queries: int) -> None:
    mixture = Mixture(torch.zeros(0, N), torch.zeros(0, N, D))
    assert adapt_keys(torch.zeros(0, queries, D), mixture).means.shape == (0, N, D)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1", "pseudo_counts is '1': give a positive number, or one for each key"),
        (True, "pseudo_counts is True: give a positive number"),
        (torch.ones(N + 2), rf"pseudo_counts has shape \({N + 2},\): give a number, or one for each of the {N} keys"),
    ],
)
def test_pseudo_counts_that_are_none(value: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    mixture = Mixture(torch.zeros(N), torch.randn(N, 3), noise_variance=1.0)
    with pytest.raises(ValueError, match=message):
        adapt_keys(torch.randn(6, 3), mixture, pseudo_counts=value)


@pytest.mark.parametrize("columns", [None, 1, D])
def test_implicit_gradients_are_those_of_the_fixed_point(columns: int | None) -> None:
    """Those of 100 unrolled steps, and finite differences of where they end."""
    queries, mixture = draw(columns, 2)
    mask, upstream = torch.rand(2, M) < 0.8, randn(2, N, D)
    leaves = [queries.requires_grad_(), mixture.means.requires_grad_(), mixture.log_weights.requires_grad_()]
    means = {
        how: adapt_keys(queries, mixture, steps=100, mask=mask, gradient=how).means  # type: ignore[arg-type]
        for how in ("unrolled", "implicit")
    }
    close(means["implicit"], means["unrolled"])
    expected, actual = (torch.autograd.grad(each, leaves, upstream) for each in means.values())
    for a, e in zip(actual, expected, strict=True):
        close(a, e, 1e-8)
    with torch.no_grad():
        bump = torch.zeros_like(queries)
        bump[0, 3, 1] = 1e-5
        up, down = (adapt_keys(queries + b, mixture, steps=100, mask=mask).means for b in (bump, -bump))
    close((upstream * (up - down)).sum() / 2e-5, actual[0][0, 3, 1], 1e-6)


def kept_for_backward(steps: int, gradient: Any) -> int:
    """The bytes that the graph of a result holds."""
    queries, mixture = draw(1, 2)
    mixture.means.requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.nbytes), x)[1], lambda x: x):
        adapt_keys(queries, mixture, steps=steps, gradient=gradient)
    return sum(kept)


def test_the_memory_of_implicit_gradients_does_not_grow_with_steps() -> None:
    assert kept_for_backward(40, "implicit") == kept_for_backward(4, "implicit")
    assert kept_for_backward(40, "unrolled") > 8 * kept_for_backward(4, "unrolled")
    assert 0 < kept_for_backward(40, "implicit") < 0.2 * kept_for_backward(40, "unrolled")


def test_implicit_steps_stop_where_the_tolerance_says() -> None:
    queries, mixture = draw(1, 2)
    ends = [
        adapt_keys(queries, mixture, steps=200, tolerance=0.05, gradient=how).means for how in ("unrolled", "implicit")
    ]
    assert 0 < (ends[0] - ends[1]).abs().max() < 0.05  # one more step, which moves less than the tolerance
    with pytest.raises(ValueError, match="gradient is 'exact': choose one of unrolled, implicit"):
        adapt_keys(queries, mixture, gradient="exact")  # type: ignore[arg-type]
