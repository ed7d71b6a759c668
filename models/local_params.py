"""Pyro modules with parameters of their own, outside Pyro's global store."""

from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger

__all__ = ["LocalModule"]


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
