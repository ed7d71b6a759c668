r"""Attention with all its weights, a block of queries at a time: for mixtures that no attention kernel computes.

These are mixtures with heavy tails, a hard E-step, weights that depend on positions, and keys that adapt causally. With
N keys of D dimensions M queries cost :math:`O(M N D)`, as in attention, and memory :math:`O((M + N) D)`; where keys
adapt causally and gradients are needed, that of :math:`O(\sqrt M)` blocks in addition.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...utils.choices import check_choice
from ...utils.precision import at_least_float32, without_autocast
from ..attend import Returns
from ..centering import common_center, visible_center
from ..key_adaptation import check_pseudo_counts, check_steps, check_tolerance, keeps_moving, prior_log_counts
from ..log_space import normalized, safe_logsumexp
from ..mixture import Mixture
from ..observations import check_queries, with_all_rows
from ..query_variances import query_variances
from .distances import distances_after, squared_distances
from .e_step import EStep

__all__ = ["blockwise_attend"]

ROWS = (32, 128)  # the fewest and most queries in a block
ROWS_DIAGONAL = 8  # where keys of diagonal precisions adapt causally: costs of each query are in proportion to it
ENTRIES = {"cpu": 2**18}  # of a block's matrix
MORE_ENTRIES = 2**25  # on other devices


def blockwise_attend(
    queries: Float[Tensor, "*#batch m d"],
    mixture: Mixture,
    *,
    returns: Returns = "mean",
    e_step: EStep | None = None,
    steps: int = 0,
    pseudo_counts: float = 1.0,
    tolerance: float | None = None,
    mask: Bool[Tensor, "*#batch #m"] | None = None,
    causal: bool = False,
    attn_mask: Bool[Tensor, "*#batch #m n"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "..."]:
    r"""Attention to a mixture whose means may adapt to the queries first, all of them or, if causal, earlier ones.

    .. math::
        \mu_n \leftarrow \frac{\kappa \mu_n^0 + \sum_m w_{mn} \rho_{mn} u_m}{\kappa + \sum_m w_{mn} \rho_{mn}}, \qquad
        w_{mn} \propto \pi_{mn} \, p(u_m; \mu_n, \sigma_n^2 + s)

    :math:`\rho` is 1 for Gaussians, and for Student's t the :func:`~.tails.influence` of the query.

    Arguments:
        queries: The queries, with shape :math:`(*, M, D)`.
        mixture: The mixture, with values.
        returns: What is returned, as in :func:`~pyroformer.models.attention.attend.attend`. The evidence has the
            normalizer of Student's t.
        e_step: How responsibilities come from distances; by default those of Gaussians.
        steps: The number of EM steps.
        pseudo_counts: :math:`\kappa > 0`.
        tolerance: The means of a batch element stay as they are after a step that moves none of them by more than so
            many standard deviations. Where they adapt causally, the means of a query stay after a step that changes
            none of its weights by more. None is after ``steps``.
        mask: True for the queries that means adapt to.
        causal: Whether query m sees only the keys up to its own, the last of which belongs to the last query; and means
            adapt to earlier queries and itself only, so that each query has means of its own.
        attn_mask: True where query m may attend to component n, in place of ``causal``; means adapt to all queries.
        dropout: Probability that a component is dropped from a mean.

    Raises:
        ValueError: If shapes do not fit, the mixture has no values, or an option is out of range.

    Examples:
        >>> queries, mixture = torch.randn(50, 8), pf.Mixture.from_attention(torch.randn(50, 8), torch.randn(50, 4))
        >>> answers = blockwise_attend(queries, mixture, causal=True)
        >>> torch.allclose(answers, pf.attend(queries, mixture, causal=True), atol=1e-5)
        True
        >>> robust = EStep(inverse_degrees=torch.tensor(0.5))  # Student's t with two degrees of freedom
        >>> blockwise_attend(queries, mixture, e_step=robust, steps=2, causal=True).shape
        torch.Size([50, 4])
    """
    check_queries(queries, mixture, attn_mask=attn_mask, mask=mask)
    check_choice("returns", returns, ("mean", "variance", "evidence"))
    check_pseudo_counts(pseudo_counts)
    check_tolerance(tolerance)
    e_step = EStep() if e_step is None else e_step
    if mixture.values is None:
        raise ValueError("the mixture has no values: give Mixture(..., values=...)")
    steps = check_steps(steps)
    if isinstance(dropout, str) or not 0 <= dropout <= 1:
        raise ValueError(f"dropout is {dropout!r}: give a probability from 0 to 1")
    if not isinstance(e_step, EStep):
        raise ValueError(f"e_step has type {type(e_step).__name__}: give an EStep")
    if causal and attn_mask is not None:
        raise ValueError("causal and attn_mask both restrict attention: give one of them")
    e_step.check(queries.shape[-2], mixture.components, causal)
    with without_autocast(queries.device):
        attn_mask = with_all_rows(attn_mask, queries.shape[-2])
        mask = with_all_rows(mask, queries.shape[-2], dim=-1) if steps else None
        problem = _Problem.of(queries, mixture, e_step, causal, attn_mask, mask, pseudo_counts, tolerance)
        if steps and not causal:
            problem = replace(problem, means=_adapted(problem, steps))
        answers = _scanned(problem, _Answer(returns, dropout), steps if causal else 0)
    return answers.to(queries.dtype) if returns != "evidence" else answers


@dataclass(frozen=True)
class _Problem:
    """Queries and components in float32 at least, moved to where they are small, with nothing left that is NaN."""

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
        causal: bool,
        attn_mask: Tensor | None,
        mask: Tensor | None,
        pseudo_counts: float,
        tolerance: float | None,
    ) -> "_Problem":
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
        assert mixture.values is not None
        spread = mixture.value_variances
        return cls(
            queries - center,
            mask,
            means - center,
            means - center,
            1 / total,
            torch.where(present, log_weights, -torch.inf),
            torch.where(present[..., None], at_least_float32(mixture.values), 0),
            None if spread is None else torch.where(present[..., None], at_least_float32(spread), 0),
            e_step,
            causal,
            attn_mask,
            prior_log_counts(pseudo_counts, means),
            tolerance,
            center,
        )

    @property
    def batch(self) -> torch.Size:
        parts = (self.queries, self.means, self.precision, self.values, self.log_weights[..., None])
        return torch.broadcast_shapes(*(part.shape[:-2] for part in parts))

    def columns(self, stop: int) -> int:
        """The number of components, counted from the first, that are seen by the queries before ``stop``."""
        n, step = self.means.shape[-2], self.e_step
        if not self.causal:
            return n
        return min(n, step.common + (stop + step.keys(n) - self.queries.shape[-2]) * step.per_key)

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
class _Block:
    """Some queries, and the components that they see."""

    problem: _Problem
    rows: slice

    @property
    def seen(self) -> slice:
        return slice(0, self.problem.columns(self.rows.stop))

    @property
    def queries(self) -> Tensor:
        return self.problem.queries[..., self.rows, :]

    @property
    def precision(self) -> Tensor:
        precision = self.problem.precision
        return precision if precision.shape[-2] == 1 else precision[..., self.seen, :]

    @property
    def places(self) -> Tensor:
        """The positions of the queries among those of keys."""
        m, keys = self.problem.queries.shape[-2], self.problem.e_step.keys(self.problem.means.shape[-2])
        return torch.arange(self.rows.start, self.rows.stop, device=self.queries.device) + (keys - m)

    def log_weights(self) -> Tensor:
        """What stays in all steps: weights, relative positions, and -inf for what is not seen."""
        problem, seen = self.problem, self.seen
        weights = problem.log_weights[..., None, seen]
        if problem.e_step.positions is not None:
            queries, keys = self.queries + problem.center, problem.initial[..., seen, :] + problem.center
            weights = weights + problem.e_step.bias(queries, keys, self.places)
        if problem.attn_mask is not None:
            return torch.where(problem.attn_mask[..., self.rows, :], weights, -torch.inf)
        if problem.causal:
            return torch.where(problem.e_step.visible(self.places, seen.stop), weights, -torch.inf)
        return weights

    def pull(self, distance: Tensor, logits: Tensor) -> Tensor:
        """How much each query that counts moves each mean."""
        weights, counted = normalized(logits).exp(), self.problem.counted
        pull = self.problem.e_step.pull(weights, distance, logits, self.queries.shape[-1])
        return pull if counted is None else torch.where(counted[..., self.rows, None], pull, 0)


class _Answer:
    """What is returned of a block's logits."""

    def __init__(self, returns: Returns, dropout: float) -> None:
        self.returns, self.dropout = returns, dropout

    def __call__(self, block: _Block, logits: Tensor) -> Tensor:
        problem, e_step = block.problem, block.problem.e_step
        if self.returns == "evidence":
            return (safe_logsumexp(logits) + e_step.log_normalizer(logits, block.queries.shape[-1]))[..., None]
        positions, seen = e_step.positions, block.seen.stop
        weights, values = normalized(logits).exp(), problem.values[..., block.seen, :]
        if self.returns == "mean":
            weights = F.dropout(weights, self.dropout) if self.dropout else weights
            mean = weights @ values
            if positions is None:
                return mean
            return mean + positions.mean_value(weights[..., e_step.common :], e_step.distances(block.places, seen))
        values = values[..., None, :, :]
        if positions is not None:
            moved = positions.values.to(values.dtype)[..., e_step.distances(block.places, seen), :]
            values = values + F.pad(moved, (0, 0, e_step.common, 0))
        shares = weights[..., None]
        mean = (shares * values).sum(-2, keepdim=True)
        variance = (shares * (values - mean).square()).sum(-2)
        own = problem.value_variances
        return variance if own is None else variance + weights @ own[..., block.seen, :]


State = list[tuple[Tensor, Tensor]]  # of each step: counts [* N 1] and sums [* N D] of the queries so far


def _scanned(problem: _Problem, answer: _Answer, steps: int) -> Tensor:
    """The answers of all queries. With ``steps``, each block takes on the statistics of those before it."""
    blocks = problem.blocks(adapting=steps > 0)
    if len(blocks) == 1:
        return _narrow(_run(problem, answer, steps, blocks, _empty(problem, steps))[0], answer)
    # Blocks are computed again in the backward pass and, where they depend on each other, in segments of about as many
    # blocks as there are segments: what is kept at the start of each is small.
    size = max(1, round(len(blocks) ** 0.5)) if steps else len(blocks)
    state, answers = _empty(problem, steps), []
    for start in range(0, len(blocks), size):
        segment = blocks[start : start + size]
        if steps:
            part, state = _again(_run, problem, answer, steps, segment, state)
        else:
            part, state = _run(problem, answer, steps, segment, state)
        answers.append(part)
    return _narrow(torch.cat(answers, -2), answer)


def _run(problem: _Problem, answer: _Answer, steps: int, blocks: list[slice], state: State) -> tuple[Tensor, State]:
    """The answers of some blocks in turn, and the statistics after them."""
    one = _causal_block if steps else _plain_block
    if len(blocks) == 1:
        return one(problem, answer, steps, blocks[0], state)
    answers = []
    for rows in blocks:
        part, state = _again(one, problem, answer, steps, rows, state)
        answers.append(part)
    return torch.cat(answers, -2), state


Part = TypeVar("Part")
Scan = Callable[[_Problem, _Answer, int, Part, State], tuple[Tensor, State]]


def _again(
    function: Scan[Part], problem: _Problem, answer: _Answer, steps: int, part: Part, state: State
) -> tuple[Tensor, State]:
    """A function whose intermediate results are computed again in the backward pass."""
    if not torch.is_grad_enabled():
        return function(problem, answer, steps, part, state)

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        answers, after = function(problem, answer, steps, part, _paired(tensors))
        return answers, *(tensor for pair in after for tensor in pair)

    # tensors inside of lists would be kept for the backward pass, those of every block
    own = (tensor for pair in state for tensor in pair)
    answers, *after = checkpoint(flat, *own, use_reentrant=False, preserve_rng_state=answer.dropout > 0)
    return answers, _paired(after)


def _paired(tensors: Sequence[Tensor]) -> State:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _narrow(answers: Tensor, answer: _Answer) -> Tensor:
    return answers[..., 0] if answer.returns == "evidence" else answers


def _plain_block(problem: _Problem, answer: _Answer, steps: int, rows: slice, state: State) -> tuple[Tensor, State]:
    """Attention to the means as they are."""
    block = _Block(problem, rows)
    distance = squared_distances(block.queries, problem.means[..., block.seen, :], block.precision)
    return answer(block, problem.e_step.logits(distance, block.log_weights(), block.queries.shape[-1])), state


def _adapted(problem: _Problem, steps: int) -> Tensor:
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
            if not torch.compiler.is_compiling() and moved.device.type == "cpu" and not bool(active.any()):
                break
    return problem.means


def _statistics(problem: _Problem) -> tuple[Tensor, Tensor]:
    """Counts and sums of the queries of each component, added up over blocks."""

    def of_block(rows: slice) -> tuple[Tensor, Tensor]:
        block = _Block(replace(problem, attn_mask=None), rows)
        distance = squared_distances(block.queries, problem.means, block.precision)
        pull = block.pull(distance, problem.e_step.logits(distance, block.log_weights(), block.queries.shape[-1]))
        counted, queries = problem.counted, block.queries
        queries = queries if counted is None else torch.where(counted[..., rows, None], queries, 0)
        return pull.sum(-2)[..., None], pull.mT @ queries

    blocks = problem.blocks()
    if len(blocks) == 1:
        return of_block(blocks[0])
    parts = [checkpoint(of_block, rows, use_reentrant=False, preserve_rng_state=False) for rows in blocks]
    counts, totals = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
    return counts, totals


def _empty(problem: _Problem, steps: int) -> State:
    """The statistics before the first query."""
    n, width = problem.means.shape[-2:]
    counts = problem.means.new_zeros(*problem.batch, n, 1)
    return [(counts, problem.means.new_zeros(*problem.batch, n, width)) for _ in range(steps)]


def _causal_block(problem: _Problem, answer: _Answer, steps: int, rows: slice, state: State) -> tuple[Tensor, State]:
    """Attention to means that adapt to the queries up to each one: those before the block are in ``state``."""
    block = _Block(problem, rows)
    queries, means, log_weights = block.queries, problem.initial[..., block.seen, :], block.log_weights()
    after_weights = distances_after(queries, means, block.precision, problem.log_kappa.exp())
    distance = squared_distances(queries, means, block.precision)
    logits = problem.e_step.logits(distance, log_weights, queries.shape[-1])
    after: State = []
    frozen = None
    for count, total in state:
        pull, before = block.pull(distance, logits), logits
        after.append((_add(count, pull.sum(-2)[..., None]), _add(total, pull.mT @ queries)))
        new = after_weights(pull, count[..., block.seen, :], total[..., block.seen, :])
        distance = new if frozen is None else torch.where(frozen, distance, new)
        logits = problem.e_step.logits(distance, log_weights, queries.shape[-1])
        if problem.tolerance is not None:
            change = (normalized(logits).exp() - normalized(before).exp()).detach().abs().amax(-1, keepdim=True)
            frozen = change <= problem.tolerance if frozen is None else frozen | (change <= problem.tolerance)
    return answer(block, logits), after


def _add(total: Tensor, more: Tensor) -> Tensor:
    """A sum over queries, of which some see only the first components."""
    rest = total.shape[-2] - more.shape[-2]
    return total + (F.pad(more, (0, 0, 0, rest)) if rest else more)
