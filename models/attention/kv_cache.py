"""A cache of keys and values for generation, token by token."""

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["KeyValueCache"]


class KeyValueCache:
    r"""Keys and values of the tokens read so far, in memory that is allocated once, at the first tokens.

    For inference only: appending writes in place. Rows stay aligned: a finished text goes on with padding, and prompts
    of different lengths are padded on the left, where ``mask`` is False.

    Arguments:
        capacity: The largest number of tokens.

    Examples:
        >>> cache = KeyValueCache(capacity=8)
        >>> keys, values, mask = cache.append(torch.randn(2, 4, 3, 16), torch.randn(2, 4, 3, 16))
        >>> keys, values, mask = cache.append(torch.randn(2, 4, 1, 16), torch.randn(2, 4, 1, 16))
        >>> keys.shape, cache.length
        (torch.Size([2, 4, 4, 16]), 4)
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.mask: Tensor | None = None

    def append(
        self,
        keys: Float[Tensor, "b h t e"],
        values: Float[Tensor, "b h t v"],
        mask: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[Float[Tensor, "b h n e"], Float[Tensor, "b h n v"], Bool[Tensor, "b n"] | None]:
        """Keeps the keys and values of t more tokens; returns those of all tokens so far, and their mask.

        Raises:
            ValueError: If the cache is full.
        """
        start, end = self.length, self.length + keys.shape[-2]
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit a cache of {self.capacity}: make it larger or generate fewer.")
        if self.keys is None or self.values is None:
            self.keys = keys.new_zeros(*keys.shape[:2], self.capacity, keys.shape[-1])
            self.values = values.new_zeros(*values.shape[:2], self.capacity, values.shape[-1])
        if mask is not None and self.mask is None:
            self.mask = mask.new_ones(len(mask), self.capacity)
        self.keys[..., start:end, :] = keys
        self.values[..., start:end, :] = values
        if self.mask is not None and mask is not None:
            self.mask[:, start:end] = mask
        self.length = end
        mask = None if self.mask is None else self.mask[:, :end]
        return self.keys[..., :end, :], self.values[..., :end, :], mask
