"""A flow as the prior of a latent: its density against its draws and its Gaussian start."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pyroformer.models.priors.latent_flow import LinearFlow
from pyroformer.models.priors.latents import LinearGaussian


def moved(size: int = 2, **options: Any) -> LinearFlow:
    """Away from the identity."""
    flow = LinearFlow(size, 3, 2, hidden=6, **options).double()
    for parameter in flow.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return flow


def test_it_starts_as_the_gaussian() -> None:
    flow, gaussian = LinearFlow(5, 3, 2), LinearGaussian(5, 3, 2, "learned")
    for parameter in [*flow.weights.values(), *flow.biases.values()]:
        parameter.data.normal_()
    gaussian.load_state_dict(flow.state_dict(), strict=False)
    summary, z = torch.randn(7, 3), torch.randn(4, 7, 5)
    for index in (0, 1):
        torch.testing.assert_close(flow(summary, index).log_prob(z), gaussian(summary, index).log_prob(z))


@pytest.mark.parametrize("index", [0, 1])
def test_the_density_integrates_to_one_and_is_that_of_the_draws(index: int) -> None:
    distribution = moved()(torch.randn(3).double(), index)
    axis = torch.linspace(-30, 30, 1201).double()
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    density = distribution.log_prob(grid).exp()
    assert integral(density, axis) == pytest.approx(1, abs=1e-3)
    draws = distribution.sample((40_000,))
    for function in (lambda z: z[..., 0], lambda z: z[..., 1].tanh(), lambda z: (z[..., 0] * z[..., 1]).tanh()):
        values = function(draws)
        expected = integral(density * function(grid), axis)
        assert abs(values.mean() - expected) < 4 * values.std() / 200


def integral(values: Tensor, axis: Tensor) -> float:
    return torch.trapezoid(torch.trapezoid(values, axis), axis).item()


def test_it_is_no_gaussian_and_depends_on_the_summary() -> None:
    flow, summaries = moved(5), torch.randn(2, 3).double()
    draws = flow(summaries[0], 1).sample((4000,))
    standard = (draws - draws.mean(0)) / draws.std(0)
    assert (standard.pow(3).mean(0).abs() > 0.1).any()
    z = torch.randn(5).double()
    densities = [flow(summary, 1).log_prob(z) for summary in summaries]
    assert densities[0] != densities[1] and flow(summaries[0], 0).log_prob(z) == flow(summaries[1], 0).log_prob(z)


def test_a_standard_first_latent_stays_standard() -> None:
    z = torch.randn(5).double()
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum()
    torch.testing.assert_close(moved(5, first="standard")(torch.randn(3).double(), 0).log_prob(z), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_size": 1}, "latent_size is 1: give a whole number of at least 2"),
        ({"couplings": 0}, "couplings is 0: give a whole number of at least 1"),
        ({"hidden": 0}, "hidden is 0: give a whole number of at least 1"),
    ],
)
def test_bad_sizes(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearFlow(**{"latent_size": 4, "summary_size": 3, "layers": 2} | options)
