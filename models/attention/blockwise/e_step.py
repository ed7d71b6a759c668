r"""The E-step from squared distances: densities with heavy tails, a hard assignment, and relative positions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...utils.numbers import check_at_least
from ...utils.tensor_checks import check_entries
from .relative_positions import RelativePositions, distances
from .tails import influence, log_normalizer, log_tail

__all__ = ["EStep"]


@dataclass(frozen=True)
class EStep:
    r"""The map from squared distances to responsibilities.

    .. math::
        w_{mn} \propto \pi_{mn} \, p(u_m; \mu_n, V_n), \qquad
        p = N \text{ or } t_\nu \text{, a function of } \delta_{mn}^2 = (u_m - \mu_n)^T V_n^{-1} (u_m - \mu_n)

    Components are ``common`` ones, then ``per_key`` Gaussians of each key. The last key belongs to the last query.

    Arguments:
        inverse_degrees: :math:`1 / \nu` of Student's t, with a shape that broadcasts to :math:`(*, M, N)`; None is the
            Gaussian.
        hard: Whether of a key's Gaussians only the most probable counts for a query, and only the most probable of all
            in the E-steps of adaptation. Those that are equal share.
        per_key: The number of Gaussians of each key, which are next to each other.
        common: The number of components in front that belong to no key and that all queries see.
        positions: Vectors of relative positions.

    Raises:
        ValueError: If ``inverse_degrees`` is negative.

    Examples:
        >>> distance, log_weights = torch.tensor([[0.0, 4.0, 100.0]]), torch.zeros(3)
        >>> EStep().logits(distance, log_weights, width=1).softmax(-1)
        tensor([[8.8080e-01, 1.1920e-01, 1.6988e-22]])
        >>> EStep(inverse_degrees=torch.tensor(1.0)).logits(distance, log_weights, width=1).softmax(-1)
        tensor([[0.8265, 0.1653, 0.0082]])
    """

    inverse_degrees: Float[Tensor, "..."] | None = None
    hard: bool = False
    per_key: int = 1
    common: int = 0
    positions: RelativePositions | None = None

    def __post_init__(self) -> None:
        tail = self.inverse_degrees
        if tail is not None:
            check_entries("inverse_degrees", tail, (tail >= 0) & tail.isfinite(), "give finite numbers of at least 0")

    def check(self, components: int) -> None:
        """Raises a ValueError unless each key has all of its components."""
        check_at_least(1, per_key=self.per_key)
        check_at_least(0, common=self.common)
        if (components - self.common) % self.per_key:
            raise ValueError(
                f"per_key is {self.per_key} and common {self.common}: {components} components are no multiple: give "
                "as many as the mixture has."
            )

    def keys(self, components: int) -> int:
        """The number of keys."""
        return (components - self.common) // self.per_key

    def visible(self, queries: Int[Tensor, " m"], seen: int) -> Bool[Tensor, "m n"]:
        """Causal mask of the first ``seen`` components: common ones, and those of keys up to the query's own."""
        columns = torch.arange(seen, device=queries.device)
        return (columns < self.common) | ((columns - self.common) // self.per_key <= queries[:, None])

    def distances(self, queries: Int[Tensor, " m"], seen: int) -> Int[Tensor, "m n"]:
        """Rows of the tables of relative positions, for the components of keys among the first ``seen``."""
        assert self.positions is not None
        columns = torch.arange(seen - self.common, device=queries.device) // self.per_key
        return distances(queries, columns, self.positions.reach)

    def logits(
        self, distance: Float[Tensor, "*#batch m n"], log_weights: Float[Tensor, "..."], width: int
    ) -> Float[Tensor, "*batch m n"]:
        """The log joint, without the normalizer of the density; ``log_weights`` hold the log determinants."""
        if self.inverse_degrees is None:
            logits = log_weights - 0.5 * distance
        else:
            logits = log_weights + log_tail(distance.clamp_min(0), self.inverse_degrees, width)
        if not self.hard or self.per_key == 1:
            return logits
        groups = logits[..., self.common :].unflatten(-1, (-1, self.per_key))
        best = groups == groups.amax(-1, keepdim=True)
        shares = best.sum(-1, keepdim=True).to(groups.dtype).log()
        alone = torch.where(best, groups - shares, -torch.inf).flatten(-2)
        return torch.cat([logits[..., : self.common], alone], -1)

    def pull(
        self,
        weights: Float[Tensor, "*batch m n"],
        distance: Float[Tensor, "*#batch m n"],
        logits: Float[Tensor, "*batch m n"],
        width: int,
    ) -> Float[Tensor, "*batch m n"]:
        """The weight of each query in the M-step of each mean: responsibility, times the influence of heavy tails."""
        if self.hard:
            best = (logits == logits.amax(-1, keepdim=True)).to(weights.dtype)
            weights = torch.where(weights > 0, best / best.sum(-1, keepdim=True), 0)
        if self.inverse_degrees is None:
            return weights
        return weights * influence(distance.clamp_min(0), self.inverse_degrees, width)

    def log_normalizer(self, logits: Float[Tensor, "*batch m n"], width: int) -> Float[Tensor, "..."]:
        """The normalizer of the density, with a shape that broadcasts to [* M]."""
        tail = logits.new_zeros(1, 1) if self.inverse_degrees is None else self.inverse_degrees
        return log_normalizer(tail.expand(torch.broadcast_shapes(tail.shape, (1, 1))), width)[..., 0]

    def bias(
        self,
        queries: Float[Tensor, "*#batch m d"],
        keys: Float[Tensor, "*#batch n d"],
        places: Int[Tensor, " m"],
    ) -> Float[Tensor, "*#batch m n"]:
        """The bias of relative positions on log weights, for queries at ``places``; 0 for common components."""
        assert self.positions is not None
        index = self.distances(places, keys.shape[-2])
        return F.pad(self.positions.bias(queries, keys[..., self.common :, :], index), (self.common, 0))
