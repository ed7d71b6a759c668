"""Amortized posteriors of the mixture: where each starts, what each learns, and what none can."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from guide_gap import guide_gap
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from pyroformer.guides.mixture_attention import AssignmentGuide, KeyGuide, ValueGuide
from pyroformer.inference.em import ConjugatePriors, adapt
from pyroformer.inference.svi import SVI
from pyroformer.models.attention import bayes_rule, chunked
from pyroformer.models.attention.attend import attend
from pyroformer.models.attention.bayes_rule import posterior_mean, posterior_variance
from pyroformer.models.attention.log_space import normalized
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.mixture_attention.model import MixtureAttention
from pyroformer.models.priors.components import GaussianVectors

COMPONENTS, TOKENS, WIDTH, VALUES = 4, 12, 2, 2

in_each_batch = pytest.mark.parametrize("batch", [(), (2, 3)], ids=["single", "batched"])


@pytest.fixture(autouse=True)
def double(isolated: None) -> Iterator[None]:
    """Pyro adds the terms of an enumerated ELBO up in the default dtype."""
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


def draw(batch: tuple[int, ...] = (), variances: str = "shared") -> Mixture:
    own = {"component": (*batch, COMPONENTS, 1), "diagonal": (*batch, COMPONENTS, WIDTH), "shared": (1, 1)}[variances]
    return Mixture(
        torch.randn(*batch, COMPONENTS).log_softmax(-1),
        torch.randn(*batch, COMPONENTS, WIDTH), torch.rand(own) * 2 + 0.1,
        noise_variance=0.1, values=2 * torch.randn(*batch, COMPONENTS, VALUES),
        value_variances=torch.rand(*batch, COMPONENTS, 1) + 0.2,
    )  # fmt: skip


def queries(*batch: int, tokens: int = TOKENS) -> Tensor:
    return 1.5 * torch.randn(*batch, tokens, WIDTH)


def elbo(batch: tuple[int, ...] = (), **options: Any) -> TraceEnum_ELBO:
    return TraceEnum_ELBO(max_plate_nesting=1 + len(batch), **options)


def train(model: MixtureAttention, guide: nn.Module, steps: int, lr: float, data: Callable[[], Tensor]) -> None:
    svi = SVI(model, guide, torch.optim.Adam, loss=elbo(), lr=lr)
    for _ in range(steps):
        svi.step(data())


def fresh() -> Tensor:
    return queries(tokens=200)


# ---------------------------------------------------------------- assignments


@in_each_batch
@pytest.mark.parametrize("free_values", [False, True])
@pytest.mark.parametrize("variances, features", [("shared", "linear"), ("component", "norm"), ("diagonal", "squares")])
def test_attention_is_the_optimal_guide(
    batch: tuple[int, ...], free_values: bool, variances: str, features: Any
) -> None:
    model = MixtureAttention(draw(batch, variances), free_values=free_values)
    guide, observed = AssignmentGuide(model, features), queries(*batch)
    assert abs(guide_gap(model, guide, observed)) < 1e-10
    assert abs(guide_gap(model, guide, observed, num_particles=2)) < 1e-10


def test_dot_product_guide_is_softmax_attention() -> None:
    keys, observed = torch.randn(COMPONENTS, WIDTH), queries()
    guide = AssignmentGuide(MixtureAttention(Mixture.from_attention(keys, keys)))
    expected = (observed @ keys.T / WIDTH**0.5).softmax(-1)
    torch.testing.assert_close(guide.logits(observed).softmax(-1), expected, rtol=1e-12, atol=1e-12)


@in_each_batch
def test_gap_counts_what_is_seen(batch: tuple[int, ...]) -> None:
    model = MixtureAttention(draw(batch))
    attn_mask = torch.ones(TOKENS, COMPONENTS, dtype=torch.bool).tril()
    attn_mask[5] = False  # sees nothing
    mask = torch.arange(TOKENS) != 7
    observed = queries(*batch)
    observed[..., 7, :] = torch.nan
    options = {"attn_mask": attn_mask, "mask": mask}
    assert abs(guide_gap(model, AssignmentGuide(model), observed, **options)) < 1e-10
    other = AssignmentGuide(model, start="random")
    counted = attn_mask.any(-1) & mask
    fewer = guide_gap(model, other, observed[..., counted, :], attn_mask=attn_mask[counted])
    torch.testing.assert_close(guide_gap(model, other, observed, **options), fewer, rtol=1e-10, atol=1e-10)


def test_gap_is_the_divergence_from_the_posterior() -> None:
    model, observed = MixtureAttention(draw()), queries()
    exact, other = AssignmentGuide(model), AssignmentGuide(model, start="random")
    log_q, log_p = (guide.logits(observed).log_softmax(-1) for guide in (other, exact))
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    torch.testing.assert_close(guide_gap(model, other, observed), divergence.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_affine_guide_learns_attention() -> None:
    model = MixtureAttention(draw())
    guide, held_out = AssignmentGuide(model, start="random"), queries(tokens=500)
    before = guide_gap(model, guide, held_out)
    train(model, guide, 200, 0.1, fresh)
    after = guide_gap(model, guide, held_out)
    assert before > 0.1
    assert 0 <= after < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("variances, enough", [("component", "norm"), ("diagonal", "squares")])
def test_precisions_of_their_own_need_squares(variances: str, enough: Any) -> None:
    """Training on the queries that are measured, so that what is left is the best that the features can do."""
    model, observed = MixtureAttention(draw(variances=variances)), queries(tokens=300)
    left = {}
    for features in ("linear", enough):
        guide = AssignmentGuide(model, features, start="random")
        objective = elbo()(model, guide)
        optimizer = torch.optim.LBFGS(objective.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure(objective: nn.Module = objective, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = objective(observed)
            loss.backward()
            return loss

        optimizer.step(closure)
        left[features] = guide_gap(model, guide, observed)
    assert 0 <= left[enough] < 1e-3
    assert left["linear"] > 5e-3


def test_an_absent_component_has_a_finite_bias() -> None:
    log_weights = torch.tensor([-math.inf, 0.3, -1.0, 0.2]).log_softmax(-1)
    model = MixtureAttention(replace(draw(), log_weights=log_weights))
    guide, observed = AssignmentGuide(model), queries()
    assert guide.bias.isfinite().all() and abs(guide_gap(model, guide, observed)) < 1e-10


def test_guide_of_assignments_starts_where_its_features_can() -> None:
    model, observed = MixtureAttention(draw(variances="component")), queries(tokens=500)
    exact, affine = AssignmentGuide(model, "norm"), AssignmentGuide(model, "linear")
    assert guide_gap(model, affine, observed) > guide_gap(model, exact, observed) + 0.01


# ---------------------------------------------------------------- values


@in_each_batch
def test_value_guide_starts_at_the_moments_of_attention(batch: tuple[int, ...]) -> None:
    mixture, observed = draw(batch, "component"), queries(*batch)
    mean, scale = ValueGuide(MixtureAttention(mixture, free_values=True)).moments(observed)
    torch.testing.assert_close(mean, attend(observed, mixture))
    torch.testing.assert_close(scale.square(), attend(observed, mixture, returns="variance"))
    everything = torch.ones(TOKENS, COMPONENTS, dtype=torch.bool)
    seen = ValueGuide(MixtureAttention(mixture, free_values=True)).moments(observed, everything)
    torch.testing.assert_close(seen[0], mean)
    torch.testing.assert_close(seen[1], scale)


def test_value_guide_sees_variances_far_below_the_values() -> None:
    means = torch.tensor([[-6.0, 0.0], [0.0, 0.0], [6.0, 0.0]], dtype=torch.float)
    mixture = Mixture(
        torch.zeros(3, dtype=torch.float).log_softmax(-1), means, noise_variance=0.5,
        values=torch.tensor([[100.0], [-101.0], [99.5]], dtype=torch.float),
        value_variances=torch.full((1, 1), 1e-4, dtype=torch.float),
    )  # fmt: skip
    scale = ValueGuide(MixtureAttention(mixture, free_values=True)).moments(means)[1]
    torch.testing.assert_close(scale, torch.full((3, 1), 0.01, dtype=torch.float), rtol=1e-3, atol=0)


def test_value_guide_has_the_moments_of_bayes_rule_in_chunks_of_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, mask, observed = draw((2, 3), "diagonal"), torch.rand(2, 3, COMPONENTS) > 0.2, queries(2, 3, tokens=90)
    mixture = replace(mixture, log_weights=normalized(mixture.log_weights, mask), mask=mask)
    seen = torch.rand(90, COMPONENTS) > 0.3
    guide = ValueGuide(MixtureAttention(mixture, free_values=True))
    monkeypatch.setattr(chunked, "_entries", lambda device: 1)
    monkeypatch.setattr(bayes_rule, "_log_density", None)  # takes entries for each query, component and dimension
    mean, scale = guide.moments(observed, seen)
    monkeypatch.undo()
    variance = posterior_variance(observed, mixture, seen)
    torch.testing.assert_close(mean, posterior_mean(observed, mixture, seen))
    torch.testing.assert_close(scale.square(), torch.where(variance > 0, variance, 1))


@pytest.mark.slow
def test_gap_of_the_value_guide_falls() -> None:
    model = MixtureAttention(draw(), free_values=True)
    guide, held_out = ValueGuide(model), queries(tokens=200)
    measure = lambda: float(guide_gap(model, guide, held_out, num_particles=1000))  # noqa: E731  standard error about 0.002
    before = measure()
    train(model, guide, 200, 0.02, fresh)
    after = measure()
    assert 0 < after < before - 0.01 < torch.inf


@in_each_batch
def test_value_guide_goes_with_known_values(batch: tuple[int, ...]) -> None:
    model = MixtureAttention(draw(batch), free_values=True)
    values, value_mask = torch.randn(*batch, TOKENS, VALUES), torch.arange(TOKENS) % 2 == 0
    observed, guide = queries(*batch), ValueGuide(model)
    attn_mask = torch.ones(TOKENS, COMPONENTS, dtype=torch.bool).tril()
    attn_mask[3] = False
    for options in ({}, {"attn_mask": attn_mask}, {"mask": torch.arange(TOKENS) > 3}):
        found = guide_gap(model, guide, observed, values, value_mask, num_particles=200, **options)
        assert 0 < found < 5
    hidden = torch.where(torch.arange(TOKENS)[:, None] > 3, observed, torch.nan)  # what a mask hides may be anything
    assert math.isfinite(guide_gap(model, guide, hidden, values, value_mask, mask=torch.arange(TOKENS) > 3))
    everywhere = guide_gap(model, guide, observed, values)  # nothing is left to guess, nor to miss
    assert abs(everywhere) < 1e-10


# ---------------------------------------------------------------- keys


PRIORS = ConjugatePriors(pseudo_counts=0.7)


@in_each_batch
def test_key_guide_starts_at_the_variational_posterior(batch: tuple[int, ...]) -> None:
    mixture, observed = draw(batch, "component"), queries(*batch)
    model = MixtureAttention.conjugate(mixture, PRIORS)
    mean, scale = KeyGuide(model, steps=30).moments(observed)
    end = adapt(observed, mixture, steps=30, priors=PRIORS, variational=True)
    torch.testing.assert_close(mean, end.mixture.means, rtol=1e-8, atol=1e-8)
    total = (mixture.dense_variances() + 0.1).expand(scale.shape)
    # the predictive variance of EM is that of a query and that of its key
    predictive = end.mixture.dense_variances() + end.mixture.query_variance
    torch.testing.assert_close(total + scale.square(), predictive.expand(scale.shape))


def test_key_guide_starts_at_the_variational_bound_and_collapsing_tightens_it() -> None:
    mixture, observed = draw(variances="component"), queries()
    model = MixtureAttention.conjugate(mixture, PRIORS)
    bounds = {}
    for assignment in (True, False):
        guide = KeyGuide(model, assignment=assignment)
        torch.manual_seed(1)  # the same draws of the keys
        loss = elbo(num_particles=300, vectorize_particles=True)
        bounds[assignment] = torch.tensor([-loss.loss(model, guide, observed) for _ in range(10)])
    # EM's objective has the log determinant of the prior as a constant
    end = adapt(observed, mixture, steps=guide.steps, priors=PRIORS, variational=True)
    log_det = WIDTH * (mixture.dense_variances() + 0.1).log().sum()
    expected = end.objective[-1] + 0.5 * log_det
    standard_error = bounds[True].std() / 10**0.5
    assert standard_error < 0.1
    assert abs(bounds[True].mean() - expected) < 5 * standard_error
    assert (bounds[False] > bounds[True]).all()  # for the same draws, by Jensen's inequality
    assert bounds[False].mean() > expected


@pytest.mark.slow
@in_each_batch
def test_training_the_key_guide_does_not_loosen_the_bound(batch: tuple[int, ...]) -> None:
    model, observed = MixtureAttention.conjugate(draw(batch, "component"), PRIORS), queries(*batch)
    guide = KeyGuide(model, steps=5)

    def bound() -> float:
        torch.manual_seed(2)
        return -elbo(batch, num_particles=2000, vectorize_particles=True).loss(model, guide, observed)

    before = bound()
    loss = elbo(batch, num_particles=20, vectorize_particles=True)
    svi = SVI(model, guide, torch.optim.Adam, loss=loss, lr=1e-2)
    for _ in range(30):
        svi.step(observed)
    assert bound() >= before


def test_key_guide_reads_annotations_and_masks() -> None:
    model, observed = MixtureAttention.conjugate(draw(), PRIORS), queries()
    guide = KeyGuide(model, steps=5)
    values, value_mask = torch.randn(TOKENS, VALUES), torch.arange(TOKENS) % 2 == 0
    plain = guide.moments(observed)[0]
    assert not torch.allclose(guide.moments(observed, values, value_mask)[0], plain)
    mask = torch.arange(TOKENS) < 5
    masked = guide.moments(observed, mask=mask)
    alone = guide.moments(observed[:5])
    torch.testing.assert_close(masked, alone)
    attn_mask = mask[:, None].expand(TOKENS, COMPONENTS)
    torch.testing.assert_close(guide.moments(observed, attn_mask=attn_mask), alone)
    both = KeyGuide(model, assignment=True)
    for options in ({"mask": mask}, {"attn_mask": attn_mask}):
        assert elbo().loss(model, both, observed, values, value_mask, **options) < torch.inf


# ---------------------------------------------------------------- all of them


def pairs(batch: tuple[int, ...]) -> dict[str, tuple[MixtureAttention, nn.Module]]:
    mixture = draw(batch, "component")
    plain, free = MixtureAttention(mixture), MixtureAttention(mixture, free_values=True)
    conjugate = MixtureAttention.conjugate(mixture)
    return {
        "linear": (plain, AssignmentGuide(plain, start="random")),
        "norm": (plain, AssignmentGuide(plain, "norm", start="random")),
        "squares with values": (free, AssignmentGuide(free, "squares", start="random")),
        "values": (free, ValueGuide(free)),
        "keys": (conjugate, KeyGuide(conjugate)),
        "keys and assignments": (conjugate, KeyGuide(conjugate, assignment=True)),
    }


NAMES = ["linear", "norm", "squares with values", "values", "keys", "keys and assignments"]


@in_each_batch
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(batch: tuple[int, ...], name: str) -> None:
    model, guide = pairs(batch)[name]
    observed = queries(*batch)
    objective = elbo(batch)(model, guide)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    for _ in range(2):  # what feeds a layer of zeros gets its first gradient at the second step
        optimizer.zero_grad()
        objective(observed).backward()
        optimizer.step()
    for parameter, value in guide.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all() and (value.grad != 0).any(), parameter
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_saving_and_loading_keeps_the_bound(name: str) -> None:
    model, guide = pairs(())[name]
    observed = queries()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.manual_seed(3)
    expected = elbo().loss(model, guide, observed)
    other_model, other = pairs(())[name]
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(guide.state_dict())
    torch.manual_seed(3)
    assert elbo().loss(other_model, other, observed) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m: AssignmentGuide(m, "cubes"), "features is 'cubes': choose one of linear, norm, squares"),
        (lambda m: AssignmentGuide(m, start="zero"), "start is 'zero': choose one of attention, random"),
        (lambda m: ValueGuide(m), "the model's values are not sites: make it with free_values=True"),
        (lambda m: KeyGuide(m), "needs keys with GaussianVectors as their prior"),
        (
            lambda _: KeyGuide(MixtureAttention.conjugate(draw()), steps=0),
            "steps is 0: give a whole number of at least 1",
        ),
        (
            lambda _: KeyGuide(MixtureAttention.conjugate(draw(), moves=("means", "values"))),
            "KeyGuide draws no values, which the model does",
        ),
        (
            lambda _: KeyGuide(MixtureAttention(draw(), keys=GaussianVectors(draw().means), free_values=True)),
            "KeyGuide draws no free values, which the model does",
        ),
        (
            lambda _: AssignmentGuide(MixtureAttention.conjugate(draw(), moves=("means", "weights"))),
            "AssignmentGuide draws no weights and no keys, which the model does",
        ),
        (
            lambda _: ValueGuide(MixtureAttention(draw(), precision=dist.Gamma(2.0, 1.0), free_values=True)),
            "ValueGuide draws no precision, which the model does",
        ),
        (
            lambda _: KeyGuide(MixtureAttention.conjugate(draw())).moments(queries(3)),
            "queries have 1 leading dimensions and keys 0",
        ),
    ],
)
def test_bad_input(make: Callable[[MixtureAttention], object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        make(MixtureAttention(draw()))


def test_a_mixture_of_normals_is_what_the_value_guide_misses() -> None:
    """With one component there is nothing to miss: the guide's start is the posterior."""
    mixture = Mixture(
        torch.zeros(1), torch.randn(1, WIDTH), torch.ones(1, 1), noise_variance=0.0,
        values=torch.randn(1, VALUES), value_variances=torch.full((1, 1), 0.3),
    )  # fmt: skip
    model = MixtureAttention(mixture, free_values=True)
    assert abs(guide_gap(model, ValueGuide(model), queries())) < 1e-10
