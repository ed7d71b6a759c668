"""EM against scikit-learn step by step, against gradients of what it climbs, and its promises: it never falls."""

import math
from dataclasses import replace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pyroformer.inference.em import Adapted, ConjugatePriors, adapt
from pyroformer.inference.moving_variances import scale_of
from pyroformer.models.attention.bayes_rule import evidence, responsibilities
from pyroformer.models.attention.em.expected_statistics import expected_statistics
from pyroformer.models.attention.em.m_step import update_means
from pyroformer.models.attention.mixture import Mixture, in_dtype
from pyroformer.models.attention.observations import Observations
from pyroformer.models.attention.variances import Covariances

M, N, D, V = 40, 6, 3, 2
EVERYTHING = ("means", "variances", "weights")


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.double) + 0.5


def draw(columns: int = 1, batch: tuple[int, ...] = ()) -> tuple[Tensor, Mixture]:
    mixture = Mixture(
        randn(*batch, N).log_softmax(-1), randn(*batch, N, D), rand(*batch, N, columns), values=randn(*batch, N, V),
        noise_variance=0.2, value_variances=rand(*batch, N, 1),
    )  # fmt: skip
    return 1.5 * randn(*batch, M, D), mixture


def variances_of(mixture: Mixture) -> Tensor:
    if isinstance(mixture.variances, Covariances):
        return mixture.variances.matrices
    assert isinstance(mixture.variances, Tensor)
    return mixture.variances


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])
def test_scikit_learn_step_by_step(kind: str, steps: int) -> None:
    centers = torch.tensor([[0.0, 0, 0], [2, 1, 0], [-1, 2, 1]], dtype=torch.double)
    x = (0.5 * randn(60, 3, 3) + centers).flatten(0, 1)
    weights, precision = (torch.tensor(x, dtype=torch.double) for x in ([0.2, 0.5, 0.3], [1, 0.5, 2]))
    means = randn(3, 3)
    each = {"isotropic": precision, "diagonal": precision[:, None].expand(3, 3)}
    each["full"] = torch.diag_embed(each["diagonal"])
    oracle = GaussianMixture(
        3, covariance_type={"isotropic": "spherical", "diagonal": "diag", "full": "full"}[kind], reg_covar=0, tol=0,
        max_iter=steps, weights_init=weights.numpy(), means_init=means.numpy(), precisions_init=each[kind].numpy(),
    )  # fmt: skip
    oracle.fit(x.numpy())
    state = adapt(
        x, Mixture(weights.log(), means, 1 / precision[:, None], noise_variance=0.0), steps=steps, moves=EVERYTHING,
        covariance=kind, priors=ConjugatePriors(pseudo_counts=0.0),
    )  # type: ignore[arg-type]  # fmt: skip
    np.testing.assert_allclose(state.mixture.means, oracle.means_, atol=1e-9)
    np.testing.assert_allclose(variances_of(state.mixture).squeeze(-1), oracle.covariances_, atol=1e-9)
    np.testing.assert_allclose(state.mixture.log_weights.exp(), oracle.weights_, atol=1e-9)
    np.testing.assert_allclose(responsibilities(x, state.mixture), oracle.predict_proba(x.numpy()), atol=1e-9)
    np.testing.assert_allclose(evidence(x, state.mixture), oracle.score_samples(x.numpy()), atol=1e-9)
    np.testing.assert_allclose(state.objective[-1] / len(x), oracle.score(x.numpy()), atol=1e-9)
    assert (state.objective.diff() >= -1e-9).all()


def test_all_values_annotated_is_a_mixture_of_pairs() -> None:
    """With fixed variances and weights, keys and values move as the means of a diagonal mixture of [query, value]."""
    queries, mixture = draw()
    values = randn(M, V)
    state = adapt(
        queries, mixture, values=values, steps=5, priors=ConjugatePriors(pseudo_counts=0.0, value_pseudo_counts=0.0)
    )
    variances = torch.cat([(variances_of(mixture) + 0.2).expand(N, D), rand(0, V).new_zeros(N, V)], -1)
    assert mixture.value_variances is not None and mixture.values is not None and state.mixture.values is not None
    variances[:, D:] = mixture.value_variances
    pairs = Mixture(mixture.log_weights, torch.cat([mixture.means, mixture.values], -1), variances, noise_variance=0.0)
    expected = adapt(
        torch.cat([queries, values], -1), pairs, steps=5, priors=ConjugatePriors(pseudo_counts=0.0)
    ).mixture
    torch.testing.assert_close(state.mixture.means, expected.means[:, :D], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.mixture.values, expected.means[:, D:], rtol=1e-9, atol=1e-9)


VARIANTS: dict[str, dict[str, Any]] = {
    "keys": {},
    "keys and values": {"value_mask": True},
    "values": {"value_mask": True, "moves": ("values",)},
    "isotropic": {"moves": EVERYTHING, "priors": ConjugatePriors(0.7, 1.0, 2.5, 1.5, 1.8)},
    "diagonal": {"moves": EVERYTHING, "covariance": "diagonal", "priors": ConjugatePriors(0.7, 1.0, 2.5, 1.5, 1.8)},
    "full": {"moves": EVERYTHING, "covariance": "full", "priors": ConjugatePriors(0.7, 1.0, 2.5, 1.5, 1.8)},
    "everything": {
        "value_mask": True,
        "moves": (*EVERYTHING, "values"),
        "priors": ConjugatePriors(shape=2.0, rate=0.5),
    },
    "variational": {"variational": True},
}


def run(name: str, queries: Tensor, mixture: Mixture, steps: int, **more: Any) -> Adapted:
    options = dict(VARIANTS[name])
    if options.pop("value_mask", False):
        torch.manual_seed(1)
        values, value_mask = randn(*queries.shape[:-1], V), torch.arange(M) % 3 == 0
        options |= {"values": values, "value_mask": value_mask.expand(queries.shape[:-1])}
    return adapt(queries, mixture, steps=steps, **options | more)


@pytest.mark.parametrize("name", VARIANTS)
def test_never_falls(name: str) -> None:
    queries, mixture = draw(D if name == "diagonal" else 1)
    objective = run(name, queries, mixture, steps=40).objective
    assert (objective.diff() >= -1e-9 * (1 + objective[:-1].abs())).all()
    assert objective[-1] > objective[0] + 1


def posterior(x: dict[str, Tensor], queries: Tensor, start: Mixture, priors: ConjugatePriors, **known: Any) -> Tensor:
    """J written by hand, with torch's distributions as the priors; differentiable in what ``x`` holds."""
    total = x["variances"]
    mixture = replace(
        start, means=x["means"], variances=total, noise_variance=0.0, values=x["values"],
        log_weights=x["log_weights"].log_softmax(-1),
    )  # fmt: skip
    spread = (total / priors.pseudo_counts).sqrt()
    assert start.values is not None and start.value_variances is not None
    value_spread = (start.value_variances / priors.value_pseudo_counts).sqrt()
    log_prior = torch.distributions.Normal(start.means, spread).log_prob(x["means"]).sum()
    log_prior = log_prior + torch.distributions.Normal(start.values, value_spread).log_prob(x["values"]).sum()
    shape, rate = (torch.tensor(x, dtype=torch.double) for x in (priors.shape, priors.rate))
    log_prior = log_prior + torch.distributions.Gamma(shape, rate).log_prob(1 / total).sum()
    dirichlet = torch.distributions.Dirichlet(torch.full((N,), priors.concentration, dtype=torch.double))
    return evidence(queries, mixture, **known).sum() + log_prior + dirichlet.log_prob(x["log_weights"].softmax(-1))


@pytest.mark.parametrize("columns", [1, D])
def test_end_point_is_stationary(columns: int) -> None:
    """The gradient of J, from torch's own densities, is zero where EM ends; J's rise is EM's to the last digit."""
    queries, mixture = draw(columns)
    priors = ConjugatePriors(0.7, 1.3, 2.5, 1.5, 1.8)
    known = {"values": randn(M, V), "value_mask": torch.arange(M) % 3 == 0}
    covariance = "isotropic" if columns == 1 else "diagonal"
    options: dict[str, Any] = {"moves": (*EVERYTHING, "values"), "covariance": covariance, "priors": priors, **known}
    state = adapt(queries, mixture, steps=300, **options)

    def parameters(at: Mixture, total: Tensor) -> dict[str, Tensor]:
        assert at.values is not None
        return {"means": at.means, "values": at.values, "variances": total, "log_weights": at.log_weights}

    end = {k: v.clone().requires_grad_() for k, v in parameters(state.mixture, variances_of(state.mixture)).items()}
    value = posterior(end, queries, mixture, priors, **known)
    for gradient in torch.autograd.grad(value, list(end.values())):
        assert gradient.abs().max() < 1e-8
    start = posterior(parameters(mixture, variances_of(mixture) + 0.2), queries, mixture, priors, **known)
    assert float(value.detach() - start) == pytest.approx(float(state.objective[-1] - state.objective[0]), abs=1e-8)


def test_step_is_a_preconditioned_gradient() -> None:
    """Fisher's identity at a random point: the M-step of the keys is the gradient of J over theta + alpha N."""
    queries, mixture = draw()
    keys, total = randn(N, D).requires_grad_(), variances_of(mixture) + 0.2
    moved = replace(mixture, means=keys)
    prior = torch.distributions.Normal(mixture.means, total.sqrt()).log_prob(keys).sum()
    (gradient,) = torch.autograd.grad(evidence(queries, moved).sum() + prior, keys)
    statistics = expected_statistics(Observations(queries), moved)
    new = update_means(statistics.queries, statistics.counts, mixture.means, keys, 1.0)
    expected = gradient * total / (1 + statistics.counts[:, None])
    torch.testing.assert_close(new - keys, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("squares", [None, "isotropic", "diagonal", "full"])
def test_statistics_in_parts(squares: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, mixture = draw(batch=(2,))
    mask, attn_mask = torch.rand(2, M) < 0.8, torch.rand(2, M, N) < 0.7
    attn_mask[:, 3] = False  # a query that sees nothing counts for nothing
    known = {"values": randn(2, M, V), "value_mask": torch.rand(2, M) < 0.5}
    weights = responsibilities(queries, mixture, attn_mask, **known) * mask[..., None]  # type: ignore[arg-type]
    second = {None: None, "isotropic": queries.square().sum(-1, keepdim=True), "diagonal": queries.square()}
    outer = queries[..., :, None] * queries[..., None, :]
    shares = weights * known["value_mask"][..., None]
    monkeypatch.setattr("pyroformer.models.attention.em.expected_statistics._entries", lambda *_: 7 * 2 * N)
    found = expected_statistics(Observations(queries, attn_mask, mask=mask, **known), mixture, squares)
    assert found.values is not None and found.value_counts is not None
    torch.testing.assert_close(found.counts, weights.sum(-2), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.queries, weights.mT @ queries, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.values, shares.mT @ known["values"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.value_counts, shares.sum(-2), rtol=1e-10, atol=1e-10)
    log_p = evidence(queries, mixture, attn_mask, **known)  # type: ignore[arg-type]
    counted = mask & log_p.isfinite()
    torch.testing.assert_close(found.evidence, torch.where(counted, log_p, 0).sum(-1), rtol=1e-10, atol=1e-10)
    if squares == "full":
        torch.testing.assert_close(found.squares, torch.einsum("bmn,bmde->bnde", weights, outer), rtol=1e-9, atol=1e-9)
    elif squares is not None:
        torch.testing.assert_close(found.squares, weights.mT @ second[squares], rtol=1e-10, atol=1e-10)  # type: ignore


def test_masked_queries_and_components_change_nothing() -> None:
    queries, mixture = draw()
    expected = adapt(queries[:30], replace(mixture, log_weights=mixture.log_weights), steps=5)
    mask = torch.arange(M) < 30
    actual = adapt(queries.masked_fill(~mask[:, None], 7.0), mixture, steps=5, mask=mask)
    torch.testing.assert_close(actual.mixture.means, expected.mixture.means, rtol=1e-10, atol=1e-10)
    more = Mixture(
        torch.cat([mixture.log_weights, torch.zeros(1).double()]), torch.cat([mixture.means, 9 * torch.ones(1, D)]),
        torch.cat([variances_of(mixture), torch.ones(1, 1)]), torch.arange(N + 1) < N, noise_variance=0.2,
    )  # fmt: skip
    actual = adapt(queries[:30], more, steps=5)
    torch.testing.assert_close(actual.mixture.means[:N], expected.mixture.means, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual.objective, expected.objective, rtol=1e-10, atol=1e-10)


def test_batches_are_problems_of_their_own() -> None:
    queries, mixture = draw(batch=(2,))
    both = adapt(queries, mixture, steps=4)
    for row in range(2):
        one = Mixture(mixture.log_weights[row], mixture.means[row], variances_of(mixture)[row], noise_variance=0.2)
        alone = adapt(queries[row], one, steps=4)
        torch.testing.assert_close(both.mixture.means[row], alone.mixture.means, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(both.objective[row], alone.objective, rtol=1e-10, atol=1e-10)


MIXTURE = ("log_weights", "means", "variances", "value_variances")


@pytest.mark.parametrize("part", ["queries", "values", "value_mask", "attn_mask", "mask", *MIXTURE])
def test_one_part_alone_may_have_a_batch(part: str) -> None:
    queries, mixture = draw()
    flags = {name: torch.rand(M, *more) < 0.9 for name, more in (("value_mask", ()), ("mask", ()), ("attn_mask", (N,)))}
    parts = {"queries": queries, "values": randn(M, V), **flags, **{name: getattr(mixture, name) for name in MIXTURE}}

    def objective(given: Tensor) -> Tensor:
        data = parts | {part: given}
        start = replace(mixture, **{name: data.pop(name) for name in MIXTURE})
        return adapt(data.pop("queries"), start, moves=("values", *EVERYTHING), steps=3, **data).objective

    both = torch.stack([parts[part], parts[part].flip(0)])
    each = torch.stack([objective(one) for one in both])
    torch.testing.assert_close(objective(both), each, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["values", "value_mask", "attn_mask", "mask"])
def test_one_row_for_all_queries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroformer.models.attention.em.expected_statistics._entries", lambda *_: 7 * N)
    queries, mixture = draw()
    rows = {"values": randn(1, V), "attn_mask": torch.arange(N)[None] < 4, "mask": torch.ones(1).bool()}
    given = {"values": randn(M, V), name: rows.get(name, torch.zeros(1).bool())}
    each = given | {name: given[name].expand(M, *given[name].shape[1:])}
    for moves in (("means",), EVERYTHING):
        actual = adapt(queries, mixture, moves=moves, steps=3, **given)
        expected = adapt(queries, mixture, moves=moves, steps=3, **each)
        torch.testing.assert_close(actual.mixture.means, expected.mixture.means, rtol=1e-10, atol=1e-10)


def test_empty_components_stay() -> None:
    queries, mixture = draw()
    far = replace(mixture, means=torch.cat([mixture.means[:-1], torch.full((1, D), 1e3).double()]))
    for priors in (ConjugatePriors(pseudo_counts=0.0), ConjugatePriors()):
        state = adapt(queries, far, steps=3, moves=EVERYTHING, priors=priors)
        torch.testing.assert_close(state.mixture.means[-1], far.means[-1])
        assert state.mixture.means.isfinite().all() and state.objective.isfinite().all()


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full"])
@pytest.mark.parametrize("prior_counts", [0.1, 1.0, 10.0])
def test_a_component_without_queries_keeps_its_variance(covariance: Any, prior_counts: float) -> None:
    queries, mixture = (
        randn(M, D),
        Mixture(
            torch.zeros(2).double(),
            torch.stack([torch.zeros(D), torch.full((D,), 1e3)]).double(),
            2 * torch.ones(2, 1).double(),
            noise_variance=0.0,
        ),
    )
    priors = ConjugatePriors(pseudo_counts=prior_counts)
    state = adapt(queries, mixture, steps=3, moves=("means", "variances"), covariance=covariance, priors=priors)
    expected = 2 * torch.eye(D).double() if covariance == "full" else torch.full_like(variances_of(state.mixture)[1], 2)
    torch.testing.assert_close(variances_of(state.mixture)[1], expected)


def test_component_on_one_query_keeps_a_variance() -> None:
    queries, _ = draw()
    queries[0] = 50.0
    mixture = Mixture(
        torch.zeros(2).double(), torch.stack([queries[0], queries[1]]), torch.ones(2, 1).double(), noise_variance=0.0
    )
    for covariance in ("isotropic", "diagonal", "full"):
        options: dict[str, Any] = {
            "moves": EVERYTHING,
            "covariance": covariance,
            "priors": ConjugatePriors(pseudo_counts=0.0),
        }
        state = adapt(queries, mixture, steps=10, **options)
        assert state.objective.isfinite().all() and evidence(queries, state.mixture).isfinite().all()


def test_center_of_the_step_before_climbs_the_likelihood_and_forgets_the_prior() -> None:
    queries, mixture = draw()
    previous = adapt(queries, mixture, steps=100, center="previous").mixture
    maximum = adapt(queries, mixture, steps=100, priors=ConjugatePriors(pseudo_counts=0.0)).mixture
    anchored = adapt(queries, mixture, steps=100).mixture
    likelihood = [float(evidence(queries, m).sum()) for m in (previous, maximum, anchored)]
    assert likelihood[0] == pytest.approx(likelihood[1], abs=0.05) and likelihood[0] > likelihood[2] + 0.1
    one = adapt(queries, mixture, steps=1, center="previous").mixture.means
    torch.testing.assert_close(one, adapt(queries, mixture, steps=1).mixture.means)


def test_one_name_is_a_sequence_of_one() -> None:
    queries, mixture = draw()
    one, other = (adapt(queries, mixture, steps=3, moves=moves) for moves in ("variances", ("variances",)))
    assert torch.equal(variances_of(one.mixture), variances_of(other.mixture))


@pytest.mark.parametrize("options", [{}, {"moves": EVERYTHING, "covariance": "full"}], ids=str)
def test_priors_alone_may_have_a_batch(options: dict[str, Any]) -> None:
    queries, mixture = draw()
    counts = rand(2, N)
    both = adapt(queries, mixture, steps=3, priors=ConjugatePriors(pseudo_counts=counts), **options)
    for index, own in enumerate(counts):
        alone = adapt(queries, mixture, steps=3, priors=ConjugatePriors(pseudo_counts=own), **options)
        torch.testing.assert_close(both.mixture.means[index], alone.mixture.means)
        torch.testing.assert_close(both.objective[index], alone.objective)


@pytest.mark.parametrize("moves", [("means",), EVERYTHING])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_objective_of_half_precision_is_a_number(dtype: torch.dtype, moves: Any) -> None:
    """The sum over 20,000 queries is beyond float16, which ends at 65504, and steps of bfloat16 are 512 there."""
    queries, mixture = draw()
    rounded, queries = in_dtype(mixture, dtype), torch.randn(20_000, D).to(dtype)
    state = adapt(queries, rounded, moves=moves, steps=3)
    exact = adapt(queries.double(), in_dtype(rounded, torch.double), moves=moves, steps=3)
    assert state.objective.dtype == state.counts.dtype == torch.float32 and state.mixture.means.dtype == dtype
    torch.testing.assert_close(state.objective, exact.objective.float(), rtol=1e-5, atol=0.1)
    torch.testing.assert_close(state.counts, exact.counts.float(), rtol=1e-3, atol=0.1)
    statistics = expected_statistics(Observations(queries), rounded)
    torch.testing.assert_close(statistics.counts.sum(), torch.tensor(20_000.0), rtol=1e-5, atol=0)


def test_tolerance_stops() -> None:
    queries, mixture = draw()
    state = adapt(queries, mixture, steps=1000, tolerance=1e-6)
    assert state.converged and 2 < state.objective.shape[-1] < 1000
    assert not adapt(queries, mixture, steps=2, tolerance=1e-12).converged
    still = adapt(queries, mixture, steps=0)
    assert still.objective.shape == (1,) and torch.equal(
        still.mixture.means.round(decimals=9), mixture.means.round(decimals=9)
    )


def test_variational_keys() -> None:
    """The bound is one: under the evidence by importance sampling of the keys; and the predictive is broader."""
    queries, mixture = draw()
    state = adapt(queries, mixture, steps=200, variational=True)
    total = variances_of(mixture) + 0.2
    counts = state.counts[:, None]
    torch.manual_seed(2)
    noise = randn(4000, N, D)
    posterior_sd, prior_sd = (total / (1 + counts)).sqrt(), total.sqrt()
    keys = state.mixture.means + posterior_sd * noise
    log_ratio = torch.distributions.Normal(mixture.means, prior_sd).log_prob(keys)
    log_ratio = log_ratio - torch.distributions.Normal(state.mixture.means, posterior_sd).log_prob(keys)
    draws = evidence(queries, replace(mixture, means=keys, variances=variances_of(mixture))).sum(-1)
    log_weights = draws + log_ratio.sum((-1, -2))
    collapsed, marginal = log_weights.mean(), log_weights.logsumexp(0) - math.log(len(noise))
    assert state.objective[-1] < collapsed + 3 * log_weights.std() / math.sqrt(len(noise)) < marginal + 0.5
    torch.testing.assert_close(variances_of(state.mixture) + 0.2, total * (1 + 1 / (1 + counts)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps is -1: give a whole number of at least 0"),
        ({"steps": 1.5}, "steps is 1.5: give a whole number"),
        ({"moves": ("keys",)}, "moves is 'keys': choose one of means, values, variances, weights"),
        ({"moves": ("values",)}, "values cannot be adapted if none is observed"),
        ({"covariance": "round"}, "covariance is 'round': choose one of isotropic, diagonal, full"),
        ({"center": "here"}, "center is 'here': choose one of initial, previous"),
        ({"variational": True, "moves": ("means", "weights")}, "the variational form adapts means alone"),
        ({"tolerance": -1.0}, "tolerance is -1.0: give a finite number of at least 0"),
        ({"tolerance": "small"}, "tolerance is 'small', a str: give a number"),
        ({"value_mask": torch.ones(M).bool()}, "value_mask marks known values, and there are none: give values too"),
        ({"moves": "keys"}, "moves is 'keys': choose one of means, values, variances, weights"),
        ({"priors": 1.0}, r"priors has type float: give pf.em.ConjugatePriors\(...\), or None"),
        (
            {"priors": ConjugatePriors(pseudo_counts=torch.ones(4))},
            r"pseudo_counts has shape \(4,\): give a number, or one for each of the 6 components",
        ),
        (
            {"priors": ConjugatePriors(value_pseudo_counts=torch.ones(5, 4))},
            r"value_pseudo_counts has shape \(5, 4\): give a number, or one for each of the 6 components",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    queries, mixture = draw()
    with pytest.raises(ValueError, match=message):
        adapt(queries, mixture, **options)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("attn_mask", torch.ones(3, M, N).bool()),
        ("values", torch.ones(3, M, V).double()),
        ("mask", torch.ones(3, M).bool()),
        ("priors", torch.ones(3, N)),
    ],
)
def test_leading_dimensions_that_do_not_fit(name: str, given: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    queries, mixture = draw(batch=(2,))
    options = {"priors": ConjugatePriors(pseudo_counts=given)} if name == "priors" else {name: given}
    with pytest.raises(
        ValueError, match=rf"the leading dimensions .*\(3,\) of {name}.* do not broadcast: give them alike"
    ):
        adapt(queries, mixture, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("attn_mask", torch.ones(3, N).bool(), rf"\({M}, {N}\)"),
        ("values", torch.ones(M, 5).double(), rf"\({M}, {V}\)"),
        ("mask", torch.ones(3).bool(), rf"\({M},\)"),
    ],
)
def test_shapes_that_do_not_fit(name: str, given: Tensor, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    queries, mixture = draw()
    with pytest.raises(ValueError, match=rf"{name} has shape .*: {M} queries and {N} components need .* {expected}"):
        adapt(queries, mixture, **{name: given})


def test_bad_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    queries, mixture = draw()
    with pytest.raises(ValueError, match="no component left"):
        adapt(queries, replace(mixture, mask=torch.zeros(N, dtype=torch.bool)))
    with pytest.raises(ValueError, match="a query's variance is 0: give a positive one"):
        adapt(queries, replace(mixture, variances=torch.zeros(N, 1, dtype=torch.double), noise_variance=0.0))
    with pytest.raises(ValueError, match="variances is -1.0: give finite numbers of at least 0"):
        adapt(queries, replace(mixture, variances=-torch.ones(N, 1, dtype=torch.double)))
    with pytest.raises(ValueError, match="queries have 2 dimensions and the mixture's vectors 3"):
        adapt(queries[:, :2], mixture)
    with pytest.raises(ValueError, match="rate is -1.0: give a finite number of at least 0"):
        ConjugatePriors(rate=-1.0)
    with pytest.raises(ValueError, match="there are no queries"):
        adapt(queries[:0], mixture)


def test_the_objective_has_the_prior_of_means_where_variances_alone_move() -> None:
    """A mean at its prior's has the density N(mu; mu, V / kappa), and 1 / V has the rate D V0 / 2."""
    queries, mixture = torch.randn(30, 3).double(), Mixture(torch.zeros(2).double(), torch.randn(2, 3).double())
    state = adapt(queries, mixture, moves=("variances",), steps=4)
    assert isinstance(state.mixture.variances, Tensor) and (state.objective.diff() >= 0).all()
    ratio = state.mixture.variances[:, 0] / mixture.query_variance
    prior = (-0.5 * 3 * ratio.log() - 0.5 * 3 * (1 / ratio - 1)).sum()
    before, after = (evidence(queries, each).sum() for each in (mixture, state.mixture))
    torch.testing.assert_close(state.objective[-1] - state.objective[0], after - before + prior)


def test_steps_go_on_until_the_last_problem_has_converged() -> None:
    queries = torch.stack([torch.zeros(6, 1), torch.linspace(-2, 2, 6)[:, None]])
    keys = torch.tensor([[0.0], [0.1]])
    mixture = Mixture(torch.zeros(2), torch.stack([0 * keys, keys]), noise_variance=1.0)
    options: dict[str, Any] = {"tolerance": 1e-6, "steps": 50}
    both = adapt(queries, mixture, **options).objective.shape[-1]
    first, second = (
        adapt(queries[i], replace(mixture, means=mixture.means[i]), **options).objective.shape[-1] for i in (0, 1)
    )
    assert first == 2 and both == second > 3


def test_scale_is_that_of_the_components_that_are_present() -> None:
    mask = torch.tensor([True, True, False])
    mixture = Mixture(torch.zeros(3), torch.randn(3, 2), torch.tensor([[4.0], [2.0], [9.0]]), mask, noise_variance=1.0)
    assert scale_of(torch.tensor(0.5), mixture) == 0.5 + (5 + 3) / 2
