"""Vectors that a head of alpha switches off: their weight is 0, so that the exact divergence is infinite.

The prior gives every vector a weight above 0. Where the posterior gives it none, no draw from the posterior could come
from the prior, and there is no bound of log p(x). A concentration that is switched off is kept at a tiny value, for
which the divergence is a finite number that means nothing: a hundred million nats for each vector.
"""

from collections.abc import Mapping

from jaxtyping import Bool
from torch import Tensor, nn

from ...guides.nvae import NVAEGuide
from ...models.base import SWITCHES_OFF
from ...models.distributions.log_dirichlet import LogDirichlet
from ...models.transformer.mixtures.posterior import LEAST_LOG_ALPHA
from .traces import Site

__all__ = ["check_never_off", "switched_off", "switches_off"]

OFF = LEAST_LOG_ALPHA + 1e-3  # float32 has log(exp(-20)) only nearly


def switches_off(guide: nn.Module | None) -> bool:
    """Whether a guide can switch vectors off."""
    return isinstance(guide, NVAEGuide) and guide.alpha.form == "relu"


def check_never_off(guide: nn.Module | None, objective: str) -> None:
    """Raises a ValueError if a guide can switch vectors off, for an objective with exact divergences."""
    if switches_off(guide):
        raise ValueError(
            f"alpha is relu, which switches vectors off, and the objective {objective} has the exact divergence of "
            "their weights, which is infinite then: choose the objective nvib, for a model with a base_measure of "
            "independent vectors (gaussian), or give the guide another alpha."
        )


def switched_off(sites: Mapping[str, Site], posterior: Mapping[str, Site]) -> dict[str, Bool[Tensor, "*batch"]]:
    """By site of weights, the texts for which a vector of the prior is switched off.

    Only a guide whose head of alpha is made to switch off does so, and its sites say it: another guide's concentration
    may be as small, and has the divergence that it has.

    Examples:
        >>> import torch
        >>> prior, kept, off = (LogDirichlet(torch.tensor([0.0, a])) for a in (0.0, -3.0, LEAST_LOG_ALPHA))
        >>> sites = [{"weights": {"fn": each, "infer": {SWITCHES_OFF: True}}} for each in (prior, kept, off)]
        >>> [bool(switched_off(sites[0], each)["weights"]) for each in sites[1:]]
        [False, True]
    """
    found = {}
    for name, site in posterior.items():
        q, p = site["fn"], sites[name]["fn"] if name in sites else None
        if not isinstance(q, LogDirichlet) or p is None or not site["infer"].get(SWITCHES_OFF):
            continue
        off = q.log_concentration <= OFF
        if isinstance(p, LogDirichlet):
            off = off & (p.log_concentration > OFF)
        found[name] = (off if q.present is None else off & q.present).any(-1)
    return found
