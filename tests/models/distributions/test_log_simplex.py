"""The transform onto log weights: densities integrate to one over log ratios, and guides fit the shipped priors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor
from torch.distributions import Normal, biject_to, transform_to

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.log_dirichlet_math import LOG_ZERO
from pyroformer.models.distributions.log_logistic_normal import LogLogisticNormal
from pyroformer.models.distributions.log_simplex import (
    LogSimplex,
    LogStickBreakingTransform,
    breaking,
    log_simplex,
)
from pyroformer.models.distributions.stick_breaking import LogStickBreaking
from pyroformer.models.mixture_attention.model import MixtureAttention


def test_transform_is_a_bijection_onto_log_weights() -> None:
    for registry in (biject_to, transform_to):
        transform = registry(log_simplex)
        x = torch.randn(5, 3, dtype=torch.double)
        y = transform(x)
        assert log_simplex.check(y).all() and y.shape == transform.forward_shape(x.shape)
        torch.testing.assert_close(transform.inv(y), x)


def test_transform_keeps_the_volume_of_log_ratios() -> None:
    x = torch.randn(4, dtype=torch.double)
    transform = biject_to(log_simplex)

    def log_ratios(x: torch.Tensor) -> torch.Tensor:
        y = transform(x)
        return y[:-1] - y[-1]

    jacobian: torch.Tensor = torch.autograd.functional.jacobian(log_ratios, x)  # type: ignore[no-untyped-call]
    assert float(jacobian.slogdet().logabsdet) == pytest.approx(0, abs=1e-12)


def test_coordinates_of_weights_of_a_process_are_independent() -> None:
    """What a guide of independent Gaussians can represent; log ratios to the last component are correlated."""
    torch.manual_seed(0)
    draws = LogStickBreaking(torch.tensor(2.0, dtype=torch.double), torch.ones(5, dtype=torch.bool)).sample((20000,))
    assert (torch.corrcoef(biject_to(log_simplex).inv(draws).T) - torch.eye(4)).abs().max() < 0.03  # 4 standard errors
    assert torch.corrcoef((draws[:, :-1] - draws[:, -1:]).T)[0, 1] > 0.3


def test_density_integrates_to_one() -> None:
    transform = biject_to(log_simplex)
    x = torch.linspace(-40, 40, 20001, dtype=torch.double)[:, None]
    log_p = LogDirichlet(torch.tensor([0.7, 2.0]).double().log()).log_prob(transform(x))
    total = torch.trapezoid((log_p + transform.log_abs_det_jacobian(x, transform(x))).exp(), x[:, 0])
    assert float(total) == pytest.approx(1, abs=1e-6)


MASKS = [[True, True, True, False, False], [False, True, False, True, True], [True, False, False, True, False]]


def test_masked_components_take_no_part() -> None:
    """The transform is that of the components that exist; what is left over is standard normal."""
    mask = torch.tensor(MASKS)
    transform: Any = biject_to(LogStickBreaking(torch.tensor(2.0).double(), mask).support)
    x = torch.randn(len(MASKS), 4, dtype=torch.double)
    y = transform(x)
    assert transform.codomain.check(y).all() and (y[~mask] == LOG_ZERO).all()
    torch.testing.assert_close(transform(transform.inv(y)), y)
    density = transform.log_abs_det_jacobian(x, y)
    for row, used in enumerate(breaking(mask)[:, :-1]):
        torch.testing.assert_close(y[row, mask[row]], LogStickBreakingTransform()(x[row, used]))
        torch.testing.assert_close(density[row], Normal(0.0, 1.0).log_prob(x[row, ~used]).sum())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-6), (torch.float, 1e-4)])
def test_support_are_weights_that_sum_to_one_over_the_components(dtype: torch.dtype, tolerance: float) -> None:
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5 + 3 * tolerance, 0.0], [0.5, 0.0, 0.5]], dtype=dtype)
    log_weights = weights.log().clamp(min=LOG_ZERO)
    assert log_simplex.check(log_weights).tolist() == [True, False, True]
    assert LogSimplex(torch.tensor([True, True, False])).check(log_weights).tolist() == [True, False, False]


def test_a_cached_transform_has_the_same_mask() -> None:
    """As Pyro's guides and torch's compositions of transforms cache it."""
    mask, x = torch.tensor(MASKS[1]), torch.randn(4, dtype=torch.double)
    transform, other = LogStickBreakingTransform(mask), LogStickBreakingTransform(torch.tensor(MASKS[2]))
    assert torch.equal(transform.with_cache()(x), transform(x))
    assert transform == transform.with_cache() and transform != other and transform != LogStickBreakingTransform()


@pytest.mark.parametrize("prior", [pf.priors.SymmetricDirichlet(2.0), pf.priors.GEM(2.0)])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_posterior_with_masked_components_is_that_of_the_others(prior: Any, batch: tuple[int, ...]) -> None:
    """The energy that NUTS descends, up to that of the coordinates that are left over."""
    mask, keys, queries = torch.tensor(MASKS[2]), torch.randn(*batch, 5, 2), torch.randn(*batch, 10, 2)

    def energy(keys: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mixture = pf.Mixture(torch.zeros(keys.shape[:-1]), keys, mask=mask, noise_variance=1.0)
        model = MixtureAttention(mixture, weights=prior)
        found: Tensor = initialize_model(model, (queries,), max_plate_nesting=1 + len(batch))[1]({"weights": x})
        return found

    x, used = torch.randn(*batch, *(1 for _ in batch[:1]), 4), breaking(mask)[:-1]
    alone = energy(keys[..., mask, :], x[..., used]) - Normal(0.0, 1.0).log_prob(x[..., ~used]).sum()
    torch.testing.assert_close(energy(keys, x, mask.expand(*batch, 5)), alone)


@pytest.mark.parametrize("guide", [AutoDelta, AutoNormal])
@pytest.mark.parametrize("prior", ["SymmetricDirichlet", "GEM", "PitmanYor", "GammaDirichletProcess"])
def test_guides_fit_the_shipped_weight_priors(prior: str, guide: type) -> None:
    mixture = pf.Mixture(torch.zeros(4).log_softmax(-1), torch.randn(4, 2), noise_variance=1.0)
    model = MixtureAttention(mixture, weights=getattr(pf.priors, prior)())
    latent = Automatic(model, guide)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = pf.SVI(model, latent, torch.optim.Adam, loss=loss, lr=0.05)
    losses = [svi.step(torch.randn(10, 2)) for _ in range(3)]
    assert torch.tensor([*losses, svi.evaluate_loss(torch.randn(10, 2))]).isfinite().all()


FAMILIES: dict[str, Callable[[Tensor], Any]] = {
    "Dirichlet": lambda mask: LogDirichlet(torch.zeros(mask.shape), mask),
    "logistic normal": lambda mask: LogLogisticNormal(torch.zeros(mask.shape), torch.ones(mask.shape), mask),
    "stick breaking": lambda mask: LogStickBreaking(torch.ones(mask.shape[:-1]), mask),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_without_components_is_in_the_support_and_adds_nothing(name: str) -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])
    distribution = FAMILIES[name](mask)
    draw = distribution.sample()
    density = distribution.log_prob(draw)
    assert (draw[1] == LOG_ZERO).all() and density[1] == 0
    torch.testing.assert_close(density[0], FAMILIES[name](mask[:1]).log_prob(draw[:1])[0])
    assert LogSimplex(mask).check(draw).tolist() == [True, True]
    assert LogSimplex(mask).check(torch.tensor([0.0, LOG_ZERO, LOG_ZERO])).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"within the support \(LogSimplex\(\)\)"):
        distribution.log_prob(torch.zeros(2, 3))
