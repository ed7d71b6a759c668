r"""Control of the share of vectors that a mixture keeps, by the prior's increase of the concentration with a token."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...guides.nvae import NVAEGuide
from ...models.priors.weights import BoundedDirichletProcess
from .pi_controller import PIController

__all__ = ["KeepController", "check_keep", "check_switches_off"]

LEAST_DELTA, LARGEST_DELTA = 0.01, 10.0
TOLERANCE = 0.02  # a share that is kept varies from one validation to the next


class KeepController(PIController):
    r"""A prior's delta that keeps a share of the vectors, by a :class:`~.pi_controller.PIController`.

    While more vectors are kept than the target, delta falls, never below its least value: where it is near 0, all
    vectors of all texts are switched off, from which a ``relu`` does not recover. With a target of 1 it can only grow.

    Arguments:
        keep: The share to keep, above 0 and at most 1.
        prior: The prior of the weights, whose ``delta`` is set before each step.
        proportional: :math:`-K_P`.
        integral: :math:`-K_I`.
        memory: Decay of the moving average at a step.
        least: The smallest delta.
        largest: The largest delta.

    Examples:
        >>> from pyroformer.models.priors.weights import BoundedDirichletProcess
        >>> prior = BoundedDirichletProcess(delta=0.3)
        >>> controller = KeepController(0.5, prior)
        >>> for _ in range(100):  # 80 of 100 vectors are kept
        ...     controller.update(torch.tensor(80.0), torch.tensor(100.0))
        >>> controller.set_delta()
        >>> float(prior.delta) < 0.3
        True
    """

    def __init__(
        self,
        keep: float,
        prior: BoundedDirichletProcess,
        proportional: float = 0.5,
        integral: float = 0.02,
        memory: float = 0.95,
        least: float = LEAST_DELTA,
        largest: float = LARGEST_DELTA,
    ) -> None:
        # Negative gains: more vectors are kept with a larger delta.
        super().__init__(keep, prior.delta.detach().cpu().log(), -proportional, -integral, memory, least, largest)
        self._prior = (prior,)  # in a tuple: its buffers are those of the model

    @property
    def delta(self) -> Float[Tensor, ""]:
        """The prior's delta at the last step."""
        return self._prior[0].delta

    def excess(self, share: float) -> float:
        """The part of a share that is kept beyond the target and a small tolerance."""
        return max(share - self.target - TOLERANCE, 0.0)

    @torch.no_grad()
    def set_delta(self) -> None:
        """Set the prior's delta for the next step."""
        self._prior[0].delta.copy_(self.value)

    def update(self, kept: Float[Tensor, ""], tokens: Float[Tensor, ""]) -> None:
        """Update delta from the number of vectors that a step kept and that of its tokens."""
        self.move(kept / tokens.clamp(min=1e-12))


def check_keep(model: nn.Module, guide: nn.Module | None) -> BoundedDirichletProcess:
    """The prior whose delta decides how many vectors are kept.

    Raises:
        ValueError: If the model has presence, the prior of the weights has no delta, or one out of the controller's
            range, or the guide cannot switch a vector off.
    """
    if getattr(model, "presence", None) is not None:
        raise ValueError(
            f"presence is {model.presence:g}, which decides how many vectors stay, in place of a delta: leave presence "
            "out, or leave keep out."
        )
    prior = getattr(model, "weight_prior", None)
    if not isinstance(prior, BoundedDirichletProcess):
        raise ValueError(
            f"weight_prior is a {type(prior).__name__}, and keep is about the delta of a BoundedDirichletProcess: "
            "leave weight_prior out, or leave keep out."
        )
    delta = float(prior.delta)
    if not LEAST_DELTA * (1 - 1e-6) <= delta <= LARGEST_DELTA * (1 + 1e-6):  # float32 has the ends only nearly
        raise ValueError(
            f"delta is {delta:g}, and keep moves it between {LEAST_DELTA:g} and {LARGEST_DELTA:g}: begin with a delta "
            "between them, such as 0.3, or leave keep out."
        )
    if not isinstance(guide, NVAEGuide):
        raise ValueError(_none_ever(f"a {type(guide).__name__}"))
    check_switches_off(guide.alpha.form)
    return prior


def check_switches_off(alpha: str) -> None:
    """Raises a ValueError if a guide whose concentrations have this form switches no vector off."""
    if alpha != "relu":
        raise ValueError(_none_ever(f"alpha={alpha!r}"))


def _none_ever(form: str) -> str:
    return (
        f"keep is a share of vectors that are not switched off, and with {form} none ever is: give the guide "
        "alpha='relu', or leave keep out."
    )
