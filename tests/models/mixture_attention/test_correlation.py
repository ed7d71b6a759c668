"""Mixtures whose queries have full covariances, against torch's mixtures, Bayes' rule and EM."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_gap import guide_gap
from pyro import poutine
from pyro.infer import MCMC, NUTS, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.guides.mixture_attention import AssignmentGuide, KeyGuide, ValueGuide
from pyroformer.models.attention.bayes_rule import log_joint, responsibilities
from pyroformer.models.attention.variances import Covariances
from pyroformer.models.mixture_attention.correlation import covariances, split_covariances

KEYS = torch.tensor([[-2.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
MATRICES = torch.tensor([[[1.0, 0.8], [0.8, 1.0]], [[4.0, -1.0], [-1.0, 1.0]], [[0.5, 0.0], [0.0, 2.0]]])
QUERIES = torch.tensor([[-2.0, 0.5], [0.3, 1.0], [1.0, -1.0], [2.0, 0.1]])
ONE = pf.Mixture(torch.zeros(1), torch.zeros(1, 2), noise_variance=1.0)


def full(noise_variance: float = 0.0, **options: Any) -> pf.Mixture:
    return pf.Mixture(WEIGHTS.log(), KEYS, Covariances(MATRICES), noise_variance=noise_variance, **options)


def diagonal() -> pf.Mixture:
    return pf.Mixture(WEIGHTS.log(), KEYS, torch.tensor([[0.5], [1.0], [2.0]]), noise_variance=0.1)


def lkj() -> Any:
    return dist.LKJCholesky(2, 2.0)


def log_evidence(model: pf.MixtureAttention, queries: Tensor = QUERIES) -> Tensor:
    elbo = TraceEnum_ELBO(max_plate_nesting=queries.ndim - 1)
    return -torch.tensor(elbo.loss(model, lambda *_: None, queries))  # type: ignore[no-untyped-call]


def gaussians(matrices: Tensor, queries: Tensor = QUERIES) -> Tensor:
    """The evidence under torch's own mixture."""
    components = torch.distributions.MultivariateNormal(KEYS, matrices)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(WEIGHTS), components)
    return mixture.log_prob(queries).sum()


@pytest.mark.parametrize("noise_variance", [0.0, 0.7])
def test_fixed_covariances_are_those_of_a_mixture_of_gaussians(noise_variance: float) -> None:
    mixture = full(noise_variance)
    model = pf.MixtureAttention(mixture)
    assert model.correlated
    torch.testing.assert_close(log_evidence(model), gaussians(MATRICES + noise_variance * torch.eye(2)))
    batch = torch.stack([QUERIES, -QUERIES])
    shared = pf.MixtureAttention(mixture)
    torch.testing.assert_close(log_evidence(shared, batch), gaussians(MATRICES + noise_variance * torch.eye(2), batch))
    again = model.mixture()
    assert isinstance(again.variances, Covariances) and float(again.noise_variance or 0.0) == pytest.approx(
        noise_variance
    )
    torch.testing.assert_close(again.variances.matrices, MATRICES)


def test_attention_is_the_posterior_of_the_assignment() -> None:
    model = pf.MixtureAttention(full(0.3))
    marginals = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(model, lambda *_: None, QUERIES)
    torch.testing.assert_close(marginals["assignment"].probs, responsibilities(QUERIES, full(0.3)), atol=1e-6, rtol=0)
    values = full(value_variances=torch.ones(1, 1), values=torch.randn(3, 4))
    known = torch.randn(4, 4)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(  # type: ignore[no-untyped-call]
        pf.MixtureAttention(values), lambda *_: None, QUERIES, known
    )
    expected = log_joint(QUERIES, values, values=known).logsumexp(-1).sum()
    torch.testing.assert_close(-torch.tensor(loss), expected)


def test_the_joint_density_is_that_of_its_parts() -> None:
    """Keys, scales and correlations with priors, at random values: a sum of densities written out by hand."""
    model = pf.MixtureAttention(
        diagonal(),
        keys=dist.Normal(torch.zeros(2), 2.0).to_event(1),
        precision=dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1),
        correlation=lkj(),
    )
    draws = {
        name: site["value"]
        for name, site in poutine.trace(model).get_trace(QUERIES).nodes.items()
        if site["type"] == "sample" and name in ("keys", "precision", "correlation")
    }
    assert draws["correlation"].shape == (3, 2, 2) and draws["precision"].shape == (3, 2)
    scale = draws["precision"].rsqrt()
    matrices = scale[:, :, None] * (draws["correlation"] @ draws["correlation"].mT) * scale[:, None, :]
    components = torch.distributions.MultivariateNormal(draws["keys"], matrices)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(WEIGHTS), components)
    expected = mixture.log_prob(QUERIES).sum()
    expected = expected + torch.distributions.Normal(0.0, 2.0).log_prob(draws["keys"]).sum()
    expected = expected + torch.distributions.Gamma(2.0, 1.0).log_prob(draws["precision"]).sum()
    expected = expected + torch.distributions.LKJCholesky(2, 2.0).log_prob(draws["correlation"]).sum()
    conditioned = pyro.condition(model, data=draws)
    torch.testing.assert_close(log_evidence(conditioned), expected, rtol=1e-5, atol=1e-4)
    posterior = model.mixture(draws)
    assert isinstance(posterior.variances, Covariances)
    torch.testing.assert_close(posterior.variances.matrices, matrices)
    marginals = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(conditioned, lambda *_: None, QUERIES)
    found = marginals["assignment"].probs
    torch.testing.assert_close(found, responsibilities(QUERIES, posterior), atol=1e-5, rtol=0)


def test_heads_and_masks() -> None:
    """Two heads of three components, one of them absent; one query attends to some, and one does not count."""
    keys = torch.stack([KEYS, KEYS + 1])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    mixture = pf.Mixture(
        WEIGHTS.log().expand(2, 3), keys, Covariances(MATRICES.expand(2, 3, 2, 2)), mask, noise_variance=0.0
    )
    mixture = pf.Mixture(
        responsibilities(torch.zeros(2, 1, 2), mixture)[:, 0].log(), keys, mixture.variances, mask, noise_variance=0.0
    )
    allowed = torch.ones(4, 3, dtype=torch.bool)
    allowed[1, 0] = False
    queries = torch.stack([QUERIES, -QUERIES])
    counted = torch.tensor([True, True, False, True])
    loss = TraceEnum_ELBO(max_plate_nesting=2).loss(  # type: ignore[no-untyped-call]
        pf.MixtureAttention(mixture), lambda *_, **__: None, queries, attn_mask=allowed, mask=counted
    )
    joint = log_joint(queries, mixture, allowed & mask[:, None])
    weights = torch.where(allowed & mask[:, None], mixture.log_weights[:, None], -torch.inf).logsumexp(-1)
    expected = (joint.logsumexp(-1) - weights)[:, counted].sum()
    torch.testing.assert_close(-torch.tensor(loss), expected)
    drawn = pf.MixtureAttention(mixture, correlation=lkj())(tokens=5)
    assert drawn.shape == (2, 5, 2)


def test_queries_have_the_covariance_of_their_component() -> None:
    one = pf.Mixture(torch.zeros(1), torch.zeros(1, 2), Covariances(MATRICES[:1]), noise_variance=0.0)
    drawn = pf.MixtureAttention(one)(tokens=20_000)
    assert (drawn.T.cov() - MATRICES[0]).abs().max() < 0.05  # sd of an entry: 0.01


@pytest.fixture(scope="module")
def ellipse() -> Tensor:
    """Rows of a Gaussian with correlation 0.8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(80, 2, generator=generator) @ torch.linalg.cholesky(MATRICES[0]).T


@pytest.mark.parametrize("kind", ["nuts", "normal", "delta"])
def test_inference_finds_the_correlation(kind: str, ellipse: Tensor) -> None:
    model = pf.MixtureAttention(ONE, precision=dist.Gamma(torch.ones(2), 1.0).to_event(1), correlation=lkj())
    if kind == "nuts":
        chains = MCMC(NUTS(model, max_plate_nesting=1), num_samples=50, warmup_steps=30, disable_progbar=True)
        chains.run(ellipse)
        draws = chains.get_samples()["correlation"]
    else:
        guide = Automatic(model, AutoNormal) if kind == "normal" else Automatic(model)
        elbo = TraceEnum_ELBO(max_plate_nesting=1)
        svi = pf.SVI(model, guide, torch.optim.Adam, loss=elbo, lr=0.1)
        for _ in range(80):
            svi.step(ellipse)
        draws = guide.median(ellipse)["correlation"][None]
    found = (draws @ draws.mT)[..., 0, 1].mean()
    sample = torch.corrcoef(ellipse.T)[0, 1]
    assert abs(float(found - sample)) < 0.08  # the prior pulls it to 0; the sd of the posterior is 0.04


def test_the_parts_of_a_covariance_give_it_back() -> None:
    mixture, factors = split_covariances(full(0.5))
    assert factors is not None and isinstance(mixture.variances, Tensor)
    torch.testing.assert_close(covariances(1 / (mixture.variances + 0.5), factors), MATRICES + 0.5 * torch.eye(2))
    assert split_covariances(diagonal())[1] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pf.MixtureAttention(diagonal(), correlation=dist.LKJCholesky(3, 1.0)),
            r"event shape \(3, 3\), expected \(2, 2\)",
        ),
        (
            lambda: pf.MixtureAttention(diagonal(), correlation=dist.Normal(torch.zeros(2, 2), 1.0).to_event(2)),
            "give one that draws Cholesky factors of correlations, as dist.LKJCholesky does",
        ),
        (
            lambda: pf.MixtureAttention(
                diagonal(), correlation=lkj(), emission=lambda mean, scale: dist.Normal(mean, scale).to_event(1)
            ),
            "emission and correlations do not go together",
        ),
        (
            lambda: pf.MixtureAttention(
                pf.Mixture(torch.zeros(1), torch.zeros(1, 2), Covariances(torch.ones(1, 2, 2)), noise_variance=0.0)
            ),
            "the covariance of component 0 is not positive definite",
        ),
        (lambda: KeyGuide(pf.MixtureAttention(full())), "KeyGuide needs queries whose dimensions are independent"),
        (lambda: AssignmentGuide(pf.MixtureAttention(full())), "AssignmentGuide .* independent"),
        (lambda: ValueGuide(pf.MixtureAttention(full())), "ValueGuide needs queries whose dimensions are independent"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_guide_that_is_no_posterior_has_a_gap() -> None:
    model = pf.MixtureAttention(full())
    guide = AssignmentGuide(model, features="squares", start="random")
    assert guide_gap(model, guide, QUERIES) > 0.01
