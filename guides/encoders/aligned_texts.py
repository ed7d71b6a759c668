"""A vector for each of the decoder's tokens from the hidden states of a pretrained encoder with other tokens."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...models.batch import EOS
from .text_encoder import TextEncoder, check_encoder

__all__ = ["AlignedTexts", "alignment", "character_spans"]


class AlignedTexts(nn.Module):
    r"""A vector of each token :math:`i` of the decoder, from the encoder's tokens :math:`t` of the same characters.

    .. math:: r_i = \frac1{|O_i|} \sum_{t \in O_i} W \operatorname{norm}(h_t) + b, \qquad
              O_i = \{t : \text{they share a character}\}

    A token that shares none, such as a blank, has the set of the token before, and the first one that of the encoder's
    first token; the end token has that of the encoder's last.

    Arguments:
        encoder: The encoder.
        width: The size of a vector.

    Raises:
        ValueError: If the encoder is none.
    """

    def __init__(self, encoder: TextEncoder, width: int) -> None:
        check_encoder(encoder)
        super().__init__()
        self.texts = encoder
        self.project = nn.Linear(encoder.width, width)
        nn.init.normal_(self.project.weight, std=encoder.width**-0.5)  # a dimension of normed states has variance 1
        nn.init.zeros_(self.project.bias)

    def forward(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T P"]:
        """The vectors of the tokens of a batch; those where ``mask`` is False are meaningless."""
        texts, lengths = self.texts.decode(tokens, mask), mask.sum(-1).tolist()
        rows = [tuple(row[:length]) for row, length in zip(tokens.tolist(), lengths, strict=True)]
        places = {row: place for place, row in enumerate(dict.fromkeys(rows))}  # draws of a text are read once
        distinct = dict(zip(rows, texts, strict=True))
        encoded = self.texts.read([distinct[row] for row in places])
        shares = torch.zeros(len(places), tokens.shape[-1], max(len(text.states) for text in encoded))
        for row, place in places.items():
            if not row:
                continue  # all of it is padding
            sizes = [self.texts.token_bytes(token) for token in row]
            found = alignment(character_spans(distinct[row], sizes), encoded[place].spans.numpy(), row[-1:] == (EOS,))
            shares[place, : len(row), : found.shape[1]] = torch.from_numpy(found)
        states = pad_sequence([text.states for text in encoded], batch_first=True)
        weight, index = self.project.weight, torch.tensor([places[row] for row in rows])
        vectors = shares.to(weight) @ F.layer_norm(states.to(weight), states.shape[-1:])
        return self.project(vectors[index.to(weight.device)])


def character_spans(text: str, sizes: list[int]) -> Int[np.ndarray, "n 2"]:
    """The characters that tokens of some bytes stand for: the first, and the one after the last; none for no bytes.

    A token with a part of a character stands for that character. Of a text with bytes that were not UTF-8, which have
    other sizes in ``text``, the spans are near the right ones.

    Examples:
        >>> character_spans("aß b", [1, 1, 1, 2, 0]).tolist()
        [[0, 1], [1, 2], [1, 2], [2, 4], [4, 4]]
    """
    owners = np.repeat(np.arange(len(text)), [len(character.encode()) for character in text])
    owners = np.append(owners, len(text)).astype(np.int64)
    ends = np.cumsum(sizes).clip(max=len(owners) - 1)
    starts = np.append(0, ends[:-1])
    last = np.where(ends > starts, owners[np.maximum(ends - 1, 0)] + 1, owners[starts])
    return np.stack([owners[starts], last], -1)


def alignment(ours: Int[np.ndarray, "n 2"], theirs: Int[np.ndarray, "m 2"], ended: bool) -> Float[np.ndarray, "n m"]:
    """The share of each of the encoder's tokens in the vector of each of ours.

    Arguments:
        ours: The characters of our tokens.
        theirs: Those of the encoder's; special tokens have none.
        ended: Whether our last token ends the text.

    Examples:
        >>> alignment(np.array([[0, 2], [2, 3], [3, 3]]), np.array([[0, 0], [0, 1], [1, 2], [2, 2]]), ended=True)
        array([[0. , 0.5, 0.5, 0. ],
               [0. , 0.5, 0.5, 0. ],
               [0. , 0. , 0. , 1. ]])
    """
    first, last = np.maximum(ours[:, None, 0], theirs[:, 0]), np.minimum(ours[:, None, 1], theirs[:, 1])
    shared = first < last
    if ended:
        shared[-1] = np.arange(len(theirs)) == len(theirs) - 1
    before = -1
    for index, own in enumerate(shared.any(-1)):
        if own:
            before = index
        elif before >= 0:
            shared[index] = shared[before]
        else:
            shared[index, 0] = True
    return shared / shared.sum(-1, keepdims=True)
