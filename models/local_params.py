"""Pyro modules with parameters of their own, outside Pyro's global store."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

__all__ = ["LocalModule", "without_param_sites"]

_param_sites = True


class LocalModule(PyroModule):
    r"""A :class:`pyro.nn.PyroModule` with parameters of its own.

    Pyro keeps parameters in one global store, so that a second module of the same name takes the first one's values,
    and a notebook cell that is run again has no effect. Pyro's setting ``module_local_params`` ends that, but is
    global too. This class enters the setting around its own construction and calls, and restores it.

    Examples:
        >>> class Coin(LocalModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.logit = torch.nn.Parameter(torch.zeros(()))
        >>> [name for name, _ in Coin().named_parameters()], len(pyro.get_param_store())
        (['logit'], 0)
    """

    def __init__(self, name: str = "") -> None:
        with pyro.settings.context(module_local_params=True):
            super().__init__(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK):
            raise RuntimeError(
                "pyro.infer.SVI trains Pyro's global parameter store, which this module does not use: "
                "take pyroformer.SVI, which has the same step()."
            )
        with pyro.settings.context(module_local_params=True):
            return super().__call__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if not _param_sites:
            part = self.__dict__.get("_modules", {}).get(name)
            if isinstance(part, nn.Module) and not isinstance(part, PyroModule):
                return part
        return super().__getattr__(name)


@contextmanager
def without_param_sites() -> Iterator[None]:
    """Traces without a site for each parameter of the plain modules in a :class:`LocalModule`.

    Pyro makes these sites at every access to such a module: 6 to 24 % of the time of a training step of a small model
    on a CPU. Only a handler of somebody else's around this could use them, such as ``poutine.trace``: then they are
    made.

    Examples:
        >>> class Coin(LocalModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = torch.nn.Linear(1, 1)
        ...     def forward(self):
        ...         return pyro.sample("z", pyro.distributions.Normal(self.network(torch.ones(1)), 1.0))
        >>> list(pyro.poutine.trace(Coin()).get_trace().nodes)
        ['_INPUT', 'network$$$weight', 'network$$$bias', 'z', '_RETURN']
        >>> with without_param_sites():
        ...     list(pyro.poutine.trace(Coin()).get_trace().nodes)
        ['_INPUT', 'z', '_RETURN']
    """
    global _param_sites
    before, _param_sites = _param_sites, _param_sites and bool(_PYRO_STACK)
    try:
        yield
    finally:
        _param_sites = before
