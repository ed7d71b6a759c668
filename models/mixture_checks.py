"""What a mixture and its priors must be to make a model, said in one sentence each where they are not."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributions import Distribution

from .attention.mixture import Mixture, log_sum

__all__ = ["check_law", "check_mixture", "check_support", "fits"]


def fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether a shape broadcasts to another one."""
    aligned = zip(reversed(shape), reversed(expected), strict=False)
    return len(shape) <= len(expected) and all(size in (1, full) for size, full in aligned)


def check_mixture(mixture: Mixture, weighted: bool) -> None:
    """Positive precisions, a unit left and, if ``weighted``, weights that sum to one."""
    present = mixture.present
    if not bool(present.any(-1).all()):
        raise ValueError("the mixture has no unit left: each of its masks or weights must leave one")
    own = mixture.dense_variances()
    own = torch.zeros(1, 1) if own is None else own
    for name, variances in (("precision", own + mixture.query_noise), ("value precision", mixture.value_variances)):
        if variances is None:
            continue
        variances = torch.where(present[..., None], variances, 1)
        bad = ~((variances > 0) & variances.isfinite())
        if bool(bad.any()):
            raise ValueError(
                f"{name} 1 / {float(variances[bad][0]):g} is not positive and finite: give it positive variances"
            )
    total = log_sum(torch.where(present, mixture.log_weights, -torch.inf)).exp()
    tolerance = 1e-6 if total.dtype == torch.float64 else 1e-4
    if weighted and bool(((total - 1).abs() > tolerance).any()):
        worst = float(total.flatten()[(total - 1).abs().argmax()])
        raise ValueError(f"the weights sum to {worst:g}, not to 1: take log_softmax of log_weights")


def check_law(name: str, law: object, batch: Sequence[int], events: Sequence[Sequence[int]]) -> None:
    """A distribution, of one of these event shapes, whose batch shape fits."""
    if not isinstance(law, Distribution):
        raise ValueError(f"the prior of {name} returned a {type(law).__name__}: return a torch or Pyro distribution")
    if tuple(law.event_shape) not in [tuple(event) for event in events]:
        wanted = " or ".join(str(tuple(event)) for event in events)
        raise ValueError(f"the prior of {name} has event shape {tuple(law.event_shape)}, expected {wanted}")
    if not fits(law.batch_shape, batch):
        raise ValueError(f"the prior of {name} has batch shape {tuple(law.batch_shape)}, expected {tuple(batch)}")


def check_support(name: str, law: Any, what: str, holds: bool) -> None:
    """Draws of the right kind."""
    if not holds:
        raise ValueError(f"the prior of {name} has the support {law.support}: it must draw {what}")
