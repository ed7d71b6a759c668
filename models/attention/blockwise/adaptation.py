"""EM on the means, a block of queries at a time: given all queries or, causally, given those up to each one."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...utils.tensor_checks import is_known
from ..key_adaptation import keeps_moving
from ..log_space import normalized
from .distances import distances_after
from .problem import Block, Problem

__all__ = ["State", "adapted", "causal_logits", "no_statistics"]

State = list[tuple[Tensor, Tensor]]  # of each step: counts [* N 1] and sums [* N D] of the queries so far


def adapted(problem: Problem, steps: int) -> Float[Tensor, "*batch n d"]:
    """Means after EM steps on all queries."""
    kappa, active = problem.log_kappa.exp(), None
    present = problem.log_weights != -torch.inf
    for _ in range(steps):
        count, total = _statistics(problem)
        moved = (kappa * problem.initial + total) / (kappa + count)
        moved = moved if active is None else torch.where(active, moved, problem.means)
        old, problem = problem.means, replace(problem, means=moved)
        if problem.tolerance is not None:
            active = keeps_moving(moved, old, problem.precision, present, problem.tolerance)
            if is_known(active) and not active.any():
                break
    return problem.means


def _statistics(problem: Problem) -> tuple[Tensor, Tensor]:
    """Counts and sums of the queries of each component, added up over blocks."""

    def of_block(rows: slice) -> tuple[Tensor, Tensor]:
        block = Block(replace(problem, attn_mask=None), rows)
        distance = block.distance()
        pull = block.pull(distance, block.logits(distance, block.log_weights()))
        counted, queries = problem.counted, block.queries
        queries = queries if counted is None else torch.where(counted[..., rows, None], queries, 0)
        return pull.sum(-2)[..., None], pull.mT @ queries

    blocks = problem.blocks()
    if len(blocks) == 1:
        return of_block(blocks[0])
    parts = [checkpoint(of_block, rows, use_reentrant=False, preserve_rng_state=False) for rows in blocks]
    counts, totals = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
    return counts, totals


def no_statistics(problem: Problem, steps: int) -> State:
    """The statistics of each step before the first query."""
    n, width = problem.means.shape[-2:]
    counts = problem.means.new_zeros(*problem.batch, n, 1)
    return [(counts, problem.means.new_zeros(*problem.batch, n, width)) for _ in range(steps)]


def causal_logits(block: Block, state: State) -> tuple[Float[Tensor, "*batch r n"], State]:
    """The logits of means that adapt to the queries up to each one, and the statistics after the block.

    Those of the queries before the block are in ``state``.
    """
    queries, log_weights, tolerance = block.queries, block.log_weights(), block.problem.tolerance
    after_weights = distances_after(queries, block.initial, block.precision, block.problem.log_kappa.exp())
    distance = block.distance()
    logits = block.logits(distance, log_weights)
    after: State = []
    frozen = None
    for count, total in state:
        pull, before = block.pull(distance, logits), logits
        after.append((_add(count, pull.sum(-2)[..., None]), _add(total, pull.mT @ queries)))
        new = after_weights(pull, count[..., block.seen, :], total[..., block.seen, :])
        distance = new if frozen is None else torch.where(frozen, distance, new)
        logits = block.logits(distance, log_weights)
        if tolerance is not None:
            change = (normalized(logits).exp() - normalized(before).exp()).detach().abs().amax(-1, keepdim=True)
            frozen = change <= tolerance if frozen is None else frozen | (change <= tolerance)
    return logits, after


def _add(total: Tensor, more: Tensor) -> Tensor:
    """Add sums over components, zero-padding ``more``, which may cover only the first ones."""
    rest = total.shape[-2] - more.shape[-2]
    return total + (F.pad(more, (0, 0, 0, rest)) if rest else more)
