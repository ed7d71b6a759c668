"""Prompts that end anywhere: their last piece is drawn again among the tokens that begin with it."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data.tokenizer import Tokenizer

__all__ = ["LastPiece", "Prompt"]

_NEVER = 2**30  # more tokens than any text has


class Prompt(NamedTuple):
    r"""A prompt for a model of tokens: the tokens before its last piece, and the piece.

    A text that goes on after "The ca" or "The " is seldom tokenized as these are: in "The cat" the blank and the
    letters are one token. So the longest piece at the end of the prompt with which some token begins is taken off and
    drawn again, and the text begins with the prompt all the same.

    Arguments:
        tokens: The tokens before the piece.
        last: The piece, or None if the prompt is empty.

    Examples:
        >>> tokenizer = Tokenizer.train(["a cat", "a car"] * 9, vocabulary=262)
        >>> prompt = Prompt.encode("a ca", tokenizer)
        >>> tokenizer.pieces(prompt.tokens), prompt.last.piece
        (['a'], b' ca')
    """

    tokens: Int[Tensor, " K"]
    last: "LastPiece | None"

    @classmethod
    def encode(cls, text: str, tokenizer: Tokenizer) -> "Prompt":
        """The prompt of a text."""
        ids, pieces = tokenizer.encode(text)[:-1], tokenizer.token_bytes()
        if not ids:
            return cls(torch.empty(0, dtype=torch.long), None)
        kept, ending = len(ids) - 1, pieces[ids[-1]]
        longest = max(map(len, pieces))
        for start in range(len(ids) - 2, -1, -1):
            candidate = b"".join(pieces[token] for token in ids[start:])
            if len(candidate) > longest:
                break
            if any(piece.startswith(candidate) for piece in pieces):
                kept, ending = start, candidate
        return cls(torch.tensor(ids[:kept], dtype=torch.long), LastPiece(ending, pieces))


class LastPiece:
    """The tokens that may come next while the last piece of a prompt is written, by what is still missing of it.

    A token may come next if it begins with what is missing, or what is missing with it, and the rest then fits into the
    tokens that are left.

    Arguments:
        piece: The piece.
        tokens: The bytes of each token; empty ones never come.
    """

    def __init__(self, piece: bytes, tokens: list[bytes]) -> None:
        self.piece = piece
        end = len(piece)
        table = torch.full((end + 1, len(tokens)), -1)  # where in the piece each token leads to; -1: nowhere
        table[end] = end
        self.needed = torch.full((end + 1,), _NEVER)  # the fewest tokens that write the rest
        self.needed[end] = 0
        for place in range(end - 1, -1, -1):
            missing = piece[place:]
            for token, content in enumerate(tokens):
                if content and (content.startswith(missing) or missing.startswith(content)):
                    table[place, token] = min(end, place + len(content))
            possible = table[place][table[place] >= 0]
            self.needed[place] = 1 + self.needed[possible].min() if len(possible) else _NEVER
        self.table = table

    def allowed(self, places: Int[Tensor, " B"], left: int, vocabulary: int) -> Bool[Tensor, "B {vocabulary}"]:
        """Whether each token may come next.

        Arguments:
            places: How many bytes of the piece each text has.
            left: How many tokens each text can still have.
            vocabulary: Number of tokens of the model; those beyond the tokenizer's are not allowed within the piece.
        """
        leads = self.table.to(places.device)[places]
        allowed = (leads >= 0) & (self.needed.to(places.device)[leads.clamp_min(0)] < left)
        whole = (places == len(self.piece))[:, None]
        extra = whole.expand(-1, vocabulary - allowed.shape[-1])
        return torch.cat([allowed | whole, extra], -1)

    def advance(self, places: Int[Tensor, " B"], tokens: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """How many bytes of the piece each text has after its next token."""
        known = tokens.clamp_max(self.table.shape[-1] - 1)
        return self.table.to(places.device)[places, known].clamp_min(0)

    def mask(self, logits: Float[Tensor, "B V"], places: Int[Tensor, " B"], left: int) -> Float[Tensor, "B V"]:
        """Logits in which tokens that may not come next are excluded."""
        return logits.masked_fill(~self.allowed(places, left, logits.shape[-1]), -torch.inf)
