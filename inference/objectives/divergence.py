"""KL divergences in closed form, of the densities that distributions have."""

from typing import Any

from torch import Tensor
from torch.distributions import kl_divergence
from torch.distributions.kl import _KL_REGISTRY

__all__ = ["closed_form"]

REGISTERED: Any = _KL_REGISTRY  # the pairs of classes with a divergence
CHECKED = ("torch", "pyro")  # where a class has its parent's density, or the same one computed in another way


def closed_form(p: Any, q: Any) -> Tensor | None:
    r"""The KL divergence of two distributions in closed form; None if there is none.

    torch takes the divergence of a class for its subclasses too. It does not hold for a subclass with a ``log_prob`` of
    its own, which has a divergence only where one is registered for it.

    Examples:
        >>> class Wide(torch.distributions.Normal):
        ...     def log_prob(self, value):
        ...         return super().log_prob(value / 2) - 0.6931
        >>> normal, wide = (kind(torch.zeros(2), 1.0) for kind in (torch.distributions.Normal, Wide))
        >>> closed_form(normal, normal)
        tensor([0., 0.])
        >>> closed_form(normal, wide) is None, closed_form(normal.expand([3, 2]), wide.expand([3, 2])) is None
        (True, True)
    """
    if _has_own_density(p, side=0) or _has_own_density(q, side=1):
        return None
    try:
        return kl_divergence(p, q)
    except NotImplementedError:
        return None


def _has_own_density(distribution: Any, side: int) -> bool:
    """Whether a distribution, or one inside it, has a density that no registered divergence has on this side."""
    while distribution is not None:
        kind: Any = type(distribution)
        if kind.log_prob.__module__.partition(".")[0] not in CHECKED and not any(
            issubclass(kind, pair[side]) and pair[side].log_prob is kind.log_prob for pair in REGISTERED
        ):
            return True
        distribution = getattr(distribution, "base_dist", None)
    return False
