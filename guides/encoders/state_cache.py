"""A bounded cache of hidden states by text."""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["CACHE_BYTES", "EncodedText", "StateCache"]

CACHE_BYTES = 2**30
OVERHEAD = 1024  # bytes of an entry beside its numbers, at most: the text and the objects


class EncodedText(NamedTuple):
    """The tokens of a text, in main memory: their hidden states, and the characters that they stand for."""

    states: Float[Tensor, "n P"]
    spans: Int[Tensor, "n 2"]  # first character and the one after the last; the same for a special token

    @property
    def nbytes(self) -> int:
        """Memory of its numbers."""
        return self.states.nbytes + self.spans.nbytes


class StateCache:
    r"""Hidden states of texts, in at most ``limit`` bytes of main memory.

    A full cache keeps what it has. Every epoch has all texts in another order, so that a cache which made room for the
    latest text would have lost most of them before they come again; this one has the share of them that fits.

    Arguments:
        limit: Number of bytes; 0 keeps nothing.

    Examples:
        >>> cache = StateCache(limit=3000)
        >>> for text in ("a", "b", "c"):
        ...     cache.add(text, EncodedText(torch.ones(2, 4), torch.zeros(2, 2, dtype=torch.int32)))
        >>> len(cache), cache.bytes, cache.get("a").states.shape, cache.get("c")
        (2, 2144, torch.Size([2, 4]), None)
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.clear()

    def get(self, text: str) -> EncodedText | None:
        """The cached states of a text, or None."""
        return self._texts.get(text)

    def add(self, text: str, encoded: EncodedText) -> None:
        """Keeps a text, if there is room for it."""
        size = encoded.nbytes + OVERHEAD
        if text not in self._texts and self.bytes + size <= self.limit:
            self._texts[text] = encoded
            self.bytes += size

    def clear(self) -> None:
        """Forgets all texts."""
        self._texts: dict[str, EncodedText] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return f"StateCache({len(self):,} texts, {self.bytes:,} of {self.limit:,} bytes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return StateCache, (self.limit,)  # a copy begins empty
