"""Attention of a bottleneck: against the posterior mean of a mixture of Gaussians written out, and its limits."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyroformer.models.attention.bayes_rule import posterior_mean
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.nvib.attention import Projections, attend, pack
from pyroformer.models.nvib.bottleneck import Bottleneck
from pyroformer.models.nvib.moments import RunningMoments
from pyroformer.models.nvib.observer import Observer
from pyroformer.models.nvib.tau import Tau

P, H, E, B, M, N = 12, 3, 4, 2, 5, 7
S = E**0.5


def bottleneck(tau: Tau, learn: bool = False, diagonal: bool = False, dtype: torch.dtype = torch.float64) -> Bottleneck:
    """One with a prior that is none of the defaults, and heads that are not zero."""
    layer = Bottleneck(P, S, learn=learn, diagonal=diagonal).to(dtype)
    layer.tau = tau
    layer.prior_mean.copy_(torch.randn(P))
    layer.prior_variance.copy_(torch.rand(P) + 0.3)
    layer.prior_log_alpha.fill_(3.0)
    layer.log_alpha_std.fill_(0.7)
    layer.count.fill_(100)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return layer.eval()


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Projections]:
    """Queries, vectors and projections."""
    queries, x = torch.randn(B, H, M, E, dtype=dtype), torch.randn(B, N, P, dtype=dtype)
    key, value = torch.randn(2, P, P, dtype=dtype) / P**0.5
    return queries, x, Projections(key, value, torch.randn(P, dtype=dtype), H)


def answer(layer: Bottleneck, queries: Tensor, x: Tensor, projections: Projections, **options: Any) -> Tensor:
    return attend(layer, queries, pack(layer, layer.posterior(x), projections, False), projections, **options)[0]


def full_mixture(layer: Bottleneck, x: Tensor) -> Mixture:
    """The posterior of the vectors with the prior's component, from the definition."""
    tau, heads = layer.tau, layer.heads
    mean = tau.mu * x + (1 - tau.mu) * layer.prior_mean
    variance = (layer.prior_variance * tau.sigma**2).expand_as(x)
    log_alpha = x.square().sum(-1) / (2 * S) + tau.alpha * layer.log_alpha_std + tau.nats
    if heads is not None:
        mean = mean + F.linear(x, heads.mean_weight, heads.mean_bias)
        weight = torch.zeros(P, P).to(x) if heads.log_variance_weight is None else heads.log_variance_weight
        variance = variance * F.linear(x, weight, heads.log_variance_bias).exp()
        log_alpha = log_alpha + x.square() @ heads.square + x @ heads.linear + heads.constant
    return Mixture(
        torch.cat([layer.prior_log_alpha.expand(B, 1), log_alpha], -1),
        torch.cat([layer.prior_mean.expand(B, 1, P), mean], -2),
        torch.cat([layer.prior_variance.expand(B, 1, P), variance], -2),
        noise_variance=S,
    )


def by_hand(queries: Tensor, mixture: Mixture, projections: Projections) -> Tensor:
    """Heads of the posterior mean, from Bayes' rule with densities of Gaussians."""
    key, value = projections.by_head(projections.key), projections.by_head(projections.value)
    lifted = torch.einsum("bhme,hep->bhmp", queries, key)
    assert isinstance(mixture.variances, Tensor)
    mean, variance = mixture.means[:, None, None], mixture.variances[:, None, None]
    normal = torch.distributions.Normal(mean, (variance + S).sqrt())
    logits = mixture.log_weights[:, None, None] + normal.log_prob(lifted[..., None, :]).sum(-1)
    each = (variance * lifted[..., None, :] + S * mean) / (variance + S)
    denoised = (logits.softmax(-1)[..., None] * each).sum(-2)
    bias = projections.value_bias
    assert bias is not None
    return torch.einsum("bhmp,hep->bhme", denoised, value) + bias.unflatten(0, (H, 1, E))


TAUS = [Tau(1.0, 0.0, 0.5), Tau(1.0, 0.8, -1.0, 0.4), Tau(0.6, 1.5, 0.0), Tau(0.0, 0.3, 2.0)]
FORMS = {"no heads": (False, True), "shared": (True, False), "diagonal": (True, True)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tau", TAUS, ids=str)
@pytest.mark.parametrize("copies", [1, 40])  # many queries take another way through the heads
def test_exact_evaluation_is_the_posterior_mean(tau: Tau, form: str, copies: int) -> None:
    layer = bottleneck(tau, *FORMS[form])
    queries, x, projections = inputs()
    queries = queries.repeat(1, 1, copies, 1) * torch.linspace(0.5, 2, M * copies, dtype=torch.float64)[:, None]
    expected = by_hand(queries, full_mixture(layer, x), projections)
    torch.testing.assert_close(answer(layer, queries, x, projections), expected, rtol=1e-9, atol=1e-9)


def test_it_is_what_bayes_rule_says_of_one_head() -> None:
    layer = bottleneck(TAUS[1])
    queries, x, _ = inputs()
    eye = torch.eye(P, dtype=torch.float64)
    own, one = Projections(eye, eye, None, 1), torch.randn(B, 1, M, P, dtype=torch.float64)
    expected = posterior_mean(one[:, 0], full_mixture(layer, x))
    torch.testing.assert_close(answer(layer, one, x, own)[:, 0], expected, rtol=1e-9, atol=1e-9)


def test_published_evaluation_leaves_out_the_norm_of_the_query() -> None:
    layer = bottleneck(TAUS[1])
    layer.form = "published"
    queries, x, projections = inputs()
    mixture = full_mixture(layer, x)
    assert isinstance(mixture.variances, Tensor)
    key, value = projections.by_head(projections.key), projections.by_head(projections.value)
    lifted = torch.einsum("bhme,hep->bhmp", queries, key)
    total = mixture.variances + S
    logits = torch.einsum("bhmp,bnp->bhmn", lifted, mixture.means / total)
    own = mixture.log_weights - 0.5 * (mixture.means.square() / total).sum(-1) - 0.5 * total.log().sum(-1)
    weights = (logits + own[:, None, None]).softmax(-1)
    each = mixture.variances[:, None, None] * lifted[..., None, :] + S * mixture.means[:, None, None]
    denoised = (weights[..., None] * each / total[:, None, None]).sum(-2)
    assert projections.value_bias is not None
    expected = torch.einsum("bhmp,hep->bhme", denoised, value) + projections.value_bias.unflatten(0, (H, 1, E))
    published = answer(layer, queries, x, projections)
    torch.testing.assert_close(published, expected, rtol=1e-9, atol=1e-9)
    layer.form = "exact"
    assert (answer(layer, queries, x, projections) - published).abs().max() > 1e-2


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_start_is_softmax_attention(scale: float) -> None:
    """In float32, also for long vectors, whose log concentrations are in the thousands."""
    layer = bottleneck(Tau(), learn=True, dtype=torch.float32)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    queries, x, projections = inputs(torch.float32)
    x, queries = scale * x, queries / scale
    keys, values = (F.linear(x, w).unflatten(-1, (H, E)).transpose(1, 2) for w in (projections.key, projections.value))
    assert projections.value_bias is not None
    softmax = F.scaled_dot_product_attention(queries, keys, values) + projections.value_bias.unflatten(0, (H, 1, E))
    torch.testing.assert_close(answer(layer, queries, x, projections), softmax, rtol=1e-5, atol=1e-5 * scale)


def test_the_prior_alone_is_the_limit_of_small_concentrations() -> None:
    layer = bottleneck(Tau(1.0, 0.5, -1e4))
    queries, x, projections = inputs()
    alone = full_mixture(layer, x)
    alone = Mixture(alone.log_weights[:, :1], alone.means[:, :1], alone.dense_variances()[:, :1], noise_variance=S)
    result = answer(layer, queries, x, projections)
    torch.testing.assert_close(result, by_hand(queries, alone, projections), rtol=1e-9, atol=1e-9)
    assert torch.equal(result, answer(layer, queries, torch.randn_like(x), projections))


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("kind", [torch.bool, torch.float64, torch.float16], ids=str)
def test_masked_vectors_change_nothing(kind: torch.dtype, weights: bool) -> None:
    layer = bottleneck(TAUS[2], True, True)
    queries, x, projections = inputs()
    present = torch.arange(N) < torch.tensor([[4], [N]])
    mask = present[:, None, None]
    if kind.is_floating_point:
        mask = torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, torch.finfo(kind).min)
    masked = answer(layer, queries, x, projections, mask=mask, weights=weights)
    torch.testing.assert_close(masked[:1], answer(layer, queries[:1], x[:1, :4], projections))
    torch.testing.assert_close(masked[1:], answer(layer, queries, x, projections)[1:])


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("n", [M - 2, M - 1, M, N])  # the first queries of many see the prior alone
def test_causal_attention_is_that_of_its_mask(n: int, weights: bool) -> None:
    layer = bottleneck(TAUS[1])
    queries, x, projections = inputs()
    x = x[:, :n]
    causal = answer(layer, queries, x, projections, causal=True, weights=weights)
    mask = torch.ones(M, n, dtype=torch.bool).tril(n - M)
    torch.testing.assert_close(causal, answer(layer, queries, x, projections, mask=mask))
    for m in range(max(0, M - n), M):
        seen = n - M + m + 1
        one = answer(layer, queries[:, :, m : m + 1], x[:, :seen], projections)
        torch.testing.assert_close(causal[:, :, m : m + 1], one)


def test_attention_weights_are_those_of_the_answers() -> None:
    layer = bottleneck(Tau(1.0, 0.0, 0.0))
    queries, x, projections = inputs()
    packed = pack(layer, layer.posterior(x), projections, False)
    result, weights = attend(layer, queries, packed, projections, weights=True)
    assert weights is not None and weights.shape == (B, H, M, N + 1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, M, dtype=torch.float64))
    torch.testing.assert_close(result, answer(layer, queries, x, projections))


@pytest.mark.parametrize("count", [4, 400])  # many queries take another way through the heads
def test_autocast_leaves_the_weights_in_single_precision(count: int) -> None:
    """Vectors at zero, so that long queries tell components apart by their squares; keys are exact in bfloat16."""
    layer = bottleneck(Tau(0.0, 0.5, 0.0))
    layer.prior_mean.zero_()
    queries, x = (torch.randn(1, H, count, E) * 10).bfloat16(), torch.zeros(1, N, P)
    eye = Projections(torch.eye(P), torch.eye(P), None, H)

    def shares(projections: Projections, queries: Tensor, x: Tensor) -> Tensor:
        weights = attend(layer, queries, pack(layer, layer.posterior(x), projections, False), projections, weights=True)
        assert weights[1] is not None
        return weights[1]

    exact = shares(eye._replace(key=eye.key.double(), value=eye.value.double()), queries.double(), x.double())
    assert exact.std() > 0.1
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = shares(eye, queries, x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact.float(), rtol=0, atol=1e-4)


def test_autocast_leaves_the_posterior_as_it_is() -> None:
    layer, x = bottleneck(TAUS[2], True, True, torch.float32), torch.randn(B, N, P)
    expected = layer.posterior(x)[:4]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(*pair) for pair in zip(layer.posterior(x)[:4], expected, strict=True))


@pytest.mark.parametrize(("form", "copies"), [*((form, 1) for form in FORMS), ("shared", 2)])
def test_gradients(form: str, copies: int) -> None:
    """Of queries, vectors and every parameter, against finite differences; many queries take another way."""
    layer = bottleneck(Tau(0.7, 0.6, 0.3), *FORMS[form])
    queries, x, projections = inputs()
    queries = queries.repeat(1, 1, copies, 1)
    names = [name for name, _ in layer.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]

    def function(queries: Tensor, x: Tensor, key: Tensor, value: Tensor, *parameters: Tensor) -> Tensor:
        new = projections._replace(key=key, value=value)
        own = {f"layer.{name}": value for name, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(_Whole(layer), own, (queries, x, new))

    each = [t[:1].clone().requires_grad_() for t in (queries, x)]
    rows = [t.clone().requires_grad_() for t in (projections.key, projections.value)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.autograd.gradcheck(function, (*each, *rows, *values), fast_mode=True)


class _Whole(torch.nn.Module):
    def __init__(self, layer: Bottleneck) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, queries: Tensor, x: Tensor, projections: Projections) -> Tensor:
        return answer(self.layer, queries, x, projections)


# training: vectors and weights are drawn


@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_drawn_weights_have_the_moments_of_a_dirichlet(sigma: float) -> None:
    """Of the softmax of the biases of point masses at the drawn vectors: the weights, tilted back."""
    layer = bottleneck(Tau(1.0, sigma, 0.5))
    layer.prior_log_alpha.fill_(0.5)
    x = 0.5 * torch.randn(1, 3, P, dtype=torch.float64)
    many = x.expand(20_000, 3, P)
    vectors = layer.draw(layer.posterior(many))
    own = layer.draw_prior_component(many)
    lengths = 0.5 / S * torch.cat([own.vectors, vectors.vectors], -2).square().sum(-1)
    drawn = (torch.cat([own.bias, vectors.bias], -1) + lengths).softmax(-1)
    alpha = full_mixture(layer, x.expand(B, 3, P)).log_weights[0].exp()
    expected = torch.distributions.Dirichlet(alpha)
    torch.testing.assert_close(drawn.mean(0), expected.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(drawn.var(0), expected.variance, rtol=0.1, atol=1e-3)


def test_drawn_vectors_have_the_moments_of_the_posterior() -> None:
    layer = bottleneck(Tau(0.5, 0.8, 1.0), True, True)
    x = torch.randn(1, 2, P, dtype=torch.float64)
    posterior = layer.posterior(x.expand(20_000, 2, P))
    drawn = layer.draw(posterior).vectors
    torch.testing.assert_close(drawn.mean(0), posterior.means[0], rtol=0, atol=0.06)
    torch.testing.assert_close(drawn.var(0), posterior.variances[0], rtol=0.1, atol=0.01)
    own = layer.draw_prior_component(drawn).vectors[:, 0]
    torch.testing.assert_close(own.mean(0), layer.prior_mean, rtol=0, atol=0.06)
    torch.testing.assert_close(own.var(0), layer.prior_variance, rtol=0.1, atol=0.01)


def test_sampled_attention_is_attention_to_the_draws() -> None:
    layer = bottleneck(Tau(0.5, 0.8, 0.2))
    queries, x, projections = inputs()
    with torch.random.fork_rng():
        drawn, own = layer.draw(layer.posterior(x)), layer.draw_prior_component(x)
    packed = pack(layer, layer.posterior(x), projections, True)
    result = attend(layer, queries, packed, projections, sampled=True)[0]
    both = [torch.cat(pair, 1) for pair in ((own.vectors, drawn.vectors), (own.bias, drawn.bias))]
    log_weights = both[1] + 0.5 / S * both[0].square().sum(-1)
    points = Mixture(log_weights, both[0], torch.zeros(B, N + 1, P, dtype=torch.float64), noise_variance=S)
    torch.testing.assert_close(result, by_hand(queries, points, projections), rtol=1e-9, atol=1e-9)


def test_nothing_is_drawn_at_the_start() -> None:
    layer = bottleneck(Tau())
    queries, x, projections = inputs()
    packed = pack(layer, layer.posterior(x), projections, True)
    drawn = attend(layer, queries, packed, projections, sampled=True)[0]
    torch.testing.assert_close(drawn, answer(layer, queries, x, projections))


# the prior


def test_running_moments_are_those_of_all_vectors() -> None:
    x = torch.randn(50, P) * torch.logspace(-3, 3, P) + 1e4
    moments = RunningMoments()
    for rows in x.split([2, 8, 0, 25, 15]):
        moments.add(rows.requires_grad_())
        torch.testing.assert_close(moments.variance, x[: moments.count].double().var(0))
    assert moments.count == 50 and moments.mean is not None and not moments.variance.requires_grad
    torch.testing.assert_close(moments.mean, x.double().mean(0))


def test_running_moments_of_vectors_that_are_present() -> None:
    x, present = torch.randn(4, 6, P), torch.rand(4, 6) < 0.5
    x[~present] = torch.nan
    moments = RunningMoments()
    for rows, there in zip(x, present, strict=True):
        moments.add(rows, there)
    torch.testing.assert_close(moments.variance, x[present].double().var(0))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_vectors_have_no_variance(count: int) -> None:
    moments = RunningMoments()
    moments.add(torch.randn(count, P))
    with pytest.raises(ValueError, match=f"{count} vectors have no variance: give at least 2"):
        _ = moments.variance


def test_vectors_that_are_not_finite_are_no_prior() -> None:
    moments, log_alphas = RunningMoments(), RunningMoments()
    moments.add(torch.full((3, P), torch.inf))
    log_alphas.add(torch.randn(3, 1))
    with pytest.raises(ValueError, match="its vectors are NaN or infinite: look at the inputs, or at the weights"):
        Bottleneck(P, S).set_prior(moments, log_alphas)


def test_a_dimension_that_never_varies_has_a_prior_so_narrow_that_vectors_stay() -> None:
    x, moments, log_alphas = torch.randn(20, P), RunningMoments(), RunningMoments()
    x[:, 0] = 3.0
    layer = Bottleneck(P, S)
    moments.add(x)
    log_alphas.add(layer.natural_log_alpha(x)[:, None])
    layer.set_prior(moments, log_alphas)
    layer.tau = Tau(sigma=1.0)
    assert layer.prior_variance[0] > 0 and layer.count == 20
    torch.testing.assert_close(layer.draw(layer.posterior(x)).vectors[:, 0], x[:, 0])
    torch.testing.assert_close(layer.prior_variance[1:], x[:, 1:].var(0))
    torch.testing.assert_close(layer.log_alpha_std, (x.square().sum(-1) / (2 * S)).std())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    layer, name = bottleneck(Tau()).to(dtype), str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"the priors of the layers are {name}, .* call model\.float\(\), and run it"):
        layer.posterior(torch.randn(2, N, P).to(dtype))


def test_a_copy_leaves_out_what_belongs_to_one_pass() -> None:
    layer = bottleneck(Tau(), learn=True)
    layer.observer, layer.last = Observer(), layer.posterior(torch.randn(B, N, P, dtype=torch.float64))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.observer is None and other.last is None


def test_the_repr_says_nats_only_where_there_are_some() -> None:
    layer = bottleneck(Tau(0.5, 0.0, 2.0))
    assert repr(layer) == "Bottleneck(12, group='encoder', tau_mu=0.5, tau_sigma=0, tau_alpha=2, form='exact')"
    layer.tau = Tau(nats=-1.0)
    assert "tau_alpha=inf, tau_nats=-1, form" in repr(layer)


def test_a_state_dict_has_the_prior_and_tau() -> None:
    layer, other = bottleneck(Tau(0.5, 0.25, -math.pi)), Bottleneck(P, S).double()
    other.load_state_dict(layer.state_dict())
    assert other.tau == layer.tau
    queries, x, projections = inputs()
    assert torch.equal(answer(other, queries, x, projections), answer(layer, queries, x, projections))


@pytest.mark.compile
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampled", [False, True])
def test_compiled(form: str, sampled: bool) -> None:
    """Without a graph break, in evaluation and in training."""
    layer = bottleneck(TAUS[1], *FORMS[form], dtype=torch.float32)
    queries, x, projections = inputs(torch.float32)

    def function(queries: Tensor, x: Tensor) -> Tensor:
        packed = pack(layer, layer.posterior(x), projections, sampled)
        return attend(layer, queries, packed, projections, causal=True, sampled=sampled)[0]

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    expected = function(queries, x)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(queries, x), expected, rtol=1e-4, atol=1e-4)
