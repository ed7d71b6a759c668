"""Random seeds derived from a seed and the purpose that they are for."""

import hashlib

__all__ = ["derived_seed"]


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A seed for one purpose, such as an item and a use of it: no generator state has to be kept.

    Examples:
        >>> derived_seed(0, 3, "tokens") == derived_seed(0, 3, "tokens")
        True
        >>> derived_seed(0, 3, "tokens") == derived_seed(0, 4, "tokens")
        False
    """
    digest = hashlib.blake2b(" ".join(map(str, (seed, *purpose))).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
