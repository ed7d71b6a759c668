"""Bucketing: the few lengths to which batches are padded."""

import numpy as np
from jaxtyping import Integer

__all__ = ["bucket_lengths"]


def bucket_lengths(lengths: Integer[np.ndarray, " texts"], max_length: int, at_most: int = 6) -> tuple[int, ...]:
    r"""The padded lengths that waste the least padding.

    Minimizes :math:`\sum_i \min \{ w \in W : w \ge n_i \}` over sets :math:`W` of at most ``at_most`` multiples of 8
    (and ``max_length`` itself), by dynamic programming.

    Arguments:
        lengths: Number of tokens of each text, none above ``max_length``.
        max_length: The largest padded length that a model takes.
        at_most: Number of padded lengths; each is one shape to compile.

    Raises:
        ValueError: If a text is longer than ``max_length``.

    Examples:
        >>> bucket_lengths(np.array([5, 5, 5, 13, 60]), max_length=64, at_most=2)
        (16, 64)
    """
    longest = int(lengths.max(initial=1))
    if longest > max_length:
        raise ValueError(
            f"a text of {longest} tokens does not fit into a max_length of {max_length}: split or drop it."
        )
    candidates = np.minimum(np.arange(8, longest + 8, 8), max_length)  # the last one fits the longest text
    below = np.concatenate([[0], np.searchsorted(np.sort(lengths), candidates, side="right")])
    # cost[i, j]: texts that fit into candidate j and not into candidate i - 1, padded to candidate j
    cost = candidates * (below[None, 1:] - below[:-1, None]).astype(float)
    cost[np.tril_indices(len(candidates), -1)] = np.inf
    best, cuts = cost[0], []
    for _ in range(at_most - 1):
        totals = np.concatenate([[0.0], best[:-1]])[:, None] + cost
        cuts.append(totals.argmin(0))
        best = totals.min(0)
    padded_lengths, last = [], len(candidates) - 1
    for cut in [*reversed(cuts), np.zeros(len(candidates), dtype=int)]:
        padded_lengths.append(int(candidates[last]))
        last = int(cut[last]) - 1
        if last < 0:
            break
    return tuple(reversed(padded_lengths))
