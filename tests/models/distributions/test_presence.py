"""Presence: densities and divergences against enumeration and torch's own distributions."""

import itertools

import pytest
import torch
from pyro import distributions as dist
from torch.distributions import kl_divergence

from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.presence import Presence, WherePresent

MASK = torch.tensor([True, True, True, True, False])
Q, P = torch.tensor([9.0, -1.0, 0.3, 2.0, 5.0]), torch.full((5,), -0.7)


def every(always: int = 1) -> torch.Tensor:
    """All values that a text with four components can have."""
    free = itertools.product([0.0, 1.0], repeat=4 - always)
    return torch.tensor([[1.0] * always + list(row) + [0.0] for row in free])


@pytest.mark.parametrize("always", [1, 2])
def test_probabilities_of_all_values_sum_to_one_and_are_products(always: int) -> None:
    presence, values = Presence(Q, MASK, always), every(always)
    each = dist.Bernoulli(logits=Q).log_prob(values)[:, always:4].sum(-1)
    torch.testing.assert_close(presence.log_prob(values), each)
    torch.testing.assert_close(presence.log_prob(values).exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close((presence.log_prob(values).exp()[:, None] * values).sum(0), presence.mean)


def test_what_cannot_be_has_no_probability() -> None:
    presence = Presence(Q, MASK)
    without_prior, beyond = torch.tensor([0.0, 1, 1, 1, 0]), torch.tensor([1.0, 1, 1, 1, 1])
    assert presence.log_prob(torch.stack([without_prior, beyond])).tolist() == [-torch.inf, -torch.inf]


def test_divergence_and_entropy_equal_their_sums_over_all_values() -> None:
    p, q, values = Presence(Q, MASK), Presence(P, MASK), every()
    probability = p.log_prob(values).exp()
    expected = (probability * (p.log_prob(values) - q.log_prob(values))).sum()
    torch.testing.assert_close(kl_divergence(p, q), expected)
    torch.testing.assert_close(p.entropy(), -(probability * p.log_prob(values)).sum())
    torch.testing.assert_close(
        kl_divergence(p, q), kl_divergence(dist.Bernoulli(logits=Q), dist.Bernoulli(logits=P))[1:4].sum()
    )


@pytest.mark.parametrize(
    ("masks", "always"),
    [
        ([5, 4], [1, 1]),
        ([4, 5], [1, 1]),
        ([4, 4], [2, 1]),
        ([4, 4], [1, 2]),
        ([5, 4], [5, 1]),  # certain in one, impossible in the other
        ([1, 4], [1, 2]),
    ],
)
def test_divergence_where_different_components_are_certain(masks: list[int], always: list[int]) -> None:
    (p, q), values = (
        [Presence(logits, torch.arange(5) < n, k) for logits, n, k in zip((Q, P), masks, always, strict=True)],
        torch.tensor(list(itertools.product([0.0, 1.0], repeat=5))),
    )
    log_p, log_q = p.log_prob(values), q.log_prob(values)
    expected = torch.where(log_p.isinf(), 0, log_p.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close(kl_divergence(p, q), expected)


def test_draws_have_the_mean_and_keep_what_is_certain() -> None:
    draws = Presence(Q.expand(2, 5), MASK.expand(2, 5)).sample((20_000,))
    assert draws.shape == (20_000, 2, 5)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert (draws[..., 0] == 1).all() and (draws[..., 4] == 0).all()
    torch.testing.assert_close(draws.mean((0, 1)), Presence(Q, MASK).mean, atol=0.02, rtol=0)


def test_draws_have_no_gradient() -> None:
    assert not Presence(Q.clone().requires_grad_(), MASK).sample().requires_grad


def test_far_logits_are_finite_with_their_gradients() -> None:
    logits = torch.tensor([0.0, 80.0, -80.0, 1e4], requires_grad=True)
    presence = Presence(logits, torch.ones(4, dtype=torch.bool))
    value = kl_divergence(presence, Presence(torch.zeros(4), presence.present)) + presence.entropy()
    value.backward()
    assert value.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    torch.testing.assert_close(value, 3 * torch.tensor(2.0).log())  # KL from the uniform plus entropy


def test_the_divergence_where_present_is_the_mean_over_presences() -> None:
    """sum_b q(b) sum_i b_i KL_i, by enumeration, and its gradient in the probabilities."""
    logits = Q.clone().requires_grad_()
    presence = Presence(logits, MASK)
    mean, prior_mean = torch.randn(5, 3), torch.randn(3)
    each = kl_divergence(dist.Normal(mean, 0.5), dist.Normal(prior_mean, 2.0)).sum(-1)
    expected = (presence.log_prob(every()).exp()[:, None] * every() * each).sum()
    own = torch.autograd.grad(expected, logits)[0]
    for values in every()[[0, 3, 7]]:  # whatever was drawn
        posterior = WherePresent(dist.Normal(mean, 0.5).to_event(1), values > 0.5, presence.mean).to_event(1)
        prior = dist.Normal(prior_mean, 2.0).to_event(1).expand([5]).mask(values > 0.5).to_event(1)
        found = kl_divergence(posterior, prior)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, logits, retain_graph=True)[0], own)
        draw = posterior.rsample()
        log_q = dist.Normal(mean, 0.5).log_prob(draw).sum(-1)[values > 0.5].sum()
        torch.testing.assert_close(posterior.log_prob(draw), log_q)


def test_expansion() -> None:
    wide = Presence(Q, MASK, 2).expand([3, 2])
    assert wide.batch_shape == (3, 2) and wide.always == 2
    assert wide.sample((4,)).shape == (4, 3, 2, 5)
    normal, prior = dist.Normal(torch.arange(5.0), 1.0), dist.Normal(torch.zeros(5), 1.0).mask(MASK)
    there = WherePresent(normal, MASK, Presence(Q, MASK).mean)
    several = there.expand([3, 5])
    assert several.log_prob(torch.zeros(5)).shape == (3, 5)
    torch.testing.assert_close(kl_divergence(several, prior.expand([3, 5]))[1], kl_divergence(there, prior))


def test_what_is_never_present_costs_nothing() -> None:
    """Even where its divergence is infinite."""
    far = dist.Normal(torch.tensor([1.0, torch.inf]), 1.0)
    there = WherePresent(far, torch.tensor([True, False]), torch.tensor([0.5, 0.0]))
    prior = dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False]))
    assert kl_divergence(there, prior).tolist() == [0.25, 0.0]


def test_weights_of_the_present_alone_are_those_of_a_smaller_dirichlet() -> None:
    """The mean over b of the divergences of Dirichlets over the present, each against torch's own."""
    log_alpha, prior = torch.randn(5).double(), torch.zeros(5).double()
    total = torch.zeros(()).double()
    ours = torch.zeros(()).double()
    for value in every():
        present, probability = value > 0.5, Presence(Q.double(), MASK).log_prob(value.double()).exp()
        small = dist.Dirichlet(log_alpha[present].exp()), dist.Dirichlet(prior[present].exp())
        total += probability * kl_divergence(*small)
        ours += probability * kl_divergence(LogDirichlet(log_alpha, present), LogDirichlet(prior, present))
    torch.testing.assert_close(ours, total)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Q, MASK, 0), "always is 0: give a number of components from 1 to 5"),
        ((Q, MASK, 6), "always is 6: give a number of components from 1 to 5"),
        ((Q[:4], MASK), "logits are of 4 components and mask of 5: give as many"),
    ],
)
def test_bad_arguments_raise(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Presence(*arguments)  # type: ignore[arg-type]
