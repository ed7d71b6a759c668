"""Random draws that leave torch's generators as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["forked_rng"]


@contextmanager
def forked_rng(seed: int | None = None) -> Iterator[None]:
    """Restores torch's generators afterwards, those of GPUs in use too; inside they start from a ``seed``, if given.

    Examples:
        >>> with forked_rng(seed=0):
        ...     first = torch.rand(2)
        >>> with forked_rng(seed=0):
        ...     torch.equal(first, torch.rand(2))
        True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed a GPU that is used later, too
            if devices:
                torch.cuda.manual_seed_all(seed)
        yield
