"""The bound against closed forms, against Pyro's own, and against itself under padding, masks and KL weights."""

import math
from collections.abc import Callable
from typing import Any

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyroformer.inference.objectives.elbo import ELBO, Terms
from pyroformer.models.base import LocalModule
from pyroformer.models.batch import Batch

DATA = torch.tensor([0.3, -1.2, 2.0, 0.7])
NOISE = 0.5


class Gaussian(LocalModule):
    """z ~ N(0, 1), text ~ N(z, NOISE^2): log p(x) and the posterior are known."""

    def forward(self, x):
        with pyro.plate("texts", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("text", dist.Normal(z, NOISE), obs=x)


class Posterior(LocalModule):
    def __init__(self, shift=0.0, spread=1.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1 / (1 + NOISE**2)))
        self.shift = nn.Parameter(torch.tensor(shift))
        self.log_scale = nn.Parameter(torch.tensor(math.log(spread * NOISE / math.sqrt(1 + NOISE**2))))

    def forward(self, x):
        with pyro.plate("texts", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.slope * x + self.shift, self.log_scale.exp()))


def log_evidence(x):
    return dist.Normal(0.0, math.sqrt(1 + NOISE**2)).log_prob(x)


def closed_form(x, guide):
    mean, scale = guide.slope * x + guide.shift, guide.log_scale.exp()
    expected = dist.Normal(mean, NOISE).log_prob(x) - scale.square() / (2 * NOISE**2)
    return expected, torch.distributions.kl_divergence(dist.Normal(mean, scale), dist.Normal(0.0, 1.0))


def test_terms_equal_the_closed_form() -> None:
    guide = Posterior(shift=0.4, spread=1.5)
    data = DATA.repeat_interleave(20_000)
    terms = ELBO().terms(Gaussian(), guide, data)
    expected, kl = closed_form(DATA, guide)
    assert torch.allclose(terms.kl["z"].view(4, -1)[:, 0], kl, atol=1e-5)
    draws = terms.log_likelihood.view(4, -1)
    error = draws.std(-1) / 20_000**0.5
    assert ((draws.mean(-1) - expected).abs() < 4 * error).all()


def test_particles_are_averaged() -> None:
    guide = Posterior(shift=0.4, spread=1.5)
    torch.manual_seed(0)
    three = ELBO(num_particles=3).terms(Gaussian(), guide, DATA).log_likelihood
    torch.manual_seed(0)
    each = [ELBO().terms(Gaussian(), guide, DATA).log_likelihood for _ in range(3)]
    assert torch.allclose(three, torch.stack(each).mean(0))


def test_log_weights_are_the_evidence_under_the_exact_posterior() -> None:
    weights = ELBO().log_weights(Gaussian(), Posterior(), DATA)
    assert torch.allclose(weights, log_evidence(DATA), atol=1e-5)


@pytest.mark.parametrize("stock", [Trace_ELBO, TraceMeanField_ELBO])
def test_loss_and_gradients_equal_pyros(stock: type) -> None:
    model, guide = Gaussian(), Posterior(shift=0.4)
    results = []
    for elbo in (ELBO(), stock()):
        guide.zero_grad()
        torch.manual_seed(3)
        loss = elbo(model, guide)(DATA)
        loss = loss if isinstance(elbo, ELBO) else loss / len(DATA)  # Pyro sums over texts
        loss.backward()
        results.append([loss.detach()] + [p.grad.clone() for p in guide.parameters()])
    ours, theirs = results
    if stock is TraceMeanField_ELBO:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))
    else:  # the plain estimator of the KL: equal up to its noise
        assert torch.allclose(ours[0], theirs[0], atol=1.0)


def test_a_kl_weight_scales_one_site_and_zero_is_legal() -> None:
    guide = Posterior(shift=0.4)
    terms = ELBO().terms(Gaussian(), guide, DATA)
    for weight in (0.0, 0.3, 1.0):
        torch.manual_seed(0)
        objective = ELBO(kl_weights={"z": weight})(Gaussian(), guide)
        torch.manual_seed(0)
        plain = ELBO().terms(Gaussian(), guide, DATA)
        torch.manual_seed(0)
        expected = (-plain.log_likelihood + weight * terms.kl["z"]).mean()
        assert torch.allclose(objective(DATA), expected, atol=1e-6)


def test_kl_weights_change_in_place() -> None:
    objective = ELBO(kl_weights={"z": 1.0})(Gaussian(), Posterior(shift=0.4))
    torch.manual_seed(0)
    one = objective(DATA)
    objective.kl_weights.z.fill_(0.0)
    torch.manual_seed(0)
    assert objective(DATA) < one


def test_texts_count_by_their_weights_and_only_the_objective_has_a_gradient() -> None:
    class Reading(Gaussian):
        def forward(self, batch: Any) -> None:
            super().forward(batch.tokens.sum(-1) / 10)

    class Read(Posterior):
        def forward(self, batch: Any) -> None:
            super().forward(batch.tokens.sum(-1) / 10)

    batch = Batch.pad([[5, 2], [7, 2]])._replace(weight=torch.tensor([0.75, 0.25]))
    objective = ELBO()(Reading(), Read())

    def seeded(function: Callable[..., Any], *args: Any) -> Any:
        torch.manual_seed(0)
        return function(*args)

    losses = seeded(objective.losses, batch)
    assert {name for name, value in losses.items() if value.requires_grad} == {"objective"} < set(losses)
    expected = -(batch.weight * seeded(objective.terms, batch).bound).sum()
    for loss in (losses["objective"], losses["bound"], seeded(objective, batch)):
        torch.testing.assert_close(loss, expected)
    for number in (ELBO().loss, ELBO().loss_and_grads):
        assert seeded(number, objective.model, objective.guide, batch) == pytest.approx(float(expected.detach()))
    gradients = torch.autograd.grad(expected, [*objective.guide.parameters()])
    torch.testing.assert_close([p.grad for p in objective.guide.parameters()], [*gradients])


class Wide(dist.Normal):
    """Twice as wide as the Gaussian whose closed form it would inherit."""

    def log_prob(self, value):
        return super().log_prob(value / 2) - math.log(2)


@pytest.mark.parametrize("prior", [dist.StudentT(5.0, 0.0, 1.0), Wide(0.0, 1.0)])
def test_a_site_without_closed_form_falls_back_to_monte_carlo(prior: Any) -> None:
    class Heavy(Gaussian):
        def forward(self, x):
            with pyro.plate("texts", len(x), dim=-1):
                z = pyro.sample("z", prior)
                pyro.sample("text", dist.Normal(z, NOISE), obs=x)

    guide = Posterior()
    terms = ELBO().terms(Heavy(), guide, DATA[:1].expand(40_000))
    draws = dist.Normal(guide.slope * DATA[0], guide.log_scale.exp()).sample((200_000,))
    log_q = dist.Normal(guide.slope * DATA[0], guide.log_scale.exp()).log_prob(draws)
    expected = (log_q - prior.log_prob(draws)).mean()
    assert torch.allclose(terms.kl["z"].mean(), expected, atol=0.03)  # sd 1: 6 standard errors


def test_a_global_site_counts_once_for_all_texts() -> None:
    class Global(LocalModule):
        def forward(self, x):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(()), 1.0))
            with pyro.plate("texts", len(x), dim=-1):
                pyro.sample("text", dist.Normal(mean, 1.0), obs=x)

    class GlobalGuide(LocalModule):
        def forward(self, x):
            pyro.sample("mean", dist.Normal(torch.tensor(0.5), 0.1))

    with pytest.raises(ValueError, match=r"site 'mean' lies outside the plate 'texts'.*data_size"):
        ELBO()(Global(), GlobalGuide())(DATA)
    kl = torch.distributions.kl_divergence(dist.Normal(0.5, 0.1), dist.Normal(0.0, 1.0))
    terms = ELBO(data_size=1000).terms(Global(), GlobalGuide(), DATA)
    assert torch.allclose(terms.kl["mean"], (kl / 1000).expand(4))


def test_a_guide_that_forgets_a_site_is_an_error() -> None:
    class Empty(LocalModule):
        def forward(self, x):
            pass

    with pytest.raises(ValueError, match="the guide does not draw 'z', which the model has with batch shape"):
        ELBO()(Gaussian(), Empty())(DATA)


def test_a_model_without_text_is_an_error() -> None:
    class Nameless(LocalModule):
        def forward(self, x):
            with pyro.plate("texts", len(x), dim=-1):
                pyro.sample("data", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="no site 'text'"):
        ELBO()(Nameless(), None)(DATA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 0}, "num_particles is 0: give a whole number of at least 1"),
        ({"num_particles": 2.5}, "num_particles is 2.5: give a whole number, such as 2"),
        ({"kl_weights": {"z": -1.0}}, "the KL weight of 'z' is -1.0: give a finite number, 0 or more"),
        ({"kl_weights": {"z": torch.nan}}, "the KL weight of 'z' is nan: give a finite number, 0 or more"),
        ({"kl_weights": {"z": math.inf}}, "the KL weight of 'z' is inf: give a finite number, 0 or more"),
        ({"kl_weights": {"z": "1"}}, "the KL weight of 'z' is '1', a str: give a number"),
    ],
)
def test_refuses(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        ELBO(**options)


class OnePenalty(ELBO):
    """All divergences together under a name of its own."""

    def terms(self, *args: Any, **kwargs: Any) -> Terms:
        terms = super().terms(*args, **kwargs)
        return terms._replace(penalty={"all": sum(terms.kl.values())})


def test_penalties_of_other_names_need_no_weights() -> None:
    ours, plain = OnePenalty(kl_weights={"z": 1.0}), ELBO()
    torch.manual_seed(0)
    loss = ours.loss(Gaussian(), Posterior(), DATA)
    torch.manual_seed(0)
    assert loss == pytest.approx(plain.loss(Gaussian(), Posterior(), DATA))


def test_a_weight_of_no_site_is_refused() -> None:
    elbo = ELBO(kl_weights={"z": 0.5, "zz": 1.0})
    message = "kl_weights name the site 'zz', but the model has only z: name its latent sites"
    for loss in (elbo(Gaussian(), Posterior()), lambda x: elbo.loss(Gaussian(), Posterior(), x)):
        with pytest.raises(ValueError, match=message):
            loss(DATA)
