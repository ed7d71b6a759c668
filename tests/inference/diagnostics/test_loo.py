"""Global latents: their draws, k-hat and leave-one-out, for models with a known posterior."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.guides.mixture_attention import AssignmentGuide
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.inference.diagnostics import khat, loo
from pyroformer.inference.diagnostics.loo import smoothed_loo
from pyroformer.inference.posterior.arviz_compat import dataset
from pyroformer.inference.posterior.export import to_arviz
from pyroformer.inference.posterior.global_latents import global_posterior
from pyroformer.models.batch import Batch
from pyroformer.models.mixture_attention.model import MixtureAttention
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.config import TransformerConfig

SEEN = torch.tensor([0.3, -1.2, 0.8, 2.0, 0.1, -0.4, 1.5, 0.9])
NOISE = 1.0


class Mean(nn.Module):
    """m ~ N(0, 1), x_i ~ N(m, s^2): everything is known."""

    def forward(self, seen: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("texts", len(seen), dim=-1):
            pyro.sample("text", dist.Normal(mean, NOISE), obs=seen)


def posterior(seen: Tensor) -> tuple[Tensor, float]:
    """Mean and variance of m."""
    precision = 1 + len(seen) / NOISE**2
    return seen.sum() / NOISE**2 / precision, 1 / precision


class Guess(nn.Module):
    """The posterior, with its scale multiplied and its mean shifted by so many of its scales."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, seen: Tensor) -> None:
        mean, variance = posterior(seen)
        pyro.sample("mean", dist.Normal(mean + self.shift * math.sqrt(variance), self.scale * math.sqrt(variance)))


def left_out() -> Tensor:
    """log p(x_i | all others), in closed form."""
    each = []
    for i in range(len(SEEN)):
        mean, variance = posterior(torch.cat([SEEN[:i], SEEN[i + 1 :]]))
        each.append(dist.Normal(mean, math.sqrt(variance + NOISE**2)).log_prob(SEEN[i]))
    return torch.stack(each)


@pytest.mark.parametrize("guide", [Guess(), Guess(1.3), Guess(1.2, 0.4)], ids=["exact", "wide", "wide and shifted"])
def test_leave_one_out_of_a_conjugate_model(guide: nn.Module) -> None:
    result = loo(global_posterior(Mean(), guide, SEEN, draws=400))
    np.testing.assert_allclose(result.each, left_out(), atol=0.15)
    assert result.elpd == pytest.approx(float(left_out().sum()), abs=0.3)
    assert result.error == pytest.approx(float((len(SEEN) * left_out().var()).sqrt()), rel=0.1)
    assert result.error == pytest.approx(math.sqrt(len(SEEN) * np.var(result.each, ddof=1)))
    mean, variance = posterior(SEEN)
    seen = dist.Normal(mean, math.sqrt(variance + NOISE**2)).log_prob(SEEN)
    assert result.parameters == pytest.approx(float((seen - left_out()).sum()), abs=0.3)
    assert (result.khat < 1.0).all()


def test_without_the_correction_a_wide_guide_is_wrong() -> None:
    data = global_posterior(Mean(), Guess(2.5), SEEN, draws=400)
    rows = dataset(data, "log_likelihood")["per_observation"].values[0].T.astype(float)
    assert abs(smoothed_loo(rows).elpd - float(left_out().sum())) > 1
    assert loo(data).elpd == pytest.approx(float(left_out().sum()), abs=0.3)


def test_it_is_that_of_arviz_where_draws_are_the_posteriors() -> None:
    import arviz
    import xarray

    data = global_posterior(Mean(), Guess(), SEEN, draws=400)
    only = xarray.Dataset({"x": dataset(data, "log_likelihood")["per_observation"]})
    if int(arviz.__version__.split(".")[0]) >= 1:
        pytest.skip("ArviZ 1.x takes the number of effective draws from the posterior's chains")
    whole = arviz.InferenceData(posterior=dataset(data, "posterior"), log_likelihood=only)
    theirs = arviz.loo(whole, pointwise=True, reff=1.0)
    ours = smoothed_loo(only["x"].values[0].T.astype(float))
    assert ours.elpd == pytest.approx(float(theirs.elpd_loo), rel=1e-5)
    assert ours.parameters == pytest.approx(float(theirs.p_loo), rel=1e-4)


def test_khat_of_shared_latents_is_one_number() -> None:
    assert float(khat(global_posterior(Mean(), Guess(1.1), SEEN, draws=400))) < 0.5
    with pytest.raises(ValueError, match="site is 'mean', but these latents have one k-hat, that of all of them"):
        khat(global_posterior(Mean(), Guess(1.1), SEEN, draws=30), "mean")
    narrow = khat(global_posterior(Mean(), Guess(0.3), SEEN, draws=400))
    assert narrow.dims == () and float(narrow) > 0.7


def test_a_point_has_no_weights() -> None:
    model = Mean()
    data = global_posterior(model, Automatic(model, AutoDelta), SEEN, draws=30)
    for diagnostic in (khat, loo):
        with pytest.raises(ValueError, match="the guide is a point at 'mean', so that its draws have no importance"):
            diagnostic(data)
    spread = global_posterior(model, Automatic(model, AutoNormal), SEEN, draws=30)  # a function of another site
    assert khat(spread).dims == () and len(loo(spread).each) == len(SEEN)


def test_a_narrow_posterior_far_from_zero_is_no_point() -> None:
    model = Mean()
    guide = Automatic(
        model, AutoNormal, init_loc_fn=init_to_value(values={"mean": torch.tensor(2000.0)}), init_scale=0.005
    )
    assert khat(global_posterior(model, guide, SEEN + 2000, draws=30)).dims == ()


def test_the_weight_of_an_only_component_is_no_point() -> None:
    mixture = pf.Mixture.from_attention(torch.zeros(1, 2), torch.zeros(1, 2))
    keys, weights = pf.priors.GaussianVectors(torch.zeros(1, 2)), pf.priors.SymmetricDirichlet(1.0)
    model = MixtureAttention(mixture, keys=keys, weights=weights)
    data = global_posterior(model, Automatic(model, AutoNormal), torch.randn(9, 2), draws=30, plate="tokens")
    assert len(loo(data).each) == 9


def test_weights_are_the_evidence_where_the_guide_is_exact() -> None:
    data = global_posterior(Mean(), Guess(), SEEN, draws=30)
    stats = dataset(data, "sample_stats")
    covariance = NOISE**2 * torch.eye(len(SEEN)) + 1
    truth = dist.MultivariateNormal(torch.zeros(len(SEEN)), covariance).log_prob(SEEN)
    np.testing.assert_allclose(stats["log_p"] - stats["log_q"], np.full((1, 30), float(truth)), atol=1e-4)
    assert dataset(data, "prior")["mean"].shape == dataset(data, "posterior")["mean"].shape == (1, 30)


def test_assignments_are_summed_out() -> None:
    torch.manual_seed(0)
    mixture = pf.Mixture(torch.tensor([0.7, 0.3]).log(), torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), noise_variance=0.5)
    model = MixtureAttention.conjugate(mixture)
    queries = torch.randn(6, 2)
    data = global_posterior(model, Automatic(model, AutoNormal), queries, plate="tokens", draws=4)
    keys = torch.from_numpy(dataset(data, "posterior")["keys"].values[0])
    expected = torch.stack([pf.attend(queries, model.mixture({"keys": one}), returns="evidence") for one in keys])
    np.testing.assert_allclose(dataset(data, "log_likelihood")["per_observation"].values[0], expected, atol=1e-4)


def test_leave_one_out_over_latents_of_texts_is_off_by_a_third() -> None:
    """Why it is refused: z_i ~ N(0, I), x_i ~ N(z_i, s^2 I), and the guide is the posterior itself."""
    rng, texts, size, s, draws = np.random.default_rng(0), 30, 32, 0.5, 500
    z = rng.normal(size=(texts, size))
    x = z + s * rng.normal(size=(texts, size))
    mean, variance = x / (1 + s * s), s * s / (1 + s * s)
    drawn = mean + math.sqrt(variance) * rng.normal(size=(draws, texts, size))
    likelihood = (-0.5 * ((x - drawn) ** 2 / s**2 + math.log(2 * math.pi * s * s))).sum(-1)
    truth = (-0.5 * (x**2 / (1 + s * s) + math.log(2 * math.pi * (1 + s * s)))).sum()
    result = smoothed_loo(likelihood.T)
    assert abs(result.elpd - truth) > abs(truth) / 4
    assert (result.khat > 0.7).all()


class Local(Mean):
    def forward(self, seen: Tensor) -> None:
        with pyro.plate("texts", len(seen), dim=-1):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(len(seen)), 1.0))
            pyro.sample("text", dist.Normal(mean, NOISE), obs=seen)


class LocalGuess(nn.Module):
    def forward(self, seen: Tensor) -> None:
        with pyro.plate("texts", len(seen), dim=-1):
            pyro.sample("mean", dist.Normal(0.5 * seen, 1.0))


class Nothing(nn.Module):
    def forward(self, seen: Tensor) -> None:
        pass


class Learned(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))


def test_leave_one_out_is_refused() -> None:
    with pytest.raises(ValueError, match="mean is local to each observation, so that leaving one out leaves it"):
        global_posterior(Local(), LocalGuess(), SEEN, draws=2)
    with pytest.raises(ValueError, match="shift of the Learned is a learned parameter, fitted to every observation"):
        global_posterior(Learned(), Guess(), SEEN, draws=2)
    with pytest.raises(ValueError, match="the guide has no site 'mean': add it"):
        global_posterior(Mean(), Nothing(), SEEN, draws=2)
    with pytest.raises(ValueError, match="there is no plate 'tokens' in the model: choose among texts"):
        global_posterior(Mean(), Guess(), SEEN, plate="tokens", draws=2)
    with pytest.raises(ValueError, match="draws is 0: give a whole number of at least 1"):
        global_posterior(Mean(), Guess(), SEEN, draws=0)
    with pytest.raises(ValueError, match="there are 5 draws: leave-one-out needs at least 25"):
        loo(global_posterior(Mean(), Guess(), SEEN, draws=5))


def test_latents_of_texts_are_refused_with_the_reason() -> None:
    model = NVAE(TransformerConfig(vocabulary=9, max_length=4, width=8, layers=1, heads=2))
    data = to_arviz(model, NVAEGuide(model), Batch.pad([[5, 2], [6, 7, 2]]), draws=2)
    with pytest.raises(ValueError, match=r"is local to each text, .* PSIS-LOO is wrong: compare models on held-out"):
        loo(data)


def test_an_assignment_that_the_guide_draws_is_local() -> None:
    model = MixtureAttention(pf.Mixture.from_attention(torch.randn(3, 4), torch.randn(3, 4)))
    with pytest.raises(ValueError, match="assignment is local to each observation"):
        global_posterior(model, AssignmentGuide(model).requires_grad_(False), torch.randn(5, 4), plate="tokens")
