"""The inputs of attention in blocks: queries and components, and the part of them that a block sees."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...utils.precision import at_least_float32
from ..centering import common_center, visible_center
from ..key_adaptation import prior_log_counts
from ..log_space import normalized
from ..mixture import Mixture
from ..query_variances import query_variances
from .distances import squared_distances
from .e_step import EStep

__all__ = ["Block", "Problem"]

ROWS = (32, 128)  # the fewest and most queries in a block
ROWS_DIAGONAL = 8  # where keys of diagonal precisions adapt causally: costs of each query are in proportion to it
ENTRIES = {"cpu": 2**18}  # of a block's matrix
MORE_ENTRIES = 2**25  # on other devices


@dataclass(frozen=True)
class Problem:
    """Queries and components in at least float32, centered, with zeros in place of absent components."""

    queries: Tensor  # [* M D]
    counted: Tensor | None  # [* M]
    means: Tensor  # [* N D]: after adaptation, to all queries at once
    initial: Tensor  # [* N D]
    precision: Tensor  # [* N or 1, D or 1]
    log_weights: Tensor  # [* N], with the log determinant of the precision
    values: Tensor  # [* N V]
    value_variances: Tensor | None  # [* N, V or 1]
    e_step: EStep
    causal: bool
    attn_mask: Tensor | None
    log_kappa: Tensor
    tolerance: float | None
    center: Tensor  # [* 1 D]: where zero was moved to

    @classmethod
    def of(
        cls,
        queries: Tensor,
        mixture: Mixture,
        e_step: EStep,
        causal: bool = False,
        attn_mask: Tensor | None = None,
        mask: Tensor | None = None,
        pseudo_counts: float = 1.0,
        tolerance: float | None = None,
    ) -> "Problem":
        total, present = query_variances(mixture), mixture.present
        log_det = total.log().sum(-1) * (mixture.width / total.shape[-1])
        log_weights = at_least_float32(mixture.log_weights) - 0.5 * log_det
        means = torch.where(present[..., None], at_least_float32(mixture.means), 0)
        queries = at_least_float32(queries)
        if causal and mask is not None:  # padding, which may be NaN, has no part in sums over earlier queries
            queries = torch.where(mask[..., None], queries, 0)
        if causal and not e_step.common:  # of the first Gaussian of each key
            center = visible_center(queries, means[..., :: e_step.per_key, :], present[..., :: e_step.per_key])
        elif causal or attn_mask is not None:
            center = means.new_zeros(1, means.shape[-1])  # any that depends on tokens would leak their rounding
        else:
            center = common_center(means, present)
        initial, spread = means - center, mixture.value_variances
        assert mixture.values is not None
        return cls(
            queries=queries - center,
            counted=mask,
            means=initial,
            initial=initial,
            precision=1 / total,
            log_weights=torch.where(present, log_weights, -torch.inf),
            values=torch.where(present[..., None], at_least_float32(mixture.values), 0),
            value_variances=None if spread is None else torch.where(present[..., None], at_least_float32(spread), 0),
            e_step=e_step,
            causal=causal,
            attn_mask=attn_mask,
            log_kappa=prior_log_counts(pseudo_counts, means),
            tolerance=tolerance,
            center=center,
        )

    @property
    def batch(self) -> torch.Size:
        parts = (self.queries, self.means, self.precision, self.values, self.log_weights[..., None])
        return torch.broadcast_shapes(*(part.shape[:-2] for part in parts))

    def columns(self, stop: int) -> int:
        """The number of components, counted from the first, that are seen by the queries before ``stop``.

        Of keys it is one at least, which is masked where no query sees it: sums over components have a term.
        """
        n, step = self.means.shape[-2], self.e_step
        if not self.causal:
            return n
        keys = max(1, stop + step.keys(n) - self.queries.shape[-2])
        return min(n, step.common + keys * step.per_key)

    def blocks(self, adapting: bool = False) -> list[slice]:
        """The queries in blocks; one where sizes are symbols of a graph that is exported."""
        m, n = self.queries.shape[-2], self.means.shape[-2]
        if torch.compiler.is_exporting():
            return [slice(0, m)]
        least, most = ROWS
        entries = ENTRIES.get(self.queries.device.type, MORE_ENTRIES)
        size = min(most, max(least, entries // max(1, self.batch.numel() * n)))
        if adapting and self.precision.shape[-1] > 1:
            size = ROWS_DIAGONAL if m > least else size
        return [slice(0, m)] if m <= size else [slice(i, min(i + size, m)) for i in range(0, m, size)]


@dataclass(frozen=True)
class Block:
    """Some queries, and the components that they see."""

    problem: Problem
    rows: slice

    @property
    def seen(self) -> slice:
        return slice(0, self.problem.columns(self.rows.stop))

    @property
    def queries(self) -> Float[Tensor, "*batch r d"]:
        return self.problem.queries[..., self.rows, :]

    @property
    def initial(self) -> Float[Tensor, "*batch n d"]:
        return self.problem.initial[..., self.seen, :]

    @property
    def precision(self) -> Float[Tensor, "..."]:
        precision = self.problem.precision
        return precision if precision.shape[-2] == 1 else precision[..., self.seen, :]

    @property
    def places(self) -> Tensor:
        """The positions of the queries among those of keys."""
        m, keys = self.problem.queries.shape[-2], self.problem.e_step.keys(self.problem.means.shape[-2])
        return torch.arange(self.rows.start, self.rows.stop, device=self.queries.device) + (keys - m)

    def distance(self) -> Float[Tensor, "*batch r n"]:
        """Squared distances to the means of the problem."""
        return squared_distances(self.queries, self.problem.means[..., self.seen, :], self.precision)

    def log_weights(self) -> Float[Tensor, "*batch #r n"]:
        """The part of the logits that no step changes: weights, relative positions, and -inf where masked."""
        problem, seen = self.problem, self.seen
        weights = problem.log_weights[..., None, seen]
        if problem.e_step.positions is not None:
            queries, keys = self.queries + problem.center, self.initial + problem.center
            weights = weights + problem.e_step.bias(queries, keys, self.places)
        if problem.attn_mask is not None:
            return torch.where(problem.attn_mask[..., self.rows, :], weights, -torch.inf)
        if problem.causal:
            return torch.where(problem.e_step.visible(self.places, seen.stop), weights, -torch.inf)
        return weights

    def logits(
        self, distance: Float[Tensor, "*batch r n"], log_weights: Float[Tensor, "*#batch #r n"]
    ) -> Float[Tensor, "*batch r n"]:
        """The log joint of queries at some distance of the means, and of their components."""
        return self.problem.e_step.logits(distance, log_weights, self.queries.shape[-1])

    def pull(
        self, distance: Float[Tensor, "*batch r n"], logits: Float[Tensor, "*batch r n"]
    ) -> Float[Tensor, "*batch r n"]:
        """How much each query that counts moves each mean."""
        weights, counted = normalized(logits).exp(), self.problem.counted
        pull = self.problem.e_step.pull(weights, distance, logits, self.queries.shape[-1])
        return pull if counted is None else torch.where(counted[..., self.rows, None], pull, 0)
