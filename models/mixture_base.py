"""Base class of the models whose decoder attends to a mixture over the vectors of a text."""

from typing import Any

import pyro
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from .attention.mixture import Mixture
from .base import Model
from .batch import Batch
from .priors.lengths import LengthPrior
from .priors.tokens import TokenVectorPrior
from .transformer.blocks import cross_attention_of
from .transformer.config import TransformerConfig
from .transformer.memory import Memory, check_mixture
from .transformer.stacks import Decoder
from .transformer.text_distribution import AutoregressiveText

__all__ = ["MixtureMemoryModel"]


class MixtureMemoryModel(Model):
    """A decoder that attends to as many vectors as a text is long, so that the length is a site with a prior."""

    config: TransformerConfig
    base_measure: nn.Module
    length_prior: LengthPrior
    decoder: Decoder

    @classmethod
    def corpus_arguments(cls, corpus: Any) -> dict[str, Any]:
        return {"length_prior": LengthPrior.fit(torch.as_tensor(corpus.train.lengths), corpus.max_length)}

    @torch.no_grad()
    def start_reading(self) -> None:
        """Starts at a decoder that understands the prior's vectors, where the prior has a Gaussian for each token.

        The means of the Gaussians are the decoder's embedding, scaled to variance 1; and the cross-attention adds the
        vector that it reads to a hidden state as it is, so that the output layer finds the token. Where to read, it
        learns.
        """
        prior = self.base_measure
        if not isinstance(prior, TokenVectorPrior):
            return
        embedding = self.decoder.embedding.tokens.weight
        prior.embedding.copy_(embedding / (embedding.square().mean().sqrt() * prior.scale))
        for block in self.decoder.blocks:
            attention = cross_attention_of(block)
            nn.init.orthogonal_(attention.value.weight)
            attention.out.weight.copy_(attention.value.weight.T)

    def sample_length(self, batch: Batch) -> tuple[Int[Tensor, "*batch"], int]:
        """The number of tokens of each text, at the site ``length``, and the padded length of the batch."""
        if batch.mask is not None:
            return pyro.sample("length", self.length_prior(), obs=batch.lengths), batch.mask.shape[-1]
        length: Tensor = pyro.sample("length", self.length_prior())
        return length, int(length.max())

    def likelihood(self, memory: Mixture, mask: Bool[Tensor, "*batch T"] | None = None) -> AutoregressiveText:
        """p(text | mixture): of a drawn mixture, or of the posterior's mean."""
        return AutoregressiveText(self.decoder, memory, mask=mask)

    def check_memory(self, memory: Memory) -> Mixture:
        return check_mixture(memory, self.config.width)
