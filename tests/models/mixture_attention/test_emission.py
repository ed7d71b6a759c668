"""Mixtures whose queries are not Gaussian, against torch's mixtures."""

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.guides.mixture_attention import AssignmentGuide, KeyGuide, ValueGuide

KEYS = torch.tensor([[-2.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
VARIANCES = torch.tensor([[0.5], [1.0], [2.0]])
QUERIES = torch.tensor([[-2.0, 0.5], [0.3, 1.0], [9.0, -9.0], [2.0, 0.1]])


def mixture(variances: Tensor | None = VARIANCES, noise_variance: float = 0.1) -> pf.Mixture:
    return pf.Mixture(WEIGHTS.log(), KEYS, variances, noise_variance=noise_variance)


def student(mean: Tensor, scale: Tensor) -> Any:
    return dist.StudentT(4.0, mean, scale).to_event(1)


class LearnedTails(nn.Module):
    def __init__(self, df: float = 4.0) -> None:
        super().__init__()
        self.log_df = nn.Parameter(torch.tensor(df).log())

    def forward(self, mean: Tensor, scale: Tensor) -> Any:
        return torch.distributions.Independent(torch.distributions.StudentT(self.log_df.exp(), mean, scale), 1)


def log_evidence(model: pf.MixtureAttention, queries: Tensor = QUERIES) -> Tensor:
    elbo = TraceEnum_ELBO(max_plate_nesting=queries.ndim - 1)
    if any(parameter.requires_grad for parameter in model.parameters()):
        loss: Tensor = elbo.differentiable_loss(model, lambda *_: None, queries)
        return -loss
    return -torch.tensor(elbo.loss(model, lambda *_: None, queries))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("variances", [VARIANCES, VARIANCES * torch.tensor([1.0, 3.0]), None])
@pytest.mark.parametrize("emission", [student, LearnedTails()])
def test_the_evidence_is_that_of_a_mixture_of_students(emission: Any, variances: Tensor | None) -> None:
    scale = ((0 if variances is None else variances) + torch.full((3, 2), 0.1)).sqrt()
    components = torch.distributions.Independent(torch.distributions.StudentT(4.0, KEYS, scale), 1)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(WEIGHTS), components)
    found = log_evidence(pf.MixtureAttention(mixture(variances), emission=emission))
    torch.testing.assert_close(found, expected.log_prob(QUERIES).sum())


def test_a_gaussian_emission_is_the_default() -> None:
    def normal(mean: Tensor, scale: Tensor) -> Any:
        return dist.Normal(mean, scale).to_event(1)

    default, written = pf.MixtureAttention(mixture()), pf.MixtureAttention(mixture(), emission=normal)
    assert torch.equal(log_evidence(default), log_evidence(written))
    assert default.state_dict().keys() == written.state_dict().keys()
    batch = QUERIES.expand(2, 4, 2)
    assert torch.equal(log_evidence(default, batch), log_evidence(written, batch))


def test_the_parameters_of_an_emission_are_trained_and_saved() -> None:
    model = pf.MixtureAttention(mixture(), emission=LearnedTails())
    log_evidence(model).backward()  # type: ignore[no-untyped-call]
    assert model.emission is not None and next(model.emission.parameters()).grad != 0
    other = pf.MixtureAttention(mixture(), emission=LearnedTails(30.0))
    assert log_evidence(other) != log_evidence(model)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(log_evidence(other), log_evidence(model))


def test_queries_are_drawn_from_the_emission() -> None:
    model = pf.MixtureAttention(mixture(), emission=lambda mean, scale: dist.Delta(mean + scale, event_dim=1))
    drawn = model(tokens=20)
    assert torch.cdist(drawn, KEYS + (VARIANCES + 0.1).sqrt()).min(-1).values.max() < 1e-5


def test_heavy_tails_keep_an_outlier_from_the_key_of_nuts_and_of_a_gaussian_guide() -> None:
    """An outlier at 40 moves the mean of nine queries at 0 by 4."""
    one = pf.Mixture(torch.zeros(1), torch.zeros(1, 1), noise_variance=1.0)
    queries = torch.cat([torch.linspace(-1, 1, 9), torch.tensor([40.0])])[:, None]

    def prior(precision: Tensor) -> Any:
        return dist.Normal(torch.zeros(1, 1), 10.0).to_event(1)

    model = pf.MixtureAttention(one, keys=prior, emission=student)
    pyro.set_rng_seed(0)
    chain = MCMC(NUTS(model, max_plate_nesting=1), num_samples=60, warmup_steps=30, disable_progbar=True)
    chain.run(queries)
    assert chain.get_samples()["keys"].mean().abs() < 0.7
    guide = Automatic(model, AutoNormal)
    svi = pf.SVI(model, guide, torch.optim.Adam, loss=TraceEnum_ELBO(max_plate_nesting=1), lr=0.1)
    for _ in range(60):
        svi.step(queries)
    assert guide.median()["keys"].abs() < 0.7


@pytest.mark.parametrize(
    ("emission", "message"),
    [
        (lambda mean, scale: dist.StudentT(4.0, mean, scale), r"event shape \(\), expected \(2,\): .*to_event\(1\)"),
        (lambda mean, scale: dist.StudentT(4.0, mean, scale).to_event(2), r"event shape \(3, 2\), expected \(2,\)"),
        (lambda mean, scale: dist.Normal(torch.zeros(2), 1.0).to_event(1), r"batch shape \(\), expected \(3,\)"),
        (lambda mean, scale: mean, "returned a Tensor: return a torch or Pyro distribution"),
        (lambda mean, scale: None, "returned a NoneType"),
        (lambda mean: dist.Delta(mean), "fails when it is called with a mean and a scale"),
        (lambda mean, scale: dist.StudentT(-1.0, mean, scale).to_event(1), "fails when it is called"),
        (dist.StudentT, "neither a module nor a function"),
        (dist.Normal(0.0, 1.0), "neither a module nor a function"),
    ],
)
def test_what_is_no_emission_is_refused_in_one_line(emission: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        pf.MixtureAttention(mixture(), emission=emission)
    assert "\n" not in str(error.value)


def test_guides_that_need_gaussian_queries_say_so() -> None:
    model = pf.MixtureAttention(mixture(), emission=student)
    for guide in (AssignmentGuide, ValueGuide, KeyGuide):
        with pytest.raises(ValueError, match=f"{guide.__name__}.* needs Gaussian queries.*emission student: leave"):
            guide(model)


def test_no_queries_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="which holds none: give at least one"):
        pf.MixtureAttention(mixture(), emission=student)(torch.zeros(0, 2))
