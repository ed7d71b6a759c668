"""Computation in chunks of queries, where a matrix of all queries and components would not fit in memory."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["map_chunks"]

MIN_QUERIES = 32  # in a chunk, so that matrix products stay efficient


def map_chunks(function: Callable[[slice], Tensor], queries: int, columns: int, device: torch.device) -> Tensor:
    """``function`` of all queries, computed chunk by chunk along the last dimension, and again in the backward pass.

    Arguments:
        function: Maps a slice of the queries to one number for each, in the last dimension.
        queries: The number of queries.
        columns: The number of entries that one query takes in memory, over all batch elements.
        device: The device; chunks are smaller on a CPU, so that they fit its cache.

    Examples:
        >>> x, keys = torch.randn(100, 8), torch.randn(5000, 8)
        >>> total = map_chunks(lambda rows: (x[rows] @ keys.T).logsumexp(-1), 100, 5000, x.device)
        >>> torch.allclose(total, (x @ keys.T).logsumexp(-1))
        True
    """
    size = max(MIN_QUERIES, _entries(device) // max(1, columns))
    if size >= queries:
        return function(slice(None))
    rows = [slice(start, start + size) for start in range(0, queries, size)]
    return torch.cat([checkpoint(function, chunk, use_reentrant=False) for chunk in rows], -1)


def _entries(device: torch.device) -> int:
    """The number of entries in a chunk."""
    return 2**18 if device.type == "cpu" else 2**26
