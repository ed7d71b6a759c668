"""The posterior of a text's mixture: Dirichlet weights and Gaussian vectors, the prior's component first."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from ...attention.mixture import Mixture
from ...attention.variances import SharedVariances
from ...distributions.log_dirichlet import LogDirichlet
from ...distributions.presence import Presence, WherePresent
from ...utils.reprs import in_words

__all__ = ["LEAST_LOG_ALPHA", "MOST_LOG_ALPHA", "NO_VECTORS", "MixturePosterior", "kept_components"]

LEAST_LOG_ALPHA = -20.0  # at which a vector is off: its draws have no weight that float64 holds
MOST_LOG_ALPHA = 60.0  # draws and divergences in float64 are exact up to here
NO_VECTORS = (
    "no text keeps a vector of its own: the posterior is the prior's component, and the head of alpha gets no gradient "
    "any more. Fit anew with a larger delta or presence, or another alpha."
)


class MixturePosterior(NamedTuple):
    """Parameters of the posterior mixture; components on axis -1 of ``log_alpha``."""

    log_alpha: Float[Tensor, "*batch N"]
    mean: Float[Tensor, "*batch N P"]
    variance: Float[Tensor, "*batch N P"]
    mask: Bool[Tensor, "*batch N"]
    shared: SharedVariances | None = None  # the same variances as groups, where there are only two
    samples_per_component: int = 1  # components of the prior, and of each token
    log_odds: Float[Tensor, "*batch N"] | None = None  # of presence, where the model has it
    lower: "Mapping[int, MixturePosterior]" = MappingProxyType({})  # of layers of the encoder that attend to mixtures

    def __repr__(self) -> str:
        return in_words(self, self.mean, self.mask, name="components")

    @property
    def log_weights(self) -> Float[Tensor, "*batch N"]:
        r"""Log of the mean weights, :math:`\log \alpha_i / \alpha_0`; those of vectors that are off are exactly 0."""
        return torch.log_softmax(self.log_alpha.masked_fill(~self.kept, -math.inf), -1)

    @property
    def kept(self) -> Bool[Tensor, "*batch N"]:
        """True for the prior's components and those of tokens that are not switched off, as ``relu`` does with some.

        Training draws weights of 0 for the others, so evaluation does not attend to them either. Where the model has
        presence, these are the components that are more probably present than not.
        """
        kept = kept_components(self.log_alpha, self.mask, self.samples_per_component)
        presence = self.presence()
        return kept if presence is None else kept & (presence.mean > 0.5)

    def presence(self) -> Presence | None:
        """The distribution of which components are present; None where the model has no presence."""
        return None if self.log_odds is None else Presence(self.log_odds, self.mask, self.samples_per_component)

    def weights(self, present: Bool[Tensor, "*batch N"] | None = None) -> LogDirichlet:
        """The distribution of the log weights, in float64, of the components that are present: by default of all."""
        return LogDirichlet(self.log_alpha.double(), self.mask if present is None else present)

    def vectors(self, present: Bool[Tensor, "*batch N"] | None = None) -> Distribution:
        """The distribution of the vectors of the components that are present: by default of all."""
        normal: Any = dist.Normal(self.mean, self.variance.sqrt()).to_event(1)
        mask, presence = self.mask if present is None else present, self.presence()
        each: Any = normal.mask(mask) if presence is None else WherePresent(normal, mask, presence.mean)
        distribution: Distribution = each.to_event(1)
        return distribution

    @property
    def layers(self) -> tuple[int, ...]:
        """Empty: every layer attends to the one mixture."""
        return ()

    def memory(self) -> Mixture:
        """The posterior's mean measure, to which evaluation attends: a mixture without the vectors that are off."""
        variances = self.variance if self.shared is None else self.shared
        return Mixture(self.log_weights, self.mean, variances=variances, mask=self.kept)

    def memory_at(self, latents: Float[Tensor, "*batch N P"]) -> Mixture:
        """Unsupported: weights are latent too, so that vectors alone set no mixture."""
        raise ValueError("the latents of a mixture form no table: choose a DELLA or a VAE to set them.")

    def moments(self) -> None:
        """None: weights are latent too, so that the latents form no table of vectors."""

    def token_weights(self) -> Float[Tensor, "*batch T"]:
        """The mean weight of each token's components, in float64; the prior's have the rest of one."""
        masked = self.log_alpha.double().masked_fill(~self.kept, -math.inf)
        return masked.softmax(-1).unflatten(-1, (-1, self.samples_per_component)).sum(-1)[..., 1:]

    def mixture(self) -> "MixturePosterior":
        """The posterior itself."""
        return self


def kept_components(
    log_alpha: Float[Tensor, "*batch N"],
    mask: Bool[Tensor, "*batch N"],
    samples_per_component: int | Int[Tensor, "*batch 1"] = 1,
) -> Bool[Tensor, "*batch N"]:
    """True for the prior's components and those of tokens whose concentration is not 0.

    Examples:
        >>> kept_components(torch.tensor([0.0, LEAST_LOG_ALPHA, 1.0, 1.0]), torch.tensor([True, True, True, False]))
        tensor([ True, False,  True, False])
    """
    each = torch.as_tensor(samples_per_component, device=log_alpha.device)
    off = log_alpha <= LEAST_LOG_ALPHA - each.log() + 1e-3
    own = torch.arange(off.shape[-1], device=off.device) < each
    return mask & (own | ~off)
