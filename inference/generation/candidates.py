"""The tokens that top-k and top-p leave, found without sorting the whole vocabulary."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["candidates"]

SIZES = (64, 1024)  # of the most probable tokens, among which a nucleus is looked for
SMALL = 4  # a vocabulary of fewer than so many times as many tokens is sorted as fast


def candidates(
    probabilities: Float[Tensor, "*batch V"], top_k: int, top_p: float
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]] | None:
    r"""Weights of some tokens, in proportion to their probability or zero, and the tokens, ascending.

    All others are left out by top-k and top-p (see :class:`~.decoding.Decoding`).

    Arguments:
        probabilities: The probability of each token.
        top_k: Number of most probable tokens; 0 for all.
        top_p: Share of their probability that the nucleus has.

    Returns:
        None if they are too many, or the last of them and the first of the others are equally probable.

    Examples:
        >>> p = torch.arange(1000.0).softmax(-1)
        >>> candidates(p, top_k=3, top_p=0.9)
        (tensor([0.0000, 0.2325, 0.6321]), tensor([997, 998, 999]))
    """
    size = probabilities.shape[-1]
    limited = 0 < top_k < size
    for count in (top_k,) if limited else SIZES:
        if SMALL * count > size:
            break
        weights, tokens = probabilities.topk(count + 1)
        total = weights[..., :count].sum(-1, keepdim=True) if limited else 1.0
        kept = weights.cumsum(-1) - weights < top_p * total if top_p < 1 else torch.ones_like(tokens, dtype=torch.bool)
        if limited:
            kept[..., count] = False
        elif bool(kept[..., count].any()):
            continue
        number = kept.sum(-1, keepdim=True)
        if not bool((weights.gather(-1, number - 1) > weights.gather(-1, number)).all()):
            break
        tokens, order = tokens[..., :count].sort(-1)
        return weights[..., :count].masked_fill(~kept[..., :count], 0).gather(-1, order), tokens
    return None
