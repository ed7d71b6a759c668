r"""Hyper-priors: priors of a prior's own parameters, drawn once for all texts.

A hyper-prior is a :class:`pyro.nn.PyroSample` inside a prior, or of the model itself. Read for the first time inside
the plate of texts, it would be drawn for each text. So a model draws all its hyper-priors before it opens a plate.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyro
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.distributions import Distribution

from ..local_params import LocalModule
from .checks import as_prior

__all__ = ["Hierarchical", "check_drawn_once", "draw_hyperpriors", "hyperpriors"]


class Hierarchical(LocalModule):
    r"""The second base class, beside its role, of a prior with hyper-priors; or of a model with some of its own.

    An attribute that is set to ``PyroSample(distribution)`` reads as a draw of that distribution, the same for all
    texts. The distribution's numbers become buffers, so that they follow the model to its device and dtype, and are
    saved with it. Its site has the attribute's path from the model as its name: ``base_measure.df``. A guide derived
    from :class:`~pyroformer.guides.base.Guide` has a posterior for it.

    Examples:
        >>> import pyro.distributions as dist
        >>> from pyro.nn import PyroSample
        >>> class Heavy(pf.priors.VectorPrior, pf.priors.Hierarchical):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.df = PyroSample(dist.Gamma(4.0, 1.0))
        ...         self.register_buffer("mean", torch.zeros(width))
        ...     def forward(self):
        ...         return dist.StudentT(2 + self.df, self.mean, 1.0).to_event(1)
        >>> sorted(Heavy(3).state_dict())
        ['df_prior.at_concentration', 'df_prior.at_rate', 'mean']
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, PyroSample) and isinstance(value.prior, Distribution):
            setattr(self, f"{name}_prior", as_prior(value.prior, nn.Module, name))
            value = PyroSample(partial(_distribution, name=f"{name}_prior"))
        super().__setattr__(name, value)


def hyperpriors(model: PyroModule) -> Iterator[tuple[str, PyroModule, str]]:
    """The hyper-priors of a model and its submodules: the name of the site, the module, and its attribute.

    Submodules need not be children of Pyro modules: they become part of the model's context, so that handlers apply.
    """
    context = model._pyro_context
    for path, part in model.named_modules():
        if not isinstance(part, PyroModule):
            continue
        if part._pyro_context is not context:
            # Pyro refuses modules that have run alone, because of its parameter store, which is not used here
            part._pyro_context.used = False
            with pyro.settings.context(module_local_params=False):
                part._pyro_set_supermodule(path, context)
        declared = [name for cls in type(part).__mro__ for name, x in vars(cls).items() if isinstance(x, PyroSample)]
        for name in dict.fromkeys([*part._pyro_samples, *declared]):
            yield f"{path}.{name}" if path else name, part, name


def draw_hyperpriors(model: PyroModule) -> dict[str, Tensor]:
    """One draw of each hyper-prior of a model that is being called, by site.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> from pyroformer.models.priors.weights import GammaDirichletProcess
        >>> config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2)
        >>> model = pf.NVAE(config, weight_prior=GammaDirichletProcess())
        >>> trace = pyro.poutine.trace(model).get_trace(pf.Batch.unobserved(3))
        >>> trace.nodes["weight_prior.concentration"]["value"].shape
        torch.Size([])
    """
    return {site: getattr(part, name) for site, part, name in hyperpriors(model)}


def check_drawn_once(model: PyroModule) -> None:
    """Raises a ValueError if a model with hyper-priors runs in a plate of its caller's, which draws them several times.

    A prior reads one draw: its arithmetic cannot know which dimensions of several are draws, and which are a vector's.
    """
    plates = [each for each in _PYRO_STACK if isinstance(each, IndepMessenger) and each.dim is not None]
    site = next((site for site, _, _ in hyperpriors(model)), None) if plates else None
    if site is not None:
        raise ValueError(
            f"the plate {plates[0].name} draws the hyper-prior {site} {plates[0].size} times at once, and its prior "
            "reads one draw: take vectorize_particles=False, and parallel=False in Predictive."
        )


def _distribution(module: Any, name: str) -> Any:
    distribution: Distribution = getattr(module, name)()
    return distribution
