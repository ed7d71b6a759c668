"""The protocol of a posterior over the latents of texts."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ..models.transformer.memory import Memory
from ..models.transformer.mixtures.posterior import MixturePosterior

__all__ = ["TextPosterior"]


@runtime_checkable
class TextPosterior(Protocol):
    r"""The posterior of each text of a batch, as :meth:`~.base.Guide.encode` returns it.

    The methods of a posterior decide which metrics, plots and edits its model has; its class does not matter. A class
    that derives from this one must define :meth:`memory` alone; the other methods then return None or raise.

    Examples:
        >>> from pyroformer.models.transformer.memory import Context
        >>> class PointMass(TextPosterior):
        ...     def memory(self):
        ...         return Context(torch.zeros(2, 1, 8))
        >>> PointMass().layers, PointMass().moments()
        ((), None)
    """

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, from 1, that the latents belong to, one latent each; empty where they belong to no layers."""
        return ()

    def memory(self) -> Memory:
        """The memory that the decoder reads at the mean of the posterior."""
        ...

    def memory_at(self, latents: Float[Tensor, "B N p"]) -> Memory:
        """The memory where the latents have these values, a table of the shape that :meth:`moments` has.

        Raises:
            ValueError: If the latents form no such table.
        """
        raise ValueError(f"the latents of a {type(self).__name__} form no table: choose another model to set them.")

    def moments(self) -> tuple[Float[Tensor, "B N p"], Float[Tensor, "B N p"]] | None:
        """Mean and variance of the latents as tables, N vectors for each text; None where they form no table."""
        return None

    def token_weights(self) -> Float[Tensor, "B T"] | None:
        """The weight of each token's components in the mean mixture; None where nothing has such weights.

        The prior's components have the rest of one. A token that is drawn several times has the sum of its weights.
        """
        return None

    def mixture(self) -> MixturePosterior | None:
        """Dirichlet weights and Gaussian vectors of each text; None where the posterior is no such mixture."""
        return None
