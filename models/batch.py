"""A padded batch of texts, observed or not: the argument of models and guides."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["BOS", "EOS", "PAD", "Batch"]

PAD, BOS, EOS = 0, 1, 2


class Batch(NamedTuple):
    r"""Texts as padded token ids.

    A row of ``tokens`` holds a text's tokens, its end-of-text token, then padding; the decoder prepends the
    beginning-of-text token itself, so that every entry that ``mask`` marks is predicted. Without tokens the texts are
    unobserved: a model then samples them. A text may have a condition, such as a label or a question, which a model
    reads before the text; it has no beginning and no end token, and may have no token at all.

    Arguments:
        tokens: Token ids with shape :math:`(B, T)`, or None.
        mask: True where a token is part of the text, with shape :math:`(B, T)`, or None.
        weight: Weight of each text in the objective, with shape :math:`(B)`; 0 for rows that only fill up a batch.
        condition_tokens: Token ids of the conditions with shape :math:`(B, C)`, or None where texts have none.
        condition_mask: True where a token is part of the condition, with shape :math:`(B, C)`, or None.

    Examples:
        >>> batch = Batch.pad([[5, 6, EOS], [7, EOS]])
        >>> batch.tokens.tolist(), batch.lengths.tolist()
        ([[5, 6, 2], [7, 2, 0]], [3, 2])
        >>> Batch.unobserved(4).observed
        False
        >>> Batch.unobserved(2, conditions=[[5], [6, 7]]).condition_tokens.tolist()
        [[5, 0], [6, 7]]
    """

    tokens: Int[Tensor, "B T"] | None
    mask: Bool[Tensor, "B T"] | None
    weight: Float[Tensor, " B"]
    condition_tokens: Int[Tensor, "B C"] | None = None
    condition_mask: Bool[Tensor, "B C"] | None = None

    @classmethod
    def pad(
        cls, texts: list[list[int]], padded_length: int | None = None, conditions: list[list[int]] | None = None
    ) -> "Batch":
        """A batch of token lists, padded to the longest or to ``padded_length``; each weighs 1 / number of texts."""
        tokens, mask = _padded(texts, padded_length)
        batch = cls(tokens, mask, torch.full((len(texts),), 1 / len(texts)))
        return batch if conditions is None else batch._with_conditions(conditions)

    @classmethod
    def unobserved(cls, size: int, like: Tensor | None = None, conditions: list[list[int]] | None = None) -> "Batch":
        """``size`` texts without tokens, for a model to sample; device and dtype follow ``like``."""
        weight = torch.full((size,), 1 / size) if like is None else like.new_full((size,), 1 / size)
        batch = cls(None, None, weight)
        return batch if conditions is None else batch._with_conditions(conditions)

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
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=True) for name, part in self._asdict().items() if part is not None
        }
        return self._replace(**moved)

    def _with_conditions(self, conditions: list[list[int]]) -> "Batch":
        """The batch with a condition for each of its texts."""
        if len(conditions) != len(self.weight):
            raise ValueError(
                f"texts: {len(self.weight)}, conditions: {len(conditions)}. Give one condition for each text."
            )
        condition, mask = (part.to(self.weight.device) for part in _padded(conditions))
        return self._replace(condition_tokens=condition, condition_mask=mask)


def _padded(rows: list[list[int]], length: int | None = None) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Tokens and mask of rows, with at least one column."""
    length = length or max([1, *map(len, rows)])
    tokens = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return tokens, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
