r"""Attention with all its weights, a block of queries at a time: for mixtures that no attention kernel computes.

These are mixtures with heavy tails, a hard E-step, weights that depend on positions, and keys that adapt causally. With
N keys of D dimensions M queries cost :math:`O(M N D)`, as in attention, and memory :math:`O((M + N) D)`; where keys
adapt causally and gradients are needed, that of :math:`O(\sqrt M)` blocks in addition.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...utils.choices import check_choice
from ...utils.precision import without_autocast
from ..attend import Returns, check_restrictions
from ..key_adaptation import check_steps, check_tolerance
from ..log_space import normalized, safe_logsumexp
from ..mixture import Mixture
from ..observations import check_queries, with_all_rows
from ..query_variances import check_variances
from .adaptation import State, adapted, causal_logits, no_statistics
from .e_step import EStep
from .problem import Block, Problem

__all__ = ["blockwise_attend"]


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
    check_variances(mixture)
    check_choice("returns", returns, get_args(Returns))
    check_tolerance(tolerance)
    e_step = EStep() if e_step is None else e_step
    if mixture.values is None:
        raise ValueError("the mixture has no values: give Mixture(..., values=...).")
    steps = check_steps(steps)
    if not isinstance(e_step, EStep):
        raise ValueError(f"e_step has type {type(e_step).__name__}: give an EStep.")
    check_restrictions(causal, attn_mask, dropout)
    e_step.check(mixture.components)
    with without_autocast(queries.device):
        attn_mask = with_all_rows(attn_mask, queries.shape[-2])
        mask = with_all_rows(mask, queries.shape[-2], dim=-1) if steps else None
        problem = Problem.of(queries, mixture, e_step, causal, attn_mask, mask, pseudo_counts, tolerance)
        if steps and not causal:
            problem = replace(problem, means=adapted(problem, steps))
        state = no_statistics(problem, steps) if causal else []
        answers = _scanned(problem, _Answer(returns, dropout), state)
    return answers.to(queries.dtype) if returns != "evidence" else answers[..., 0]


class _Answer:
    """The answers of a block, as a function of its logits."""

    def __init__(self, returns: Returns, dropout: float) -> None:
        self.returns, self.dropout = returns, dropout

    def __call__(self, block: Block, logits: Tensor) -> Tensor:
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


def _scanned(problem: Problem, answer: _Answer, state: State) -> Tensor:
    """The answers of all queries; the statistics ``state`` are carried from block to block."""
    blocks = problem.blocks(adapting=len(state) > 0)  # torch 2.11 cannot compile bool(list)
    if len(blocks) == 1 or not state:
        return _run(problem, answer, blocks, state)[0]
    # Blocks are computed again in the backward pass and, as they depend on each other, in segments of about as many
    # blocks as there are segments: what is kept at the start of each is small.
    size, answers = max(1, round(len(blocks) ** 0.5)), []
    for start in range(0, len(blocks), size):
        part, state = _again(_run, problem, answer, blocks[start : start + size], state)
        answers.append(part)
    return torch.cat(answers, -2)


def _run(problem: Problem, answer: _Answer, blocks: list[slice], state: State) -> tuple[Tensor, State]:
    """The answers of some blocks in turn, and the statistics after them."""
    if len(blocks) == 1:
        return _of_block(problem, answer, blocks[0], state)
    answers = []
    for rows in blocks:
        part, state = _again(_of_block, problem, answer, rows, state)
        answers.append(part)
    return torch.cat(answers, -2), state


def _of_block(problem: Problem, answer: _Answer, rows: slice, state: State) -> tuple[Tensor, State]:
    """The answers of a block, with the given means or, with ``state``, means adapted to the queries up to each."""
    block = Block(problem, rows)
    if not state:
        return answer(block, block.logits(block.distance(), block.log_weights())), state
    logits, state = causal_logits(block, state)
    return answer(block, logits), state


Part = TypeVar("Part")
Scan = Callable[[Problem, _Answer, Part, State], tuple[Tensor, State]]


def _again(function: Scan[Part], problem: Problem, answer: _Answer, part: Part, state: State) -> tuple[Tensor, State]:
    """Call a function with its activations checkpointed: they are recomputed in the backward pass."""
    if not torch.is_grad_enabled():
        return function(problem, answer, part, state)

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        answers, after = function(problem, answer, part, _paired(tensors))
        return answers, *(tensor for pair in after for tensor in pair)

    # tensors inside of lists would be kept for the backward pass, those of every block
    own = (tensor for pair in state for tensor in pair)
    answers, *after = checkpoint(flat, *own, use_reentrant=False, preserve_rng_state=answer.dropout > 0)
    return answers, _paired(after)


def _paired(tensors: Sequence[Tensor]) -> State:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
