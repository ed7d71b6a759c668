"""The generative model of attention, against closed forms, EM, torch's mixtures and Pyro's own inference."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, infer_discrete
from pyro.infer.autoguide import AutoDelta
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor, nn

from pyroformer.guides.automatic import Automatic
from pyroformer.inference.em import ConjugatePriors, adapt
from pyroformer.inference.svi import SVI
from pyroformer.models.attention.bayes_rule import evidence, log_joint, responsibilities
from pyroformer.models.attention.log_space import normalized
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.attention.variances import Covariances, SharedVariances
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.mixture_attention.model import MixtureAttention
from pyroformer.models.priors.components import GaussianVectors

COMPONENTS, TOKENS, WIDTH, VALUES = 4, 9, 3, 2
BATCHES = [(), (2, 3)]

in_each_batch = pytest.mark.parametrize("batch", BATCHES, ids=["single", "batched"])


@pytest.fixture(autouse=True)
def double(isolated: None) -> Iterator[None]:
    """Pyro adds the terms of an enumerated ELBO up in the default dtype."""
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.double) + 0.5


def draw(batch: tuple[int, ...] = (), variances: str = "component") -> Mixture:
    shapes = {"component": (*batch, COMPONENTS, 1), "diagonal": (*batch, COMPONENTS, WIDTH), "shared": (1, 1)}
    own = {name: rand(*shape) for name, shape in shapes.items()}[variances]
    return Mixture(
        randn(*batch, COMPONENTS).log_softmax(-1), randn(*batch, COMPONENTS, WIDTH), own, noise_variance=0.3,
        values=randn(*batch, COMPONENTS, VALUES), value_variances=rand(*batch, COMPONENTS, 1),
    )  # fmt: skip


def observed(batch: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor]:
    value_mask = torch.arange(TOKENS) % 3 == 0
    return 1.5 * randn(*batch, TOKENS, WIDTH), randn(*batch, TOKENS, VALUES), value_mask.expand(*batch, TOKENS)


def elbo(batch: tuple[int, ...] = (), **options: Any) -> TraceEnum_ELBO:
    return TraceEnum_ELBO(max_plate_nesting=1 + len(batch), **options)


def nothing(*args: Any, **kwargs: Any) -> None:
    """The guide of a model in which nothing but the assignment is latent."""


def point_masses(model: MixtureAttention, values: dict[str, Tensor] | None = None) -> Automatic:
    start = {} if values is None else {"init_loc_fn": init_to_value(values=values)}
    return Automatic(model, AutoDelta, **start)


def assert_close(actual: Tensor | float, expected: Tensor | float, tolerance: float = 1e-10) -> None:
    actual, expected = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def log_prior(model: MixtureAttention, draws: dict[str, Tensor]) -> Tensor:
    """The log density of the components' sites, by Pyro's trace of the model run on them."""
    conditioned = poutine.condition(poutine.block(model, hide=["assignment", "query", "value"]), data=draws)
    return poutine.trace(conditioned).get_trace().log_prob_sum()


# ---------------------------------------------------------------- the log joint


@in_each_batch
@pytest.mark.parametrize("variances", ["component", "diagonal", "shared"])
def test_loss_is_minus_the_evidence_where_nothing_has_a_prior(batch: tuple[int, ...], variances: str) -> None:
    mixture, (queries, values, value_mask) = draw(batch, variances), observed(batch)
    model = MixtureAttention(mixture)
    assert_close(elbo(batch).loss(model, nothing, queries), -evidence(queries, mixture).sum())
    known = evidence(queries, mixture, None, values, value_mask).sum()
    assert_close(elbo(batch).loss(model, nothing, queries, values, value_mask), -known)


@in_each_batch
def test_loss_of_point_masses_is_minus_the_log_joint(batch: tuple[int, ...]) -> None:
    mixture, data = draw(batch), observed(batch)
    model = MixtureAttention(
        mixture,
        keys=GaussianVectors(mixture.means, 0.7),
        values=GaussianVectors(mixture.values, 0.4),
        precision=dist.Gamma(2.0, 1.5),
        weights=dist.Dirichlet(torch.full((COMPONENTS,), 1.3)),
    )
    draws = {
        "keys": randn(*batch, COMPONENTS, WIDTH),
        "values": randn(*batch, COMPONENTS, VALUES),
        "precision": rand(*batch, COMPONENTS),
        "weights": randn(*batch, 1, COMPONENTS).softmax(-1) if batch else randn(COMPONENTS).softmax(-1),
    }
    precision, prior_counts = draws["precision"][..., None], 0.7
    by_hand = dist.Normal(mixture.means, (prior_counts * precision).rsqrt()).log_prob(draws["keys"]).sum()
    value_scale = (mixture.value_variances / 0.4).sqrt()
    by_hand += dist.Normal(mixture.values, value_scale).log_prob(draws["values"]).sum()
    by_hand += dist.Gamma(2.0, 1.5).log_prob(draws["precision"]).sum()
    by_hand += dist.Dirichlet(torch.full((COMPONENTS,), 1.3)).log_prob(draws["weights"]).sum()
    at = model.mixture(draws)
    by_hand += evidence(data[0], at, None, data[1], data[2]).sum()
    guide = point_masses(model, draws)
    assert_close(elbo(batch).loss(model, guide, *data), -by_hand)


@in_each_batch
def test_marginals_of_the_assignment_are_the_attention_matrix(batch: tuple[int, ...]) -> None:
    mixture, (queries, values, value_mask) = draw(batch), observed(batch)
    model = MixtureAttention(mixture)
    alone = elbo(batch).compute_marginals(model, nothing, queries)["assignment"].probs
    assert_close(alone, responsibilities(queries, mixture))
    both = elbo(batch).compute_marginals(model, nothing, queries, values, value_mask)["assignment"].probs
    assert_close(both, responsibilities(queries, mixture, None, values, value_mask))


def test_attention_is_softmax_attention() -> None:
    queries, keys = randn(TOKENS, WIDTH), randn(COMPONENTS, WIDTH)
    model = MixtureAttention(Mixture.from_attention(keys, keys))
    attention = elbo().compute_marginals(model, nothing, queries)["assignment"].probs
    assert_close(attention, (queries @ keys.T / WIDTH**0.5).softmax(-1))


def test_torch_mixture_agrees() -> None:
    mixture, (queries, _, _) = draw(variances="diagonal"), observed()
    components = dist.Normal(mixture.means, (mixture.dense_variances() + 0.3).sqrt()).to_event(1)
    distribution = dist.MixtureSameFamily(dist.Categorical(logits=mixture.log_weights), components)

    def collapsed(queries: Tensor) -> None:
        with pyro.plate("tokens", TOKENS, dim=-1):
            pyro.sample("query", distribution, obs=queries)

    expected = Trace_ELBO().loss(collapsed, nothing, queries)
    assert_close(elbo().loss(MixtureAttention(mixture), nothing, queries), expected)


def test_queries_may_share_a_bank() -> None:
    mixture, (queries, values, value_mask) = draw((3,)), observed((2, 3))
    loss = elbo((2, 3)).loss(MixtureAttention(mixture), nothing, queries, values, value_mask)
    assert_close(loss, -evidence(queries, mixture, None, values, value_mask).sum())
    conjugate = MixtureAttention.conjugate(mixture)
    guide = point_masses(conjugate, {"keys": mixture.means})
    prior = log_prior(conjugate, {"keys": mixture.means})
    assert prior.isfinite()
    assert_close(elbo((2, 3)).loss(conjugate, guide, queries), -(evidence(queries, mixture).sum() + prior))


def test_group_variances_are_written_out() -> None:
    mixture, (queries, _, _) = draw(), observed()
    grouped = replace(mixture, variances=SharedVariances(rand(2, WIDTH), torch.tensor([0, 1, 1, 1])))
    assert_close(elbo().loss(MixtureAttention(grouped), nothing, queries), -evidence(queries, grouped).sum())


# ---------------------------------------------------------------- what cannot be seen


@in_each_batch
def test_what_is_visible_is_drawn_among(batch: tuple[int, ...]) -> None:
    mixture, (queries, values, value_mask) = draw(batch), observed(batch)
    attn_mask = torch.ones(TOKENS, COMPONENTS, dtype=torch.bool).tril()
    model = MixtureAttention(mixture)
    options = {"attn_mask": attn_mask}
    marginals = elbo(batch).compute_marginals(model, nothing, queries, values, value_mask, **options)
    expected = responsibilities(queries, mixture, attn_mask, values, value_mask)
    assert_close(marginals["assignment"].probs, expected)
    share = torch.where(attn_mask, mixture.log_weights[..., None, :], -torch.inf).logsumexp(-1)
    by_hand = (evidence(queries, mixture, attn_mask, values, value_mask) - share).sum()
    assert_close(elbo(batch).loss(model, nothing, queries, values, value_mask, **options), -by_hand)


@in_each_batch
def test_queries_that_see_nothing_or_do_not_count_change_nothing(batch: tuple[int, ...]) -> None:
    mixture, (queries, values, value_mask) = draw(batch), observed(batch)
    model = MixtureAttention.conjugate(mixture, moves=("means", "values"))
    keys = mixture.means.clone()
    fewer = slice(0, TOKENS - 2)

    def loss_and_gradient(*args: Tensor, **options: Tensor) -> tuple[Tensor, Tensor]:
        guide = point_masses(model, {"keys": keys, "values": mixture.values})
        objective = elbo(batch)(model, guide)
        loss = objective(*args, **options)
        loss.backward()
        gradient = next(iter(guide.parameters())).grad
        assert gradient is not None
        return loss.detach(), gradient

    queries[..., TOKENS - 2 :, :] = torch.nan  # padding may hold anything
    rows = torch.arange(TOKENS) < TOKENS - 2
    attn_mask = rows[:, None].expand(TOKENS, COMPONENTS)
    expected = loss_and_gradient(queries[..., fewer, :], values[..., fewer, :], value_mask[..., fewer])
    for options in ({"mask": rows}, {"attn_mask": attn_mask}):
        loss, gradient = loss_and_gradient(queries, values, value_mask, **options)
        assert_close(loss, expected[0])
        assert_close(gradient, expected[1])


def test_masked_components_are_absent() -> None:
    mixture, (queries, values, value_mask) = draw((2, 3)), observed((2, 3))
    mask = torch.tensor([True, True, False, True]).expand(2, 3, COMPONENTS)
    weights = torch.where(mask, mixture.log_weights, -torch.inf).log_softmax(-1)
    rows = ("means", "variances", "values", "value_variances")
    anything = {name: torch.where(mask[..., None], getattr(mixture, name), torch.nan) for name in rows}
    masked = replace(mixture, log_weights=weights, mask=mask, **anything)
    loss = elbo((2, 3)).loss(MixtureAttention(masked), nothing, queries, values, value_mask)
    assert_close(loss, -evidence(queries, masked, None, values, value_mask).sum())


def test_values_that_are_not_known_may_be_anything() -> None:
    mixture, (queries, values, value_mask) = draw(), observed()
    model = MixtureAttention(mixture)
    expected = elbo().loss(model, nothing, queries, values, value_mask)
    unknown = torch.where(value_mask[:, None], values, torch.nan)
    assert_close(elbo().loss(model, nothing, queries, unknown, value_mask), expected)


# ---------------------------------------------------------------- EM


PRIORS = ConjugatePriors(pseudo_counts=0.8, value_pseudo_counts=0.5, shape=2.0, rate=0.7, concentration=1.4)
MOVES = ("means", "values", "variances", "weights")


def objective(mixture: Mixture, data: tuple[Tensor, ...], start: Mixture) -> Tensor:
    """EM's J of a mixture, up to a constant: what `adapt` reports before its first step, with the priors at start."""
    queries, values, value_mask = data
    precision = 1 / (mixture.dense_variances() + mixture.query_variance)
    j = evidence(queries, mixture, None, values, value_mask).sum()
    moved = (mixture.means - start.means).square()
    j = j + 0.5 * (WIDTH * precision.log() - PRIORS.pseudo_counts * precision * moved.sum(-1, keepdim=True)).sum()
    j = j + ((PRIORS.shape - 1) * precision.log() - PRIORS.rate * precision).sum()
    j = j - 0.5 * PRIORS.value_pseudo_counts * ((mixture.values - start.values).square() / start.value_variances).sum()
    return j + (PRIORS.concentration - 1) * mixture.log_weights.sum()


def sites(mixture: Mixture, batch: tuple[int, ...]) -> dict[str, Tensor]:
    weights = mixture.log_weights.exp()
    return {
        "keys": mixture.means,
        "values": mixture.values,
        "precision": 1 / (mixture.dense_variances() + mixture.query_variance)[..., 0],
        "weights": weights[..., None, :] if batch else weights,
    }


@in_each_batch
def test_loss_differs_from_the_objective_of_em_by_a_constant(batch: tuple[int, ...]) -> None:
    start, data = draw(batch), observed(batch)
    model = MixtureAttention.conjugate(start, PRIORS, MOVES)
    queries, values, value_mask = data
    options: Any = {"values": values, "value_mask": value_mask, "moves": MOVES, "priors": PRIORS}
    constants = []
    for steps in (0, 1, 7):
        end = adapt(queries, start, steps=steps, **options)
        loss = elbo(batch).loss(model, point_masses(model, sites(end.mixture, batch)), *data)
        constants.append(end.objective[..., -1].sum() + loss)
    assert_close(constants[1], constants[0], 1e-9)
    assert_close(constants[2], constants[0], 1e-9)


@in_each_batch
@pytest.mark.parametrize("moves", [("variances",), ("weights", "variances"), ("weights",), ("weights", "means")])
def test_parts_that_move_alone_and_absent_components(batch: tuple[int, ...], moves: tuple[Any, ...]) -> None:
    start, (queries, _, _) = draw(batch), observed(batch)
    start = replace(start, log_weights=normalized(start.log_weights, torch.arange(COMPONENTS) != 1))
    model = MixtureAttention.conjugate(start, PRIORS, moves)
    constants = []
    for steps in (0, 7):
        end = adapt(queries, start, steps=steps, moves=moves, priors=PRIORS)
        draws = sites(end.mixture, batch)
        draws["precision"][..., 1] = 1.0  # of the absent one, which EM leaves out
        names = {"means": "keys", "variances": "precision", "weights": "weights"}
        given = poutine.condition(model, {name: draws[name] for name in map(names.get, moves)})
        constants.append(end.objective[..., -1].sum() + elbo(batch).loss(given, nothing, queries))
    assert constants[0].isfinite()
    assert_close(constants[1], constants[0], 1e-9)


@in_each_batch
def test_gradient_of_the_loss_is_that_of_the_log_joint(batch: tuple[int, ...]) -> None:
    start, data = draw(batch), observed(batch)
    model = MixtureAttention.conjugate(start, PRIORS, ("means", "values"))
    keys, values = randn(*start.means.shape), randn(*start.values.shape)
    guide = point_masses(model, {"keys": keys, "values": values})
    elbo(batch)(model, guide)(*data).backward()
    found = {name: parameter.grad for name, parameter in guide.named_parameters()}
    keys, values = keys.requires_grad_(), values.requires_grad_()
    objective(replace(start, means=keys, values=values), data, start).backward()
    assert_close(found["guide.keys_unconstrained"], -keys.grad)
    assert_close(found["guide.values_unconstrained"], -values.grad)


def test_gradient_is_zero_where_em_ends() -> None:
    start, data = draw(), observed()
    queries, values, value_mask = data
    options: Any = {"values": values, "value_mask": value_mask, "moves": MOVES, "priors": PRIORS}
    end = adapt(queries, start, steps=3000, tolerance=0.0, **options).mixture
    model = MixtureAttention.conjugate(start, PRIORS, MOVES)
    guide = point_masses(model, sites(end, ()))
    elbo()(model, guide)(*data).backward()
    gradients = [parameter.grad for parameter in guide.parameters()]
    assert len(gradients) == 4
    for gradient in gradients:
        assert_close(gradient, torch.zeros_like(gradient), 1e-5)


@pytest.mark.slow
def test_em_does_not_move_from_where_svi_ends() -> None:
    start, data = draw(), observed()
    queries, values, value_mask = data
    priors = ConjugatePriors(pseudo_counts=0.8, value_pseudo_counts=0.5)
    model = MixtureAttention.conjugate(start, priors, ("means", "values"))
    guide = point_masses(model, {"keys": start.means, "values": start.values})
    svi = SVI(model, guide, torch.optim.Adam, loss=elbo(), lr=0.05)
    losses = [svi.step(*data) for _ in range(300)]
    assert losses[-1] < losses[0] - 0.1
    end = model.mixture(guide.median())
    stepped = em_step(end, start, data, priors)
    assert_close(stepped.means, end.means, 1e-5)
    assert_close(stepped.values, end.values, 1e-5)


def em_step(at: Mixture, start: Mixture, data: tuple[Tensor, ...], priors: ConjugatePriors) -> Mixture:
    """One step of EM from ``at`` under priors that are centered at ``start``."""
    queries, values, value_mask = data
    weights = responsibilities(queries, at, None, values, value_mask)
    known = weights * value_mask[..., None]
    prior_counts = torch.as_tensor(priors.pseudo_counts)
    vectors = (prior_counts * start.means + weights.mT @ queries) / (prior_counts + weights.sum(-2))[..., None]
    prior_counts = torch.as_tensor(priors.value_pseudo_counts)
    new = (prior_counts * start.values + known.mT @ values) / (prior_counts + known.sum(-2))[..., None]
    return replace(at, means=vectors, values=new)


# ---------------------------------------------------------------- priors that a user swaps


class Laplace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0).double())

    def forward(self, precision: Tensor) -> Any:
        return dist.Laplace(torch.zeros(WIDTH), self.scale).to_event(1)


@in_each_batch
@pytest.mark.parametrize(
    "name, prior, at",
    [
        ("keys", dist.Laplace(torch.zeros(WIDTH), 2.0).to_event(1), lambda *b: randn(*b, COMPONENTS, WIDTH)),
        ("keys", Laplace(), lambda *b: randn(*b, COMPONENTS, WIDTH)),
        ("keys", lambda _: dist.Normal(torch.zeros(WIDTH), 2.0).to_event(1), lambda *b: randn(*b, COMPONENTS, WIDTH)),
        ("precision", dist.Gamma(2.0, 1.5), lambda *b: rand(*b, COMPONENTS)),
        ("precision", dist.LogNormal(torch.zeros(WIDTH), 1.0).to_event(1), lambda *b: rand(*b, COMPONENTS, WIDTH)),
        ("weights", dist.Dirichlet(torch.full((COMPONENTS,), 2.0)), lambda *b: randn(*b, COMPONENTS).softmax(-1)),
        ("weights", LogDirichlet(torch.zeros(COMPONENTS)), lambda *b: randn(*b, COMPONENTS).log_softmax(-1)),
        ("values", dist.Normal(torch.zeros(VALUES), 2.0).to_event(1), lambda *b: randn(*b, COMPONENTS, VALUES)),
    ],
)  # fmt: skip
def test_priors_swap(batch: tuple[int, ...], name: str, prior: Any, at: Callable[..., Tensor]) -> None:
    mixture, data = draw(batch), observed(batch)
    model = MixtureAttention(mixture, **{name: prior})
    value = at(*batch, *((1,) if name == "weights" and batch else ()))
    distribution = prior(torch.ones(1, 1)) if not isinstance(prior, torch.distributions.Distribution) else prior
    by_hand = (
        evidence(data[0], model.mixture({name: value}), None, data[1], data[2]).sum()
        + distribution.log_prob(value).sum()
    )
    replayed = poutine.condition(model, data={name: value})
    loss = elbo(batch).loss(replayed, nothing, *data)
    assert_close(loss, -by_hand.detach(), 1e-6)  # priors given in float32
    assert log_joint(data[0], model.mixture({name: value})).shape == (*batch, TOKENS, COMPONENTS)


def test_a_bare_prior_follows_its_model() -> None:
    model = MixtureAttention(draw(), precision=dist.Gamma(2.0, 1.5)).double()
    assert all(tensor.dtype == torch.double for tensor in model.state_dict().values())


def test_parameters_of_the_mixture_train() -> None:
    mixture, data = draw(), observed()
    keys = nn.Parameter(mixture.means)
    model = MixtureAttention(replace(mixture, means=keys))
    elbo()(model, nothing)(data[0]).backward()
    reference = mixture.means.clone().requires_grad_()
    (-evidence(data[0], replace(mixture, means=reference)).sum()).backward()
    assert_close(dict(model.named_parameters())["means"].grad, reference.grad)


def test_parameters_train_where_components_are_masked_or_share_variances() -> None:
    means, table = nn.Parameter(randn(COMPONENTS, WIDTH)), nn.Parameter(rand(2, WIDTH))
    mask, (queries, _, _) = torch.tensor([True, True, False, True]), observed()
    weights = torch.where(mask, 0.0, -torch.inf).log_softmax(-1)
    groups = torch.tensor([0, 1, 1, 0])
    mixture = replace(draw(), log_weights=weights, means=means, variances=SharedVariances(table, groups), mask=mask)
    model = copy.deepcopy(MixtureAttention(mixture))
    elbo()(model, nothing)(queries).backward()
    expected = torch.autograd.grad(-evidence(queries, mixture).sum(), (means, table))
    found = dict(model.named_parameters())
    assert_close(found["means"].grad, expected[0])
    assert_close(found["variances"].grad, expected[1])


# ---------------------------------------------------------------- Pyro's own tools


@in_each_batch
def test_discrete_posterior_samples(batch: tuple[int, ...]) -> None:
    mixture, (queries, _, _) = draw(batch), observed(batch)
    model = MixtureAttention(mixture)
    first = -2 - len(batch)
    best = infer_discrete(model, first_available_dim=first, temperature=0)
    trace = poutine.trace(best).get_trace(queries)
    attention = responsibilities(queries, mixture)
    assert torch.equal(trace.nodes["assignment"]["value"], attention.argmax(-1))
    drawn = infer_discrete(model, first_available_dim=first, temperature=1)
    counts = torch.zeros_like(attention)
    for _ in range(200):
        assignment = poutine.trace(drawn).get_trace(queries).nodes["assignment"]["value"]
        counts += torch.nn.functional.one_hot(assignment, COMPONENTS)
    assert (counts / 200 - attention).abs().max() < 5 * 0.5 / 200**0.5  # 5 standard errors


@in_each_batch
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_tokens(batch: tuple[int, ...], parallel: bool) -> None:
    model = MixtureAttention(
        draw(batch), keys=lambda precision: dist.Normal(torch.zeros(WIDTH), 1.0).to_event(1),
        precision=dist.Gamma(2.0, 1.5), weights=dist.Dirichlet(torch.full((COMPONENTS,), 2.0)), free_values=True,
    ).double()  # fmt: skip
    draws = Predictive(model, num_samples=5, parallel=parallel)(tokens=6)
    assert draws["query"].shape == (5, *batch, 6, WIDTH)
    assert draws["value"].shape == (5, *batch, 6, VALUES)
    assert draws["keys"].shape == (5, *batch, COMPONENTS, WIDTH)
    assert draws["precision"].shape == (5, *batch, COMPONENTS)
    assert len(draws["query"].unique()) == draws["query"].numel()


def test_drawn_queries_have_the_moments_of_the_mixture() -> None:
    mixture = draw()
    model = MixtureAttention(mixture)
    queries = model(tokens=40_000)
    weights = mixture.log_weights.exp()[:, None]
    mean = (weights * mixture.means).sum(0)
    second = (weights * (mixture.means.square() + mixture.dense_variances() + 0.3)).sum(0)
    assert_close(queries.mean(0), mean, 0.05)
    assert_close(queries.square().mean(0), second, 0.1)


@in_each_batch
def test_vectorized_particles_average_single_ones(batch: tuple[int, ...]) -> None:
    mixture, data = draw(batch), observed(batch)
    model = MixtureAttention.conjugate(mixture, PRIORS, MOVES)
    guide = point_masses(model)
    one = elbo(batch).loss(model, guide, *data)
    many = elbo(batch, num_particles=3, vectorize_particles=True).loss(model, guide, *data)
    assert_close(many, one)


def test_free_values_are_found_by_mean_shift() -> None:
    mixture, (queries, values, value_mask) = draw(), observed()
    model = MixtureAttention(mixture, free_values=True)
    guide = point_masses(model, {"value_unobserved": torch.zeros(TOKENS, VALUES)})
    objective = elbo()(model, guide)
    objective(queries, values, value_mask).backward()
    free = torch.zeros(TOKENS, VALUES).requires_grad_()
    completed = torch.where(value_mask[:, None], values, free)
    (-evidence(queries, mixture, None, completed).sum()).backward()
    gradient = next(guide.parameters()).grad
    assert_close(gradient, free.grad)
    assert_close(gradient[value_mask], torch.zeros_like(gradient[value_mask]))


def test_free_values_need_no_known_ones() -> None:
    mixture, (queries, values, _) = draw(), observed()
    model = MixtureAttention(mixture, free_values=True)
    guide = point_masses(model, {"value": values})
    assert_close(elbo().loss(model, guide, queries), -evidence(queries, mixture, None, values).sum())


def test_saving_and_loading_keeps_the_density() -> None:
    data = observed((2, 3))
    make = lambda: MixtureAttention(draw((2, 3)), keys=Laplace(), precision=dist.Gamma(2.0, 1.5))  # noqa: E731
    one, other = make(), make()
    draws = {"keys": randn(2, 3, COMPONENTS, WIDTH), "precision": rand(2, 3, COMPONENTS)}
    losses = [elbo((2, 3)).loss(poutine.condition(m, data=draws), nothing, *data) for m in (one, other)]
    assert losses[0] != losses[1]
    other.load_state_dict(one.state_dict())
    assert elbo((2, 3)).loss(poutine.condition(other, data=draws), nothing, *data) == losses[0]


# ---------------------------------------------------------------- bad input


def bad(**changes: Any) -> Mixture:
    return replace(draw(), **changes)


NONE = torch.zeros(COMPONENTS, dtype=torch.bool)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MixtureAttention(bad(variances=torch.zeros(1, 1), noise_variance=0.0)), "precision 1 / 0 is not"),
        (lambda: MixtureAttention(bad(variances=-rand(COMPONENTS, 1))), "^variances is -.*: give finite"),
        (lambda: MixtureAttention(bad(value_variances=-rand(1, 1))), "^value_variances is -.*: give positive"),
        (lambda: MixtureAttention(bad(log_weights=torch.zeros(COMPONENTS))), "the weights sum to 4, not to 1"),
        (lambda: MixtureAttention(bad(mask=NONE)), "the mixture has no component left"),
        (lambda: MixtureAttention(bad(log_weights=torch.full((COMPONENTS,), -torch.inf))), "has no component left"),
        (lambda: MixtureAttention(bad(value_variances=None), free_values=True), "values need a mixture with values"),
        (
            lambda: MixtureAttention(bad(variances=Covariances(torch.zeros(4, 3, 3)), noise_variance=0.0)),
            "precision 1 / 0 is not positive|covariance of component 0 is not positive definite",
        ),
        (lambda: MixtureAttention(bad(means=2 * nn.Parameter(randn(COMPONENTS, WIDTH)))), "^means is computed from a"),
        (lambda: MixtureAttention(draw(), keys=dist.Normal), "keys is the class Normal: give an instance"),
        (lambda: MixtureAttention(draw(), keys=dist.Normal(0.0, 1.0)), r"keys has event shape \(\), expected \(3,\)"),
        (lambda: MixtureAttention(draw(), values=dist.Normal(0.0, 1.0)), r"values has event shape \(\)"),
        (lambda: MixtureAttention(draw(), precision=dist.Normal(0.0, 1e-9)), "give one that draws positive numbers"),
        (lambda: MixtureAttention(draw(), precision=dist.Gamma(torch.ones(7), 1.0)), r"batch shape \(7,\)"),
        (lambda: MixtureAttention(draw(), weights=dist.Dirichlet(torch.ones(7))), r"weights has event shape \(7,\)"),
        (lambda: MixtureAttention(draw(), weights=dist.Normal(torch.zeros(4), 1.0).to_event(1)), "that draws weights"),
        (lambda: MixtureAttention(draw(), keys=lambda precision: 1.0), "the prior of keys returned a float"),
        (
            lambda: MixtureAttention.conjugate(draw(), ConjugatePriors(rate=0.0), moves=("variances",)),
            "rate is 0.0: give a positive one",
        ),
        (lambda: MixtureAttention.conjugate(draw(), moves=("keys",)), "moves is 'keys': choose one of"),
        (lambda: MixtureAttention.conjugate(draw(), ConjugatePriors(pseudo_counts=0.0)), "pseudo_counts is 0.0: give"),
        (lambda: MixtureAttention.conjugate(bad(values=None, value_variances=None), moves=("values",)), "without any"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"queries": randn(TOKENS, 5)}, "queries have 5 dimensions and keys 3"),
        ({"queries": randn(3, TOKENS, WIDTH)}, r"leading dimensions \(3,\) and the mixture \(2, 3\)"),
        ({"values": randn(2, 3, TOKENS, 5)}, r"values have shape \(2, 3, 9, 5\), expected \(2, 3, 9, 2\)"),
        ({"values": randn(2, 3, 8, VALUES)}, r"values have shape \(2, 3, 8, 2\), expected"),
        ({"value_mask": torch.ones(TOKENS, dtype=torch.bool)}, "value_mask marks known values, and there are none"),
        ({"mask": torch.ones(8, dtype=torch.bool)}, r"mask has shape \(8,\), expected \(2, 3, 9\)"),
        (
            {"attn_mask": torch.ones(TOKENS, 7, dtype=torch.bool)},
            r"attn_mask has shape \(9, 7\), expected \(2, 3, 9, 4\)",
        ),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_are_refused(
    arguments: dict[str, Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        MixtureAttention(draw((2, 3)))(**({"queries": randn(2, 3, TOKENS, WIDTH)} | arguments))


@pytest.mark.parametrize("bad_number", [torch.nan, torch.inf])
@pytest.mark.parametrize(("name", "mask"), [("queries", "mask"), ("values", "value_mask"), ("values", "mask")])
def test_data_that_count_are_finite(name: str, mask: str, bad_number: float) -> None:
    queries, values, _ = observed()
    data = {"queries": queries, "values": values}
    broken = data[name].clone()
    broken[..., 0, :] = bad_number
    model = MixtureAttention(draw())
    with pytest.raises(ValueError, match=rf"{name} is (nan|inf): give finite ones, or leave them out with"):
        model(**data | {name: broken})
    log_p = []
    for each in (data[name], broken):
        torch.manual_seed(0)
        options = data | {name: each, mask: torch.arange(TOKENS) > 0}
        log_p.append(poutine.trace(model).get_trace(**options).log_prob_sum())
    assert log_p[1].isfinite()
    assert mask == "value_mask" or log_p[0] == log_p[1]


def test_values_of_a_mixture_without_them_are_refused() -> None:
    queries, values, _ = observed()
    with pytest.raises(ValueError, match="values are known but the mixture has no value_variances"):
        MixtureAttention(bad(values=None, value_variances=None))(queries, values)
