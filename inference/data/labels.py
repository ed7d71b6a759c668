"""Labels: conditions with few different values, each encoded as one token."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np
from jaxtyping import Int, UInt
from torch import Tensor

from ...models.batch import EOS

__all__ = ["MAX_LABELS", "Labels", "label_names"]

MAX_LABELS = 1000  # more different conditions are texts, unless labels=True

Tokens = Sequence[int] | Int[Tensor, "_"] | Int[np.ndarray, "_"]


class Labels:
    r"""A tokenizer that encodes each label as one token: label :math:`i` is token ``first + i``.

    The tokens of texts come before ``first``, so that no text is encoded to a label; the name of a label in a text is
    tokenized like any other word.

    Arguments:
        names: Names of the labels.
        first: Number of tokens of the tokenizer of texts.

    Examples:
        >>> labels = Labels(["book", "cancel"], first=259)
        >>> labels.encode("cancel"), labels.decode([260, EOS]), labels.vocabulary
        ([260, 2], 'cancel', 261)
    """

    def __init__(self, names: Sequence[str], first: int) -> None:
        self.names = tuple(names)
        self.first = first
        self._tokens = {name: first + index for index, name in enumerate(self.names)}

    @property
    def vocabulary(self) -> int:
        """Number of tokens, those of texts included."""
        return self.first + len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Labels({len(self):,} labels)"

    def encode(self, text: str) -> list[int]:
        """The token of a label and an end token.

        Raises:
            ValueError: If there is no such label.
        """
        if text not in self._tokens:
            close = get_close_matches(text, self.names, 3) or self.names[:3]
            raise ValueError(
                f"{text!r} is none of the {len(self):,} labels that the training texts have: give one of those, such "
                f"as {', '.join(map(repr, close))}, or make a corpus whose conditions are texts (labels=False)."
            )
        return [self._tokens[text], EOS]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Tokens) -> str:
        """The name of the label in a sequence of tokens, or the names of several; other tokens are skipped."""
        return "".join(self.names[token - self.first] for token in map(int, tokens) if token >= self.first)

    def decode_batch(self, rows: Sequence[Tokens] | Int[Tensor, "B T"] | Int[np.ndarray, "B T"]) -> list[str]:
        return [self.decode(row) for row in rows]

    def byte_lengths(self) -> UInt[np.ndarray, " V"]:
        """The number of bytes of each label's name, after zeros for the tokens of texts."""
        return np.array([0] * self.first + [len(name.encode()) for name in self.names], np.uint16)


def label_names(conditions: Iterable[str], labels: bool | None = None) -> list[str] | None:
    """The names of the labels among the conditions of training texts, in order; None if conditions are texts.

    Arguments:
        conditions: The conditions of all training texts.
        labels: Whether they are labels. If None, they are labels if at most 1,000 are different and each is one word
            without blanks.

    Examples:
        >>> label_names(["book", "cancel", "book"]), label_names(["Where to?"]), label_names(["Where to?"], labels=True)
        (['book', 'cancel'], None, ['Where to?'])
    """
    names: set[str] = set()
    for condition in conditions:
        if condition not in names:
            names.add(condition)
            if labels is None and (len(names) > MAX_LABELS or condition.split() != [condition]):
                return None
    return sorted(names) if labels or labels is None and names else None
