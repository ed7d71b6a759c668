"""A divergence in closed form is that of the densities, whatever the distributions derive from."""

from typing import Any

import pytest
import torch
import torch.distributions as td
from pyro import distributions as dist
from torch.distributions import kl_divergence, register_kl

from pyroformer.inference.objectives.divergence import closed_form
from pyroformer.models.distributions.foreign import as_pyro
from pyroformer.models.distributions.log_dirichlet import LogDirichlet
from pyroformer.models.distributions.presence import WherePresent

ZEROS, MASK = torch.zeros(2, 3), torch.tensor([[True, True, False], [True, True, True]])


class Wide(td.Normal):
    """Twice as wide as it says."""

    def log_prob(self, value: Any) -> Any:
        return super().log_prob(value / 2) - torch.tensor(2.0).log()


class Registered(Wide):
    pass


@register_kl(td.Normal, Registered)  # type: ignore[untyped-decorator]
def _kl(p: Any, q: Any) -> Any:
    return kl_divergence(p, td.Normal(2 * q.loc, 2 * q.scale))


WRAPPED: dict[str, Any] = {
    "bare": lambda normal: normal,
    "independent": lambda normal: td.Independent(normal, 1),
    "of Pyro": lambda normal: as_pyro(td.Independent(normal, 1)),
    "masked": lambda normal: dist.MaskedDistribution(normal, MASK),
    "nested": lambda normal: dist.Independent(dist.MaskedDistribution(normal, MASK), 1),
    "transformed": lambda normal: td.TransformedDistribution(normal, [td.ExpTransform()]),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_class_with_a_density_of_its_own_has_only_a_divergence_of_its_own(wrap: Any) -> None:
    normal, wide, registered = (kind(ZEROS, 1.0, validate_args=False) for kind in (td.Normal, Wide, Registered))
    assert closed_form(wrap(normal), wrap(wide)) is None and closed_form(wrap(wide), wrap(normal)) is None
    assert closed_form(wrap(registered), wrap(normal)) is None  # registered only the other way round
    for prior, twice in ((normal, normal), (registered, td.Normal(ZEROS, 2.0))):
        found = closed_form(wrap(normal), wrap(prior))
        assert found is not None and torch.equal(found, kl_divergence(wrap(normal), wrap(twice)))


def test_divergences_of_the_library_stay_in_closed_form() -> None:
    normal = dist.Normal(ZEROS, 1.0)
    assert closed_form(WherePresent(normal, MASK, MASK.float()), normal.mask(MASK)) is not None
    assert closed_form(LogDirichlet(ZEROS, MASK), LogDirichlet(ZEROS, MASK)) is not None
    for kind in (dist.Categorical, dist.Beta, dist.Gamma, dist.Dirichlet, dist.Poisson):
        distribution = as_pyro(kind(*[torch.ones(3)] * (2 if kind in (dist.Beta, dist.Gamma) else 1)))
        assert closed_form(distribution, distribution) is not None


def test_without_a_closed_form_there_is_none() -> None:
    assert closed_form(dist.Normal(ZEROS, 1.0), dist.StudentT(5.0, ZEROS, 1.0)) is None
