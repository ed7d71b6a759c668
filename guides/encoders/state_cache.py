"""A bounded cache of hidden states by text."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

__all__ = ["CACHE_BYTES", "StateCache"]

CACHE_BYTES = 2**30
OVERHEAD = 1024  # bytes of an entry beside its numbers, at most: the text and the objects


class StateCache:
    r"""Hidden states of texts, in at most ``limit`` bytes of main memory.

    A full cache keeps what it has. Every epoch has all texts in another order, so that a cache which made room for the
    latest text would have lost most of them before they come again; this one has the share of them that fits.

    Arguments:
        limit: Number of bytes; 0 keeps nothing.

    Examples:
        >>> cache = StateCache(limit=3000)
        >>> for text in ("a", "b", "c"):
        ...     cache.add(text, torch.ones(2, 4))
        >>> len(cache), cache.bytes, cache.get("a").shape, cache.get("c")
        (2, 2112, torch.Size([2, 4]), None)
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.clear()

    def get(self, text: str) -> Float[Tensor, "n P"] | None:
        """The states of a text, or None."""
        return self._states.get(text)

    def add(self, text: str, states: Float[Tensor, "n P"]) -> None:
        """Keeps the states of a text, if there is room for them."""
        size = states.nbytes + OVERHEAD
        if text not in self._states and self.bytes + size <= self.limit:
            self._states[text] = states
            self.bytes += size

    def clear(self) -> None:
        """Forgets all states."""
        self._states: dict[str, Tensor] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return f"StateCache({len(self):,} texts, {self.bytes:,} of {self.limit:,} bytes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return StateCache, (self.limit,)  # a copy begins empty
