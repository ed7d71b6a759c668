"""Seeds that are functions of what they are for."""

import hashlib

__all__ = ["item_seed"]


def item_seed(seed: int, item: int, purpose: str) -> int:
    """A seed of its own for each item of a list and each purpose."""
    digest = hashlib.blake2b(f"{seed} {item} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
