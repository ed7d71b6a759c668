"""Bayes' rule for a mixture, against scikit-learn, torch, numerical integration and identities."""

import math
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pyroformer.models.attention.bayes_rule import (
    evidence,
    log_joint,
    posterior_mean,
    posterior_variance,
    responsibilities,
)
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.query_variances import filled, query_covariances
from pyroformer.models.attention.variances import Covariances, SharedVariances
from pyroformer.models.mixture_attention.correlation import split_covariances

BATCH, COMPONENTS, QUERIES, WIDTH = 2, 6, 5, 3
VARIANCES = ["point masses", "isotropic", "diagonal", "one for all", "shared"]


def draw(kind: str = "diagonal", width: int = WIDTH, noise: float | None = None, seed: int = 0) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.double) + 0.1  # noqa: E731
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.double)  # noqa: E731
    variances: dict[str, Any] = {
        "point masses": None,
        "isotropic": rand(BATCH, COMPONENTS, 1),
        "diagonal": rand(BATCH, COMPONENTS, width),
        "one for all": rand(1, width),
        "shared": SharedVariances(rand(2, width), torch.tensor([0, 1, 1, 1, 1, 1])),
    }
    log_weights = randn(BATCH, COMPONENTS).log_softmax(-1)
    return Mixture(log_weights, 2 * randn(BATCH, COMPONENTS, width), variances[kind], noise_variance=noise)


def shared_variances(width: int, components: int) -> SharedVariances:
    return SharedVariances(torch.ones(2, width), torch.zeros(components, dtype=torch.long))


def queries(width: int = WIDTH) -> Tensor:
    return 2 * torch.randn(BATCH, QUERIES, width, dtype=torch.double)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["spherical", "diag"])
def test_scikit_learn_agrees(kind: str) -> None:
    mixture = draw("isotropic" if kind == "spherical" else "diagonal", noise=0.3)
    assert isinstance(mixture.variances, Tensor)
    u = queries()
    for row in range(BATCH):
        total = (mixture.variances[row] + 0.3).numpy()
        oracle = GaussianMixture(COMPONENTS, covariance_type=kind)
        oracle.weights_ = mixture.log_weights[row].exp().numpy()
        oracle.means_ = mixture.means[row].numpy()
        oracle.precisions_cholesky_ = total[:, 0] ** -0.5 if kind == "spherical" else total**-0.5
        one = Mixture(mixture.log_weights[row], mixture.means[row], mixture.variances[row], noise_variance=0.3)
        np.testing.assert_allclose(responsibilities(u[row], one), oracle.predict_proba(u[row].numpy()), atol=1e-10)
        np.testing.assert_allclose(evidence(u[row], one), oracle.score_samples(u[row].numpy()), atol=1e-10)


@pytest.mark.parametrize("kind", VARIANCES)
def test_log_joint_is_a_density(kind: str) -> None:
    mixture, u = draw(kind), queries()
    variances = mixture.dense_variances()
    total = math.sqrt(WIDTH) + (torch.zeros(1, 1, dtype=torch.double) if variances is None else variances)
    normal = torch.distributions.Normal(mixture.means[:, None], total.sqrt().unsqueeze(-3))
    expected = mixture.log_weights[:, None] + normal.log_prob(u[:, :, None]).sum(-1)
    assert_close(log_joint(u, mixture), expected)


@pytest.mark.parametrize("kind", VARIANCES)
def test_tweedie(kind: str) -> None:
    """The score of the evidence gives the posterior's moments: E = u + s grad log p, Var = s dE/du."""
    mixture, u = draw(kind, noise=0.7), queries().requires_grad_()
    (score,) = torch.autograd.grad(evidence(u, mixture).sum(), u, create_graph=True)
    mean = posterior_mean(u, mixture)
    assert_close(mean, u + 0.7 * score)
    slopes = [torch.autograd.grad(mean[..., d].sum(), u, retain_graph=True)[0][..., d] for d in range(WIDTH)]
    assert_close(posterior_variance(u, mixture), 0.7 * torch.stack(slopes, -1))


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_brute_force_integration(kind: str) -> None:
    """E[v | u] and Var[v | u] in one dimension by the trapezoidal rule, which is exact to rounding here."""
    mixture, u = draw(kind, width=1, noise=0.5), queries(width=1)
    assert isinstance(mixture.variances, Tensor)
    v = torch.linspace(-20, 20, 2001, dtype=torch.double)
    component = torch.distributions.Normal(mixture.means, mixture.variances.sqrt()).log_prob(v)
    prior = (mixture.log_weights[..., None] + component).exp().sum(1)
    likelihood = torch.distributions.Normal(v, math.sqrt(0.5)).log_prob(u).exp()
    posterior = prior[:, None] * likelihood
    total = posterior.sum(-1)
    mean = (posterior * v).sum(-1) / total
    variance = (posterior * v.square()).sum(-1) / total - mean.square()
    assert_close(evidence(u, mixture), (total * 0.02).log(), 1e-9)
    assert_close(posterior_mean(u, mixture)[..., 0], mean, 1e-9)
    assert_close(posterior_variance(u, mixture)[..., 0], variance, 1e-9)


def test_monte_carlo() -> None:
    """E[v | u] by 200,000 draws from the prior, within five standard errors of the estimate."""
    mixture = draw("diagonal", noise=2.0)
    assert isinstance(mixture.variances, Tensor)
    u = mixture.means[0, :1]
    which = torch.multinomial(mixture.log_weights[0].exp(), 200_000, replacement=True)
    noise = torch.randn(200_000, WIDTH, dtype=torch.double)
    v = mixture.means[0, which] + mixture.variances[0, which].sqrt() * noise
    weights = (-0.5 * (u - v).square().sum(-1) / 2.0).softmax(0)
    estimate = weights @ v
    error = (weights.square()[:, None] * (v - estimate).square()).sum(0).sqrt()
    one = Mixture(mixture.log_weights[0], mixture.means[0], mixture.variances[0], noise_variance=2.0)
    assert ((posterior_mean(u, one)[0] - estimate).abs() < 5 * error).all()
    assert error.max() < 0.02


@pytest.mark.parametrize("masked", [False, True])
def test_from_attention_is_softmax_attention(masked: bool) -> None:
    q, k = torch.randn(2, BATCH, QUERIES, 8, dtype=torch.double).unbind(0)
    v = torch.randn(BATCH, QUERIES, 4, dtype=torch.double)
    mask = torch.rand(BATCH, QUERIES) > 0.4 if masked else None
    if mask is not None:
        mask[:, 0] = True
    mixture = Mixture.from_attention(k, v, mask)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None])
    assert_close(posterior_mean(q, mixture), expected)
    assert_close(mixture.log_weights.exp().sum(-1), torch.ones(BATCH, dtype=torch.double))


def test_from_attention_without_keys_gives_zero() -> None:
    k = torch.full((BATCH, QUERIES, 8), torch.nan)
    k[1] = 1.0
    mixture = Mixture.from_attention(
        k, torch.ones(BATCH, QUERIES, 4), torch.tensor([[False], [True]]).expand(2, QUERIES)
    )
    assert posterior_mean(torch.ones(BATCH, 1, 8), mixture).tolist() == [[[0.0] * 4], [[1.0] * 4]]


def test_free_energy_identity() -> None:
    """For any rows R: sum R (joint - log R) + KL(R | w) is the evidence."""
    mixture, u = draw(), queries()
    rows = torch.rand(BATCH, QUERIES, COMPONENTS, dtype=torch.double).softmax(-1)
    bound = (rows * (log_joint(u, mixture) - rows.log())).sum(-1)
    gap = (rows * (rows.log() - responsibilities(u, mixture).log())).sum(-1)
    assert_close(bound + gap, evidence(u, mixture))


def test_values_have_the_variance_of_the_responsibilities() -> None:
    values = torch.randn(BATCH, COMPONENTS, 4, dtype=torch.double)
    mixture, u = replace(draw(), values=values), queries()
    weights = responsibilities(u, mixture)
    assert_close(posterior_mean(u, mixture), weights @ values)
    assert_close(posterior_variance(u, mixture), weights @ values.square() - (weights @ values).square())


@pytest.mark.parametrize("weightless", [False, True])
@pytest.mark.parametrize("kind", VARIANCES)
def test_masked_components_are_as_good_as_removed(kind: str, weightless: bool) -> None:
    whole = draw(kind)
    mask = torch.arange(COMPONENTS).expand(BATCH, -1) < 4
    broken = torch.where(mask[..., None], whole.means, torch.nan).requires_grad_()
    variances = whole.variances
    if kind in ("isotropic", "diagonal"):
        assert isinstance(variances, Tensor)
        variances = torch.where(mask[..., None], variances, torch.nan)
    left_out: Any = {"log_weights": torch.where(mask, whole.log_weights, -torch.inf)} if weightless else {"mask": mask}
    masked = replace(whole, means=broken, variances=variances, **left_out)
    if isinstance(whole.variances, SharedVariances):
        kept: Any = whole.variances._replace(group=whole.variances.group[:4])
    else:
        kept = variances[..., :4, :] if kind in ("isotropic", "diagonal") and variances is not None else variances
    removed = Mixture(whole.log_weights[:, :4], whole.means[:, :4], kept)
    u = queries()
    for function in (evidence, posterior_mean, posterior_variance):
        assert_close(function(u, masked), function(u, removed))
    assert_close(responsibilities(u, masked)[..., 4:], torch.zeros(BATCH, QUERIES, 2, dtype=torch.double), 0)
    (gradient,) = torch.autograd.grad(posterior_mean(u, masked).sum(), broken)
    assert gradient.isfinite().all() and (gradient[:, 4:] == 0).all()


@pytest.mark.parametrize("how", ["mask", "log weights", "attn_mask"])
@pytest.mark.parametrize("kind", VARIANCES)
def test_nothing_gives_zero(kind: str, how: str) -> None:
    """A query without any component: zero mean, variance and responsibilities, evidence -inf, no NaN in gradients."""
    mixture = draw(kind)
    mask = torch.ones(BATCH, COMPONENTS, dtype=torch.bool)
    mask[0] = False
    attn_mask = None
    if how == "mask":
        mixture = replace(mixture, mask=mask)
    elif how == "log weights":
        mixture = replace(mixture, log_weights=torch.where(mask, mixture.log_weights, -torch.inf))
    else:
        attn_mask = mask[:, None].expand(BATCH, QUERIES, COMPONENTS)
    leaves = [x.clone().requires_grad_() for x in (mixture.log_weights, mixture.means, queries())]
    mixture, u = replace(mixture, log_weights=leaves[0], means=leaves[1]), leaves[2]
    results = [f(u, mixture, attn_mask) for f in (responsibilities, posterior_mean, posterior_variance)]
    for result in results:
        assert (result[0] == 0).all() and (result[1] != 0).any()
    log_p = evidence(u, mixture, attn_mask)
    assert (log_p[0] == -torch.inf).all() and log_p[1].isfinite().all()
    total = sum((result.sum() for result in results), log_p[1].sum())
    for gradient in torch.autograd.grad(total + torch.where(log_p.isfinite(), log_p, 0).sum(), leaves):
        assert gradient.isfinite().all() and (gradient[1] != 0).any()


def test_visible_hides_components_from_one_query() -> None:
    mixture, u = draw(), queries()
    attn_mask = torch.ones(QUERIES, COMPONENTS, dtype=torch.bool).tril()
    for m in range(QUERIES):
        only = replace(mixture, mask=attn_mask[m].expand(BATCH, -1))
        assert_close(posterior_mean(u, mixture, attn_mask)[:, m], posterior_mean(u, only)[:, m])


@settings(deadline=None, max_examples=30)
@given(
    kind=st.sampled_from(VARIANCES[:4]),
    order=st.permutations(range(COMPONENTS)),
    shift=st.floats(-10, 10),
    seed=st.integers(0, 1000),
)
def test_order_and_origin_do_not_matter(kind: str, order: list[int], shift: float, seed: int) -> None:
    mixture, u = draw(kind, seed=seed), queries()
    variances = mixture.variances
    if isinstance(variances, Tensor) and variances.shape[-2] > 1:
        variances = variances[:, order]
    shuffled = Mixture(mixture.log_weights[:, order], mixture.means[:, order] + shift, variances)
    assert_close(evidence(u + shift, shuffled), evidence(u, mixture))
    assert_close(posterior_mean(u + shift, shuffled), posterior_mean(u, mixture) + shift)
    assert_close(posterior_variance(u + shift, shuffled), posterior_variance(u, mixture))


@settings(deadline=None, max_examples=50)
@given(log_alpha=st.lists(st.floats(-60, 200), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_any_concentration(log_alpha: list[float], seed: int) -> None:
    """Weights of alpha from e^-60 to e^200: float32 stays finite and close to float64."""
    torch.manual_seed(seed)
    mixture = Mixture(torch.tensor(log_alpha).log_softmax(-1), torch.randn(len(log_alpha), WIDTH))
    double = Mixture(mixture.log_weights.double(), mixture.means.double())
    u = torch.randn(QUERIES, WIDTH)
    for function in (responsibilities, evidence, posterior_mean, posterior_variance):
        result = function(u, mixture)
        torch.testing.assert_close(result.double(), function(u.double(), double), rtol=1e-4, atol=1e-4)


def test_variances_that_components_share() -> None:
    shared = SharedVariances(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1, 1]))
    assert shared.dense().tolist() == [[1, 2], [3, 4], [3, 4]]
    assert torch.equal(shared.membership() @ shared.table, shared.dense())


@pytest.mark.parametrize("full", [False, True])
def test_components_that_batch_elements_share_are_not_repeated(full: bool) -> None:
    """Bayes' rule factors each matrix once; a row that is absent everywhere may hold anything."""
    rows = torch.eye(WIDTH).expand(COMPONENTS, -1, -1) + 0.5 if full else torch.rand(COMPONENTS, WIDTH) + 0.1
    means, mask = torch.randn(COMPONENTS, WIDTH), torch.rand(BATCH, COMPONENTS) > 0.2
    mask[:, 0], mask[0, 1], mask[1, 1] = False, True, False
    rows, means = (torch.cat([torch.full_like(x[:1], torch.nan), x[1:]]) for x in (rows, means))
    part = lambda x: Covariances(x) if full else x  # noqa: E731
    shared = Mixture(torch.zeros(BATCH, COMPONENTS), means, part(rows), mask)
    assert filled(means, shared).shape == means.shape
    if full:
        assert query_covariances(shared).shape == rows.shape
        assert split_covariances(shared)[1].shape == rows.shape
    u = queries().float()
    for function in (evidence, posterior_mean, posterior_variance):
        ones = [Mixture(torch.zeros(COMPONENTS), means, part(rows), one) for one in mask]
        each = [function(*pair) for pair in zip(u, ones, strict=True)]
        torch.testing.assert_close(function(u, shared), torch.stack(each))


def test_a_covariance_that_is_not_positive_definite_is_refused() -> None:
    covariances = Covariances(torch.tensor([[1.0, 2.0], [2.0, 1.0]]).expand(3, 2, 2))
    mixture = Mixture(torch.zeros(3), torch.zeros(3, 2), covariances, noise_variance=0.5)
    with pytest.raises(ValueError, match="the covariance of component 0 is not positive definite: add to its"):
        evidence(torch.zeros(1, 2), mixture)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"log_weights": torch.zeros(4)}, "log_weights has 4 components and means 3"),
        ({"mask": torch.ones(2, dtype=torch.bool)}, "mask has 2 components and means 3"),
        ({"values": torch.zeros(2, 5)}, "values has 2 components and means 3"),
        ({"variances": torch.ones(2)}, r"variances of shape \(2,\) do not broadcast to means of shape \(3, 2\)"),
        ({"variances": torch.ones(2, 2)}, r"variances of shape \(2, 2\) do not broadcast to means"),
        ({"variances": torch.ones(3, 4)}, r"variances of shape \(3, 4\) do not broadcast to means"),
        ({"variances": shared_variances(5, 3)}, r"variances of shape \(3, 5\) do not broadcast to means"),
        (
            {"variances": shared_variances(1, 3)},
            r"the table of SharedVariances has shape \(2, 1\): give one that ends in 2",
        ),
        (
            {"variances": Covariances(torch.eye(5).expand(3, 5, 5))},
            r"Covariances has .* \(3, 5, 5\): give one that ends in 2 x 2",
        ),
        (
            {"log_weights": torch.zeros(4, 3), "means": torch.zeros(5, 3, 2)},
            r"leading dimensions \(5,\) of means, \(4,\)",
        ),
        (
            {"log_weights": torch.zeros(5, 3), "variances": torch.ones(4, 3, 2)},
            r"dimensions \(\) of means, \(5,\) of log_weights, \(4,\) of variances do not broadcast",
        ),
        ({"noise_variance": 0.0}, "noise_variance is 0.0: .* positive one where there are no variances"),
        ({"variances": shared_variances(2, 4)}, r"variances of shape \(4, 2\) do not broadcast to means"),
    ],
)
def test_shapes_that_do_not_fit(fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    fitting: dict[str, Any] = {"log_weights": torch.zeros(3), "means": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match=message):
        Mixture(**{**fitting, **fields})
