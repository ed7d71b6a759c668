r"""Posteriors of hyper-priors, which every guide has by default."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

from ..models.priors.hyperpriors import draw_hyperpriors
from ..models.utils.seeding import forked_rng

__all__ = ["HyperPosterior"]

DRAWS = 15  # number of draws from the prior, at whose median a posterior starts
SPREAD = 0.1  # initial standard deviation, before the bijection to the support
BOUND = 10.0  # largest initial mean in absolute value: a draw of a Gamma may be zero


class HyperPosterior(nn.Module):
    r"""Independent Gaussians, each mapped onto the support of a hyper-prior; log-normal on positive numbers.

    .. math:: h = b(u), \quad u \sim \mathcal N(\mu, \operatorname{diag} \sigma^2)

    with the bijection :math:`b` that Pyro has for the support.

    Arguments:
        model: The model with the hyper-priors.

    Raises:
        ValueError: If a hyper-prior is not continuous, or its support depends on others.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> from pyroformer.models.priors.weights import GammaDirichletProcess
        >>> config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
        >>> list(HyperPosterior(pf.NVAE(config, weight_prior=GammaDirichletProcess())).distributions())
        ['weight_prior.concentration']
    """

    def __init__(self, model: PyroModule) -> None:
        super().__init__()
        self.supports: dict[str, Any] = {}
        self.mean, self.log_scale = nn.ParameterDict(), nn.ParameterDict()
        # building a guide must not advance the random state
        with forked_rng(seed=0), torch.no_grad():
            draws = [_draw(model) for _ in range(DRAWS)]
        for site, (distribution, _) in draws[0].items():
            self.supports[site] = distribution.support
            bijections = [_bijection(site, draw[site][0]) for draw in draws]
            starts = torch.stack([bijections[0].inv(draw[site][1]) for draw in draws])
            _check_same(site, [bijection(torch.ones_like(starts[0])) for bijection in bijections])
            start = starts.median(0).values
            start = start.clamp(-BOUND, BOUND)
            self.mean[_key(site)] = nn.Parameter(start)
            self.log_scale[_key(site)] = nn.Parameter(torch.full_like(start, SPREAD).log())

    def distributions(self) -> dict[str, Any]:
        """The posterior of each hyper-prior, by site."""
        return {site: self._distribution(site) for site in self.supports}

    def medians(self) -> dict[str, Tensor]:
        """The median of each, by site."""
        return {site: biject_to(support)(self.mean[_key(site)]) for site, support in self.supports.items()}

    def parameters_of(self, module: str) -> Iterator[nn.Parameter]:
        """The parameters of the posteriors of a submodule's hyper-priors, given its path in the model.

        Examples:
            >>> from pyroformer.models.transformer.config import TransformerConfig
            >>> from pyroformer.models.priors.weights import GammaDirichletProcess
            >>> config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
            >>> posterior = HyperPosterior(pf.NVAE(config, weight_prior=GammaDirichletProcess()))
            >>> len(list(posterior.parameters_of("weight_prior"))), len(list(posterior.parameters_of("weight")))
            (2, 0)
        """
        for site in self.supports:
            if site.startswith(f"{module}."):
                yield from (self.mean[_key(site)], self.log_scale[_key(site)])

    @torch.no_grad()
    def copy_from(self, other: "HyperPosterior", place: Callable[[str], str]) -> None:
        """Copy the posterior of each of another model's hyper-priors to the site of this one that ``place`` gives.

        Those that have no such place are left out.
        """
        for site in other.supports:
            if (own := place(site)) in self.supports:
                self.mean[_key(own)].copy_(other.mean[_key(site)])
                self.log_scale[_key(own)].copy_(other.log_scale[_key(site)])

    def forward(self) -> dict[str, Tensor]:
        """One draw of each."""
        return {site: pyro.sample(site, distribution) for site, distribution in self.distributions().items()}

    def _distribution(self, site: str) -> Any:
        normal = dist.Normal(self.mean[_key(site)], self.log_scale[_key(site)].exp())
        return dist.TransformedDistribution(normal, [biject_to(self.supports[site])])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Bounds of a support follow the module to its device and dtype."""
        self.supports = {site: _applied(fn, support) for site, support in self.supports.items()}
        return super()._apply(fn, recurse)


def _bijection(site: str, distribution: Any) -> Any:
    """The bijection of real numbers onto the support of a hyper-prior."""
    try:
        return biject_to(distribution.support)
    except NotImplementedError as error:
        raise ValueError(
            f"the hyper-prior {site} is a {type(distribution).__name__}: hyper-priors must be continuous, such as a "
            "Gamma."
        ) from error


def _check_same(site: str, points: list[Tensor]) -> None:
    """Raises unless the bijections of all draws agree: a support with a random bound has no fixed one."""
    if not all(torch.equal(point, points[0]) for point in points):
        raise ValueError(
            f"the support of the hyper-prior {site} depends on other hyper-priors: give it one of its own, such as "
            "Uniform(0, 1), and multiply its draw by theirs in forward()."
        )


def _applied(fn: Any, support: Any) -> Any:
    """A constraint with ``fn`` applied to all tensors in it."""
    changed = copy.copy(support)
    for name, value in getattr(support, "__dict__", {}).items():
        if isinstance(value, Tensor):
            setattr(changed, name, fn(value))
        elif isinstance(value, Constraint):
            setattr(changed, name, _applied(fn, value))
    return changed


def _draw(model: PyroModule) -> dict[str, tuple[Any, Tensor]]:
    """Distribution and value of each hyper-prior, as in a call of the model."""
    with pyro.settings.context(module_local_params=True), model._pyro_context, poutine.trace() as tracer:
        draw_hyperpriors(model)
    sites: dict[str, Any] = dict(tracer.trace.nodes)
    return {
        name: (site["fn"], site["value"].detach())
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def _key(site: str) -> str:
    """The site as a parameter's name, which must have no dots."""
    return site.replace(".", "__")
