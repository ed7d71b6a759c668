"""Sums and normalization of log weights that are safe where all of them are -inf."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .chunked import map_chunks

__all__ = ["finite_max", "normalized", "safe_logsumexp", "visible_logsumexp"]


def safe_logsumexp(logits: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """logsumexp over the last dimension whose gradient is zero, not NaN, where every entry is -inf.

    Examples:
        >>> safe_logsumexp(torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]]))
        tensor([0., -inf])
    """
    largest = finite_max(logits)
    total = (logits - largest).exp().sum(-1)
    empty = total == 0
    return torch.where(empty, -torch.inf, largest.squeeze(-1) + torch.where(empty, 1, total).log())


def normalized(
    log_weights: Float[Tensor, "*#batch n"], present: Bool[Tensor, "*#batch n"] | None = None
) -> Float[Tensor, "*#batch n"]:
    r"""Log weights that sum to one over the components that are present, and :math:`-\infty` elsewhere.

    Where no component is present, all log weights are :math:`-\infty`.

    Examples:
        >>> normalized(torch.zeros(3), torch.tensor([True, True, False])).exp().tolist()
        [0.5, 0.5, 0.0]
    """
    if present is not None:
        log_weights = torch.where(present, log_weights, -torch.inf)
    total = safe_logsumexp(log_weights)[..., None]
    return log_weights - torch.where(total.isfinite(), total, 0)


def visible_logsumexp(
    log_weights: Float[Tensor, "*#batch n"], attn_mask: Bool[Tensor, "*#batch m n"]
) -> Float[Tensor, "*batch m"]:
    """logsumexp of the log weights that each query may see, a few queries at a time.

    Examples:
        >>> causal = torch.ones(2, 2, dtype=torch.bool).tril()
        >>> visible_logsumexp(torch.zeros(2), causal).exp()
        tensor([1., 2.])
    """

    def part(rows: slice) -> Tensor:
        return safe_logsumexp(torch.where(attn_mask[..., rows, :], log_weights[..., None, :], -torch.inf))

    m, n = attn_mask.shape[-2:]
    batch = torch.broadcast_shapes(log_weights.shape[:-1], attn_mask.shape[:-2]).numel()
    return map_chunks(part, m, batch * n, log_weights.device)


def finite_max(logits: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
    """The largest entry of each row, without gradient, or 0 where that is infinite."""
    if not logits.shape[-1]:
        return logits.new_zeros(*logits.shape[:-1], 1)
    largest = logits.detach().amax(-1, keepdim=True)
    return torch.where(largest.isfinite(), largest, 0)
