"""Attention in a mixture of Gaussians: when it is softmax attention, its derivatives, what leaves it unchanged."""

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pyroformer.models.attention import chunked as parts
from pyroformer.models.attention.attend import attend
from pyroformer.models.attention.bayes_rule import (
    evidence,
    log_joint,
    posterior_mean,
    posterior_variance,
    responsibilities,
)
from pyroformer.models.attention.log_space import safe_logsumexp
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.query_variances import cholesky
from pyroformer.models.attention.value_map import value_map
from pyroformer.models.attention.variances import Covariances

M, N, D, V = 7, 9, 8, 3
SCALE = math.sqrt(D)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.double) + 0.5


def draw() -> tuple[Tensor, Tensor, Tensor]:
    return randn(2, M, D), randn(2, N, D), randn(2, N, V)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def uniform(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.double).log_softmax(-1)


def test_reading_a_posterior_mean_under_a_prior_for_long_keys() -> None:
    q, k, v = draw()
    expected = scaled_dot_product_attention(q, k, v)
    mixture = Mixture.from_attention(k, v)
    close(attend(q, mixture), expected)
    close(posterior_mean(q, replace(mixture, value_variances=rand(1, 1))), expected)  # whatever the value's precision


def test_reading_b_one_step_from_zero() -> None:
    q, k, v = draw()
    mixture = Mixture.from_attention(k, v, value_variances=torch.tensor([[1 / 0.7]], dtype=torch.double))
    close(value_map(q, mixture, start=torch.zeros(2, M, V, dtype=torch.double)), scaled_dot_product_attention(q, k, v))
    keys_alone = replace(mixture, log_weights=Mixture.from_attention(k, v).log_weights)
    off = value_map(q, keys_alone, start=torch.zeros(2, M, V, dtype=torch.double))
    assert (off - scaled_dot_product_attention(q, k, v)).abs().max() > 0.1  # the values' part of the prior is needed


def test_reading_c_keys_of_one_length() -> None:
    q, k, v = draw()
    k = 2 * torch.nn.functional.normalize(k, dim=-1)
    close(attend(q, Mixture(uniform(2, N), k, values=v)), scaled_dot_product_attention(q, k, v))


def test_steps_are_calls_of_softmax_attention() -> None:
    q, k, v = draw()
    beta = 0.7
    expected = torch.zeros(2, M, V, dtype=torch.double)
    queries, keys = D**-0.25 * q, torch.cat([D**-0.25 * k, beta**0.5 * v], -1)
    for _ in range(5):
        expected = scaled_dot_product_attention(torch.cat([queries, beta**0.5 * expected], -1), keys, v, scale=1.0)
    mixture = Mixture.from_attention(k, v, value_variances=torch.tensor([[1 / beta]], dtype=torch.double))
    close(value_map(q, mixture, steps=5, start=torch.zeros(2, M, V, dtype=torch.double)), expected)


def test_gate_from_dot_product_to_distance() -> None:
    q, k, v = draw()
    magnitude = 0.5 * k.square().sum(-1) / SCALE
    distance = (-0.5 * torch.cdist(q, k).square() / SCALE).softmax(-1) @ v
    for gamma, expected in ((1.0, scaled_dot_product_attention(q, k, v)), (0.0, distance)):
        close(attend(q, Mixture(gamma * magnitude, k, values=v)), expected)


@pytest.mark.parametrize("columns", [1, D])
def test_mixture_keys_are_flat_components(columns: int) -> None:
    q, k, v = randn(M, D), randn(N, 3, D), randn(N, V)
    variances, outer, inner = rand(N, 3, columns), randn(N).log_softmax(-1), randn(N, 3).log_softmax(-1)
    mixture = Mixture.from_nested(outer, inner, k, variances, values=v, noise_variance=0.0)
    each = torch.distributions.Normal(k, variances.sqrt()).log_prob(q[:, None, None]).sum(-1)
    expected = outer + (inner + each).logsumexp(-1)
    close(log_joint(q, mixture).unflatten(-1, (N, 3)).logsumexp(-1), expected)
    close(attend(q, mixture), expected.softmax(-1) @ v)


def test_null_component_is_softmax_plus_one() -> None:
    q, k, v = draw()
    scores = q @ k.mT / SCALE
    mixture = replace(Mixture.from_attention(k, v), log_weights=0.5 * k.square().sum(-1) / SCALE)
    expected = scores.exp() / (1 + scores.exp().sum(-1, keepdim=True)) @ v
    close(attend(q, mixture.with_null()), expected)
    nothing = replace(mixture, mask=torch.zeros(2, N, dtype=torch.bool)).with_null(value=torch.ones(V).double())
    close(attend(q, nothing), torch.ones(2, M, V).double())


@pytest.mark.parametrize("kind", ["point masses", "isotropic", "diagonal"])
def test_null_component_may_be_broad(kind: str) -> None:
    _, k, v = draw()
    variances = {"point masses": None, "isotropic": rand(2, N, 1), "diagonal": rand(2, N, D)}[kind]
    mixture = Mixture(uniform(2, N), k, variances, values=v, noise_variance=0.1, value_variances=rand(1, V))
    far = 100 * torch.ones(2, 1, D, dtype=torch.double)
    assert responsibilities(far, mixture.with_null(-5.0, variance=1e4))[..., 0].min() > 0.999
    assert mixture.with_null(-5.0, variance=1e4).components == N + 1


def test_map_approaches_attention_linearly() -> None:
    q, k, v = draw()
    gaps = []
    for beta in (1e-3, 1e-2):
        mixture = Mixture.from_attention(k, v)
        mixture = replace(mixture, value_variances=torch.tensor([[1 / beta]], dtype=torch.double))
        gaps.append(float((value_map(q, mixture, steps=50) - attend(q, mixture)).abs().max()))
    assert gaps[1] / gaps[0] == pytest.approx(10, rel=0.05)


def moments(queries: Tensor, mixture: Mixture, right: Tensor) -> Tensor:
    """Cov_w(value, right) for each query."""
    assert mixture.values is not None
    weights = responsibilities(queries, mixture)
    outer = torch.einsum("mn,nv,nd->mvd", weights, mixture.values, right)
    return outer - (weights @ mixture.values)[..., :, None] * (weights @ right)[..., None, :]


def test_jacobian_of_attention_is_a_covariance() -> None:
    q, k, v = randn(M, D), randn(N, D), randn(N, V)
    mixture = Mixture.from_attention(k, v)
    jacobian = torch.autograd.functional.jacobian(lambda x: attend(x, mixture).sum(0), q, vectorize=True)
    close(jacobian.transpose(0, 1), moments(q, mixture, k) / SCALE, 1e-10)


def test_steps_of_the_value_map_are_not_negative() -> None:
    mixture = Mixture.from_attention(torch.randn(5, 8), torch.randn(5, 1), value_variances=torch.ones(1, 1))
    with pytest.raises(ValueError, match="steps is -1: give a whole number of at least 0"):
        value_map(torch.randn(3, 8), mixture, steps=-1)


def test_linear_rate_of_the_value_map() -> None:
    """EM converges at beta times the largest eigenvalue of the values' covariance at the fixed point."""
    q, k, v = randn(1, D), randn(N, D), randn(N, V)
    mixture = replace(Mixture.from_attention(k, v), value_variances=torch.tensor([[2.0]], dtype=torch.double))
    fixed = value_map(q, mixture, steps=500)
    pair = Mixture(
        mixture.log_weights, torch.cat([k, v], -1), torch.tensor([[SCALE] * D + [2.0] * V], dtype=torch.double),
        values=v, noise_variance=0.0,
    )  # fmt: skip
    rate = torch.linalg.eigvalsh(moments(torch.cat([q, fixed], -1), pair, v)[0]).max() / 2.0
    start = fixed + 1e-3 * randn(1, V)
    errors = [float((value_map(q, mixture, steps=t, start=start) - fixed).norm()) for t in (10, 11)]
    assert errors[1] / errors[0] == pytest.approx(float(rate), abs=1e-2)


@pytest.mark.parametrize("columns", [None, 1, V])
def test_implicit_gradient_is_the_unrolled_one(columns: int | None) -> None:
    q, k, v = draw()
    beta = rand(1, 1) + 2 if columns is None else rand(2, N, columns) + 1.5
    leaves = [leaf.requires_grad_() for leaf in (q, k, v, beta)]

    def run(implicit: bool) -> Tensor:
        mixture = Mixture(uniform(2, N), leaves[1], values=leaves[2], value_variances=leaves[3])
        return value_map(leaves[0], mixture, steps=120, implicit=implicit)

    upstream = randn(2, M, V)
    unrolled = torch.autograd.grad(run(False), leaves, upstream)
    for expected, actual in zip(unrolled, torch.autograd.grad(run(True), leaves, upstream), strict=True):
        close(actual, expected, 1e-9)


def test_implicit_gradient_does_not_see_masked_components() -> None:
    (q, k, v), mask = draw(), torch.arange(N) > 0
    v, beta = (torch.where(mask[:, None], x, torch.nan) for x in (v, rand(2, N, 1) + 1.5))
    mixture = Mixture(uniform(2, N), k, mask=mask, values=v, value_variances=beta)
    gradients = []
    for implicit in (False, True):
        queries = q.clone().requires_grad_()
        output = value_map(queries, mixture, steps=120, implicit=implicit)
        gradients += torch.autograd.grad(output.sum(), queries)
    close(gradients[1], gradients[0], 1e-9)


def test_value_map_climbs() -> None:
    q, k, v = draw()
    mixture = Mixture(uniform(2, N), k, rand(2, N, 1), values=v, value_variances=0.1 * rand(2, N, 1))
    objective = torch.stack([evidence(q, mixture, values=value_map(q, mixture, steps=t)) for t in range(0, 30, 3)])
    assert (objective.diff(dim=0) > -1e-10).all() and objective[-1].sum() > objective[0].sum() + 1


def test_free_energy() -> None:
    """For any weights R, sum R (l - log R) + KL(R | w) is the evidence."""
    q, k, v = draw()
    mixture = Mixture(uniform(2, N), k, rand(2, N, 1), values=v, value_variances=rand(1, V))
    known = randn(2, M, V)
    joint = log_joint(q, mixture, values=known)
    other = randn(2, M, N).softmax(-1)
    divergence = (other * (other.log() - joint.log_softmax(-1))).sum(-1)
    close((other * (joint - other.log())).sum(-1) + divergence, evidence(q, mixture, values=known), 1e-10)
    close(evidence(q, mixture, values=known), safe_logsumexp(joint))


def test_known_values_enter_where_they_are_annotated() -> None:
    q, k, v = draw()
    mixture = Mixture(uniform(2, N), k, rand(2, N, 1), values=v, value_variances=rand(2, N, V))
    known, value_mask = randn(2, M, V), torch.arange(M) % 2 == 0
    joint = log_joint(q, mixture, values=known.masked_fill(~value_mask[:, None], torch.nan), value_mask=value_mask)
    together = torch.distributions.Normal(v[:, None], mixture.value_variances.sqrt()[:, None])  # type: ignore[union-attr]
    close(joint[:, 0], (log_joint(q, mixture) + together.log_prob(known[:, :, None]).sum(-1))[:, 0])
    close(joint[:, 1], log_joint(q, mixture)[:, 1])


def test_variance_includes_that_of_values() -> None:
    q, k, v = draw()
    own = rand(2, N, V)
    mixture = Mixture(uniform(2, N), k, rand(2, N, 1), values=v, value_variances=own)
    weights = responsibilities(q, mixture)
    expected = weights @ (own + v.square()) - (weights @ v).square()
    close(posterior_variance(q, mixture), expected, 1e-10)
    close(attend(q, mixture, returns="variance"), expected, 1e-10)


def test_full_covariances() -> None:
    q, k, _ = draw()
    root = randn(2, N, D, D)
    matrices = root @ root.mT + 0.1 * torch.eye(D, dtype=torch.double)
    mixture = Mixture(uniform(2, N), k, Covariances(matrices), noise_variance=0.3)
    total = matrices + 0.3 * torch.eye(D, dtype=torch.double)
    normal = torch.distributions.MultivariateNormal(k[:, None], total[:, None])
    close(log_joint(q, mixture), mixture.log_weights[:, None] + normal.log_prob(q[:, :, None]), 1e-10)
    diagonal = rand(2, N, D)
    full, plain = (
        Mixture(uniform(2, N), k, x, noise_variance=0.3) for x in (Covariances(torch.diag_embed(diagonal)), diagonal)
    )
    close(posterior_mean(q, full), posterior_mean(q, plain), 1e-10)
    close(posterior_variance(q, full), posterior_variance(q, plain), 1e-10)
    with pytest.raises(ValueError, match="attention does not take full covariances"):
        attend(q, mixture)


def test_tweedie_for_full_covariances() -> None:
    """The score of the evidence gives the posterior mean: E = u + s grad log p."""
    q, k, _ = draw()
    root = randn(2, N, D, D)
    mixture = Mixture(uniform(2, N), k, Covariances(root @ root.mT), noise_variance=0.7)
    q.requires_grad_()
    (score,) = torch.autograd.grad(evidence(q, mixture).sum(), q)
    close(posterior_mean(q, mixture), q + 0.7 * score, 1e-8)


def test_permutation_and_translation() -> None:
    q, k, v = draw()
    order, by = torch.randperm(N), randn(D)
    variances = rand(2, N, D)

    def run(gamma: float, move: Tensor, order: Tensor) -> Tensor:
        keys = k[:, order] + move
        log_weights = gamma * 0.5 * (keys.square() / variances[:, order]).sum(-1)
        return attend(q + move, Mixture(log_weights, keys, variances[:, order], values=v[:, order], noise_variance=0.0))

    same, still = torch.arange(N), torch.zeros(D, dtype=torch.double)
    close(run(0.7, still, order), run(0.7, still, same), 1e-10)
    close(run(0.0, by, same), run(0.0, still, same), 1e-10)
    assert (run(1.0, by, same) - run(1.0, still, same)).abs().max() > 1e-3


@pytest.mark.parametrize("returns", ["mean", "variance", "evidence"])
def test_masked_components_change_nothing_at_all(returns: str) -> None:
    q, k, v = randn(2, 6, D), randn(2, 6, D), randn(2, 6, V)
    variances, weights = rand(2, 6, 1), randn(2, 6)
    attn_mask = torch.ones(6, 6, dtype=torch.bool).tril()

    def run(**view: object) -> Tensor:
        mixture = Mixture(weights, k, variances, values=v, noise_variance=0.0)
        return attend(q, mixture, returns=returns, **view)  # type: ignore[arg-type]

    before = run(causal=True), run(attn_mask=attn_mask)
    close(*before)
    for tensor in (q, k, v, variances, weights):
        tensor[:, 4:] += 3
    for old, new in zip(before, (run(causal=True), run(attn_mask=attn_mask)), strict=True):
        assert torch.equal(old[:, :4], new[:, :4])


def test_a_query_that_sees_nothing_gets_zero() -> None:
    q, k, v = draw()
    attn_mask = torch.ones(2, M, N, dtype=torch.bool)
    attn_mask[1, 3] = False
    mixture = Mixture(uniform(2, N), k, values=v)
    answer = attend(q, mixture, attn_mask=attn_mask)
    assert (answer[1, 3] == 0).all()
    close(answer, posterior_mean(q, mixture, attn_mask))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_variances": torch.ones(1, 1)}, "value_variances without values"),
        (
            {"values": torch.ones(3, 4), "value_variances": torch.ones(3, 2)},
            r"value_variances of shape \(3, 2\) do not",
        ),
        ({"variances": Covariances(torch.ones(2, 2, 2))}, "variances has 2 components and means 3"),
    ],
)
def test_bad_mixtures(options: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(torch.zeros(3), torch.zeros(3, 2), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [False, True])
def test_evidence_in_parts(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = randn(2, 9, D).requires_grad_(), randn(2, 9, D).requires_grad_()
    mixture = Mixture(randn(2, 9), k, rand(2, 9, D), noise_variance=0.3)
    attn_mask = torch.ones(9, 9, dtype=torch.bool).tril() if causal else None
    upstream = randn(2, 9)
    expected = torch.autograd.grad(evidence(q, mixture, attn_mask), (q, k), upstream)
    monkeypatch.setattr(parts, "MIN_QUERIES", 4)
    monkeypatch.setattr(parts, "_entries", lambda _: 1)
    result = attend(q, mixture, returns="evidence", causal=causal)
    close(result, evidence(q, mixture, attn_mask), 1e-10)
    for a, e in zip(torch.autograd.grad(result, (q, k), upstream), expected, strict=True):
        close(a, e, 1e-9)
    row = torch.arange(9)[None] < 4
    close(attend(q, mixture, returns="evidence", attn_mask=row), evidence(q, mixture, row.expand(9, 9)), 1e-10)


def test_bad_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match="queries have 3 dimensions and the mixture's vectors 2"):
        attend(torch.zeros(1, 3), Mixture(torch.zeros(3), torch.zeros(3, 2)))
    mixture = Mixture(torch.zeros(3), torch.zeros(3, 2), values=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="no value_variances"):
        log_joint(torch.zeros(1, 2), mixture, values=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="mode needs value_variances"):
        value_map(torch.zeros(1, 2), mixture)
    mixture = replace(mixture, value_variances=torch.ones(1, 1))
    with pytest.raises(ValueError, match="steps is -1: give a whole number of at least 0"):
        value_map(torch.zeros(1, 2), mixture, steps=-1)
    with pytest.raises(
        ValueError, match=r"start has shape \(1, 3\): 1 queries and 3 components need it to end in \(1, 1\)"
    ):
        value_map(torch.zeros(1, 2), mixture, start=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="causal and attn_mask both restrict"):
        attend(torch.zeros(3, 2), mixture, causal=True, attn_mask=torch.ones(3, 3, dtype=torch.bool))


def valued(mask: Tensor | None = None) -> Mixture:
    """Five components whose values have variances of their own."""
    means, values, variances = torch.randn(5, 3).double(), torch.randn(5, 2).double(), 2 + torch.rand(5, 1).double()
    return Mixture(torch.zeros(5).double(), means, mask=mask, values=values, value_variances=variances)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_implicit_steps_end_where_the_others_do(steps: int) -> None:
    q, mixture = torch.randn(4, 3).double(), valued()
    torch.testing.assert_close(value_map(q, mixture, steps=steps, implicit=True), value_map(q, mixture, steps=steps))


def test_implicit_gradients_of_fewer_queries_than_components() -> None:
    """As with a cache: the last components belong to the queries."""
    q, mixture = torch.randn(3, 3).double().requires_grad_(), valued()
    found = [value_map(q, mixture, steps=60, causal=True, implicit=how).sum() for how in (True, False)]
    torch.testing.assert_close(*(torch.autograd.grad(each, q)[0] for each in found), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(value_map(q, mixture, steps=0, causal=True), attend(q, mixture, causal=True))


def test_an_implicit_gradient_is_not_that_of_the_start() -> None:
    q, mixture = torch.randn(4, 3).double().requires_grad_(), valued()
    starts = None, attend(q, mixture).detach()
    found = [value_map(q, mixture, start=start, implicit=True).sum() for start in starts]
    torch.testing.assert_close(*(torch.autograd.grad(each, q)[0] for each in found))


def test_the_mode_of_no_value_is_zero() -> None:
    absent, q = torch.zeros(5, dtype=torch.bool), torch.randn(4, 3).double().requires_grad_()
    for implicit in (False, True):
        mode = value_map(q, valued(absent), steps=2, implicit=implicit)
        assert not mode.any() and not torch.autograd.grad(mode.sum(), q)[0].any()


def test_a_null_component_has_the_first_variance_of_values() -> None:
    mixture = valued()
    variances = mixture.with_null().value_variances
    assert variances is not None and mixture.value_variances is not None
    assert torch.equal(variances, mixture.value_variances[[0, 0, 1, 2, 3, 4]])


def test_point_masses_need_noise() -> None:
    with pytest.raises(
        ValueError, match="noise_variance is 0.0: give a finite number of at least 0, and a positive one where"
    ):
        Mixture(torch.zeros(2), torch.zeros(2, 3), noise_variance=0.0)


def test_a_covariance_that_is_none_is_named_by_its_component() -> None:
    matrices = torch.eye(2).repeat(2, 3, 1, 1)
    matrices[1, 1, 0, 1] = matrices[1, 1, 1, 0] = 5.0
    with pytest.raises(ValueError, match="the covariance of component 1 is not positive definite"):
        cholesky(matrices)
