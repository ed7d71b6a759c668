"""The traces of a guide and of its model replayed on the guide's draws."""

import warnings
from typing import Any

from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match

from ...guides.base import check_pair
from ...models.local_params import without_param_sites
from .site_checks import check_shapes, check_sites, rephrase_pyro_error
from .traces import drawn_by_model

__all__ = ["trace_pair"]


def trace_pair(model: Any, guide: Any, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
    """The trace of the model, replayed on the guide's draws, and the trace of the guide.

    While Pyro's validation is on, the two are checked against each other.

    Raises:
        ValueError: If their sites or shapes do not match.
    """
    check_pair(model, guide)
    try:
        with without_param_sites():
            guide_trace = Trace() if guide is None else poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = _replayed(model, guide_trace, *args, **kwargs)
    except ValueError as error:
        clearer = rephrase_pyro_error(error)
        if clearer is None:
            raise
        raise clearer from error
    if is_validation_enabled():
        check_sites(model_trace, guide_trace)
        check_shapes(model_trace)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pyro's warnings about model and guide are errors here
            check_model_guide_match(_without_own(model_trace), guide_trace)
    return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def _without_own(model_trace: Trace) -> Trace:
    """The model's trace without sites that the guide leaves to it, which Pyro would report as missing."""
    own = drawn_by_model(model_trace)
    if not own:
        return model_trace
    shared = Trace()
    shared.nodes.update({name: site for name, site in model_trace.nodes.items() if name not in own})
    return shared


def _replayed(model: Any, guide_trace: Trace, *args: Any, **kwargs: Any) -> Trace:
    """The model's trace on the guide's draws; if the model fails, the guide's sites are checked as the likely cause."""
    if not guide_trace.nodes:
        return poutine.trace(model).get_trace(*args, **kwargs)
    try:
        return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    except Exception:
        if is_validation_enabled():
            check_sites(poutine.trace(model).get_trace(*args, **kwargs), guide_trace)
        raise
