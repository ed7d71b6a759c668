"""The tokens that top-k and top-p leave, found among the most probable ones without sorting the whole vocabulary."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["candidate_counts", "candidates"]

COUNTS = (64, 1024)  # of the most probable tokens, among which a nucleus is looked for
SMALL = 4  # a vocabulary of fewer than so many times as many tokens is sorted as fast


def candidate_counts(vocabulary: int, top_k: int) -> tuple[int, ...]:
    """The numbers of most probable tokens to look among, in turn.

    Examples:
        >>> candidate_counts(49_152, top_k=0), candidate_counts(49_152, top_k=50), candidate_counts(100, top_k=50)
        ((64, 1024), (50,), ())
    """
    counts = (top_k,) if 0 < top_k < vocabulary else COUNTS
    return tuple(count for count in counts if SMALL * count <= vocabulary)


def candidates(
    probabilities: Float[Tensor, "rows V"], count: int, top_k: int, top_p: float
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"], Bool[Tensor, " rows"]]:
    r"""The tokens that top-k and top-p leave (see :class:`~.decoding.Decoding`), if they are among the most probable.

    Arguments:
        probabilities: The probability of each token.
        count: How many tokens are looked at: ``top_k``, if that is a limit.
        top_k: Number of most probable tokens; 0 for all.
        top_p: Share of their probability that the nucleus has.

    Returns:
        Weights in proportion to the probabilities, zero for tokens that are left out; the tokens, ascending; and
        whether these are all: not where there may be more, nor where the last of them and the first of the others are
        equally probable.

    Examples:
        >>> p = torch.arange(1000.0).softmax(-1)[None]
        >>> candidates(p, 3, top_k=3, top_p=0.9)
        (tensor([[0.0000, 0.2325, 0.6321]]), tensor([[997, 998, 999]]), tensor([True]))
    """
    weights, tokens = probabilities.topk(count + 1)
    limited = count == top_k
    total = weights[:, :count].sum(-1, keepdim=True) if limited else 1.0
    kept = weights.cumsum(-1) - weights < top_p * total if top_p < 1 else torch.ones_like(tokens, dtype=torch.bool)
    whole = kept.new_ones(len(kept)) if limited else ~kept[:, count]
    kept[:, count] = False
    number = kept.sum(-1, keepdim=True)
    whole &= (weights.gather(-1, number - 1) > weights.gather(-1, number)).squeeze(-1)
    tokens, order = tokens[:, :count].sort(-1)
    return weights[:, :count].masked_fill(~kept[:, :count], 0).gather(-1, order), tokens, whole
