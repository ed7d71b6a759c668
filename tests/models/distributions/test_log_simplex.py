"""The transform onto log weights: densities integrate to one over log ratios, and guides fit the shipped priors."""

import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch.distributions import biject_to, transform_to

import pyroformer as pf
from pyroformer.guides.automatic import Automatic
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.log_simplex import log_simplex
from pyroformer.models.distributions.stick_breaking import LogStickBreaking
from pyroformer.models.mixture_attention import MixtureAttention


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
