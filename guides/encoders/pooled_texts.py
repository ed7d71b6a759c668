"""Vectors of a text from the hidden states of a pretrained encoder."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...models.transformer.layer_encoder import Pool, PoolKind
from .text_encoder import TextEncoder

__all__ = ["PooledTexts"]


class PooledTexts(nn.Module):
    r"""Several vectors of each text, each a pooling of its own of the states of a :class:`.TextEncoder`.

    .. math:: r_l = \sum_t \alpha_{lt} \operatorname{norm}(h_t), \qquad
              \alpha_l = \operatorname{softmax}_t (w_l \cdot \operatorname{norm}(h_t))

    Arguments:
        encoder: The encoder.
        count: The number of vectors.
        pool: ``attention``, as above, ``mean``, or the state of the encoder's ``first`` or ``last`` token.

    Raises:
        ValueError: If there is no such pooling.
    """

    def __init__(self, encoder: TextEncoder, count: int, pool: PoolKind = "attention") -> None:
        super().__init__()
        self.texts = encoder
        self.width = encoder.width
        self.pools = nn.ModuleList(Pool(encoder.width, pool) for _ in range(count))

    def forward(self, tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> list[Float[Tensor, "B r"]]:
        """The vectors of the texts of a batch, given the decoder's tokens; equal texts are read once."""
        texts = self.texts.decode(tokens, mask)
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        states, present = self.texts.encode(list(places))
        states = F.layer_norm(states, states.shape[-1:])
        index = torch.tensor([places[text] for text in texts], device=states.device)
        return [F.embedding(index, pool(states, present)) for pool in self.pools]
