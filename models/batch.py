"""What a model is given: a padded batch of texts, observed or not."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["BOS", "EOS", "PAD", "Batch"]

PAD, BOS, EOS = 0, 1, 2


class Batch(NamedTuple):
    r"""Texts as padded token ids.

    A row of ``tokens`` holds a text's tokens, its end-of-text token, then padding; the decoder prepends the
    beginning-of-text token itself, so that every entry that ``mask`` marks is predicted. Without tokens the texts are
    unobserved: a model then samples them.

    Arguments:
        tokens: Token ids with shape :math:`(B, T)`, or None.
        mask: True where a token is part of the text, with shape :math:`(B, T)`, or None.
        weight: What each text counts in the objective, with shape :math:`(B)`. Rows that only fill up a batch weigh 0.

    Examples:
        >>> batch = Batch.pad([[5, 6, EOS], [7, EOS]])
        >>> batch.tokens.tolist(), batch.lengths.tolist()
        ([[5, 6, 2], [7, 2, 0]], [3, 2])
        >>> Batch.unobserved(4).observed
        False
    """

    tokens: Int[Tensor, "B T"] | None
    mask: Bool[Tensor, "B T"] | None
    weight: Float[Tensor, " B"]

    @classmethod
    def pad(cls, texts: list[list[int]], width: int | None = None) -> "Batch":
        """A batch of token lists, padded to the longest or to ``width``; every text weighs 1 / number of texts."""
        width = width or max(len(text) for text in texts)
        tokens = torch.tensor([text + [PAD] * (width - len(text)) for text in texts])
        lengths = torch.tensor([len(text) for text in texts])
        mask = torch.arange(width) < lengths[:, None]
        return cls(tokens, mask, torch.full((len(texts),), 1 / len(texts)))

    @classmethod
    def unobserved(cls, size: int, like: Tensor | None = None) -> "Batch":
        """``size`` texts that nobody has seen; device and dtype follow ``like``."""
        weight = torch.full((size,), 1 / size) if like is None else like.new_full((size,), 1 / size)
        return cls(None, None, weight)

    @property
    def observed(self) -> bool:
        return self.tokens is not None

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """Number of tokens of each text, its end included."""
        assert self.mask is not None, "an unobserved batch has no lengths"
        return self.mask.sum(-1)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        tokens = None if self.tokens is None else self.tokens.to(device, non_blocking=True)
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return Batch(tokens, mask, self.weight.to(device, non_blocking=True))
