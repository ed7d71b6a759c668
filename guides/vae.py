r"""The posterior of the Gaussian autoencoder: a Transformer encoder turns each token into a Gaussian.

The story of one text::

    h_1..h_n = encoder(text), which reads tokens through the decoder's embedding,
               or is a pretrained one
    mu_i, sigma_i^2  from h_i by linear heads; from the Gaussian of the token on,
               where the prior has one for each
    z_i      ~ Normal(mu_i, sigma_i^2)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..models.attention.mixture import Mixture
from ..models.batch import Batch
from ..models.transformer.stacks import Encoder
from ..models.utils.precision import at_least_float32
from ..models.utils.reprs import in_words
from ..models.vae import VAE
from .base import Guide
from .encoders.aligned_texts import AlignedTexts
from .encoders.text_encoder import TextEncoder
from .posteriors import TextPosterior
from .token_start import check_log_variance, encoder_config, from_prior, start_log_variance, start_mean

__all__ = ["GaussianPosterior", "VAEGuide"]


@dataclass(frozen=True, repr=False)
class GaussianPosterior(TextPosterior):
    """Parameters of the posterior of each vector, and the model's function from vectors to a memory."""

    mean: Float[Tensor, "*batch N P"]
    variance: Float[Tensor, "*batch N P"]
    mask: Bool[Tensor, "*batch N"]
    to_memory: Callable[[Tensor, Tensor], Mixture]

    def __repr__(self) -> str:
        return in_words(self, self.mean, self.mask)

    def memory(self) -> Mixture:
        """The vectors at their means, as the decoder attends to them."""
        return self.memory_at(self.mean)

    def memory_at(self, latents: Float[Tensor, "*batch N P"]) -> Mixture:
        """These vectors, as the decoder attends to them."""
        return self.to_memory(latents, self.mask)

    def moments(self) -> tuple[Float[Tensor, "*batch N P"], Float[Tensor, "*batch N P"]]:
        """Mean and variance of each vector."""
        return self.mean, self.variance


class VAEGuide(Guide):
    r"""Amortized posterior of :class:`~pyroformer.VAE`.

    Arguments:
        model: The model whose site it samples.
        log_variance: Initial log variance of every vector; not used where the prior has a Gaussian for each token.
        encoder: A frozen pretrained encoder with its own tokenizer, a :class:`~pyroformer.TextEncoder`, whose states of
            a token's characters are read in place of those of an encoder of the decoder's sizes; on the command line,
            the folder of a BERT, or its name on the Hugging Face hub.

    Its own encoder has as many layers as the decoder, and two beside the prior ``language_model``.

    Raises:
        ValueError: If the batch is unobserved.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = VAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> VAEGuide(model).encode(Batch.pad([[5, 6, 2], [7, 2]])).mean.shape
        torch.Size([2, 3, 16])
    """

    model: VAE

    model_class = VAE

    def __init__(self, model: VAE, log_variance: float = -3.0, encoder: TextEncoder | None = None) -> None:
        super().__init__(model)
        width = model.config.width
        self.encoder: Encoder | AlignedTexts
        if encoder is None:
            self.encoder = Encoder(encoder_config(model), model.decoder.embedding)  # it reads the decoder's tokens
        else:
            self.encoder = AlignedTexts(encoder, width)
        self.mean, self.log_variance = nn.Linear(width, width), nn.Linear(width, width)
        start_mean(self.mean, model.base_measure)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, start_log_variance(model.base_measure, log_variance))

    @classmethod
    def check_new(cls, model: Any, options: Mapping[str, Any]) -> None:
        check_log_variance(model.base_measure, options)

    def forward(self, batch: Batch) -> Tensor:
        posterior = self.encode(batch)
        normal = dist.Normal(posterior.mean, posterior.variance.sqrt()).to_event(1)
        with self.texts(batch):
            return pyro.sample("vectors", normal.mask(posterior.mask).to_event(1))

    def encode(self, batch: Batch) -> GaussianPosterior:
        """The posterior of each text's vectors."""
        tokens, mask = self.observed(batch)
        h = self.encoder(tokens, mask)
        mean, log_variance = (at_least_float32(head(h)) for head in (self.mean, self.log_variance))
        mean, log_variance = from_prior(self.model.base_measure, tokens, mean, log_variance)
        return GaussianPosterior(mean, log_variance.exp(), mask, self.model.memory)
