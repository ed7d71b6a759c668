"""Functions of a few queries at a time, where the matrix of all queries and components would be too large to hold."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["map_chunks"]

LEAST_QUERIES = 32  # in a part, so that matrix products stay worth while


def map_chunks(function: Callable[[slice], Tensor], queries: int, columns: int, device: torch.device) -> Tensor:
    """``function`` of all queries, computed part by part along the last dimension, and again in the backward pass.

    Arguments:
        function: What to compute of the queries in a slice; one number for each, in the last dimension.
        queries: The number of queries.
        columns: How many entries a query takes meanwhile, over all batch elements.
        device: Where: a CPU's cache takes less at once than a GPU.

    Examples:
        >>> x, keys = torch.randn(100, 8), torch.randn(5000, 8)
        >>> total = map_chunks(lambda rows: (x[rows] @ keys.T).logsumexp(-1), 100, 5000, x.device)
        >>> torch.allclose(total, (x @ keys.T).logsumexp(-1))
        True
    """
    size = max(LEAST_QUERIES, _entries(device) // columns)
    if size >= queries:
        return function(slice(None))
    rows = [slice(start, start + size) for start in range(0, queries, size)]
    return torch.cat([checkpoint(function, part, use_reentrant=False) for part in rows], -1)


def _entries(device: torch.device) -> int:
    return 2**18 if device.type == "cpu" else 2**26
