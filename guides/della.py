r"""The posterior of DELLA: the decoder's blocks read the whole text, and each layer's encoding sets its latent.

The story of one text::

    r_1..r_L = the text's encoding at each layer of a bidirectional encoder
    s_1  = 0
    z_l  ~ Normal(mu_l, sigma_l^2)         both are linear in (s_l, r_l)
    s_l+1 = tanh(W_l s_l + V_l z_l + b_l)  the model's summary of the latents to l

The order is that of the model's story, so that the divergence of a layer, given the draws below, is exact.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyro
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pyro.distributions import Normal
from torch import Tensor, nn
from torch.distributions import Distribution

from ..models.batch import Batch
from ..models.della import DELLA
from ..models.priors.latents import gaussian
from ..models.priors.vamp import VampPrior
from ..models.transformer.layer_encoder import LayerEncoder, PoolKind
from ..models.transformer.memory import Context
from ..models.transformer.stacks import are_copies, check_length
from ..models.utils.choices import check_choice
from ..models.utils.precision import at_least_float32
from ..models.utils.reprs import in_words
from .base import Guide
from .encoders.pooled_texts import PooledTexts
from .encoders.text_encoder import TextEncoder, check_encoder
from .posteriors import TextPosterior

__all__ = ["DELLAGuide", "LatentPosterior"]

EncoderKind = Literal["shared", "causal", "separate"]
Form = Literal["full", "residual"]


@dataclass(frozen=True, repr=False)
class LatentPosterior(TextPosterior):
    """Parameters of the posterior, each latent given the means of those below; latents on axis -2."""

    mean: Float[Tensor, "*batch K p"]
    variance: Float[Tensor, "*batch K p"]
    condition_tokens: Int[Tensor, "*batch C"] | None = None
    condition_mask: Bool[Tensor, "*batch C"] | None = None
    layers: tuple[int, ...] = ()  # from 1; empty where one latent enters all of them

    def __repr__(self) -> str:
        return in_words(self, self.mean, name="latents")

    def memory(self) -> Context:
        """The latents at their means, and the condition."""
        return self.memory_at(self.mean)

    def memory_at(self, latents: Float[Tensor, "*batch K p"]) -> Context:
        """These latents, and the condition."""
        return Context(latents, self.condition_tokens, self.condition_mask)

    def moments(self) -> tuple[Float[Tensor, "*batch K p"], Float[Tensor, "*batch K p"]]:
        """Mean and variance of each latent."""
        return self.mean, self.variance


class DELLAGuide(Guide):
    r"""Amortized posterior of :class:`~pyroformer.DELLA`.

    Arguments:
        model: The model whose sites it samples.
        encoder: ``shared``: the decoder's own blocks read the text, each token all others; ``causal``: they read it as
            the decoder does, each token those before it, so that a frozen one has the states that it was trained to
            have; ``separate``: others of the same sizes read it, each token all others; or a frozen pretrained encoder
            with its own tokenizer, a :class:`~pyroformer.TextEncoder`, whose last states are pooled for each latent; on
            the command line, the folder of a BERT, or its name on the Hugging Face hub.
        pool: Pooling of the states of a layer into one vector: ``attention``, ``mean``, or the state of the ``first``
            or of the ``last`` token.
        posterior: ``full``: the heads predict mean and log variance; ``residual``: their differences from the prior's.

    Raises:
        ValueError: If an option has no such name, a causal encoder is pooled at the first token, which reads nothing,
            the posterior is residual and the prior no diagonal Gaussian, the prior is a VampPrior and the encoder
            pretrained, or the batch is unobserved.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat & Kautz, 2020), for residual posteriors,
        https://arxiv.org/abs/2007.03898

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = DELLA(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=2, heads=2), latent_size=4)
        >>> DELLAGuide(model).encode(Batch.pad([[5, 6, 2], [7, 2]])).mean.shape
        torch.Size([2, 2, 4])
    """

    model: DELLA

    model_class = DELLA

    def __init__(
        self,
        model: DELLA,
        encoder: EncoderKind | TextEncoder = "shared",
        pool: PoolKind = "attention",
        posterior: Form = "full",
    ) -> None:
        super().__init__(model)
        check_choice("posterior", posterior, get_args(Form))
        self.form: Form = "full"
        self.encoder: LayerEncoder | PooledTexts
        if not isinstance(encoder, str):
            check_encoder(encoder, get_args(EncoderKind))
            _check_reads_texts(model)
            self.encoder = PooledTexts(encoder, len(model.layers), pool)
        else:
            check_choice("encoder", encoder, get_args(EncoderKind))
            shared, causal = encoder != "separate", encoder == "causal"
            if causal and pool == "first":
                raise ValueError("pool is first, and the first token of a causal encoder reads no other: choose last.")
            self.encoder = LayerEncoder(model.decoder, model.layers, shared, pool, causal)
        inputs = model.summary_size + self.encoder.width
        self.heads = nn.ModuleList(nn.Linear(inputs, 2 * model.latent_size) for _ in model.layers)
        if posterior == "residual":
            for index in range(len(model.layers)):
                _moments(model.prior(model.zeros(1, model.summary_size), index))
        self.form = posterior

    def forward(self, batch: Batch) -> Float[Tensor, "*batch K p"]:
        encodings = self.read(batch)

        def draw(name: str, index: int, summary: Tensor) -> Tensor:
            return pyro.sample(name, self.conditional(index, summary, encodings))

        with self.texts(batch):
            return self.model.sample_hierarchy(batch, draw)

    def encode(self, batch: Batch) -> LatentPosterior:
        """The posterior of each text, each latent given the means of those below."""
        encodings, variances = self.read(batch), []

        def mean(name: str, index: int, summary: Tensor) -> Tensor:
            distribution = self.conditional(index, summary, encodings)
            variances.append(distribution.variance)
            return distribution.mean

        with self.set_hyperparameters():
            means = self.model.sample_hierarchy(batch, mean)
        layers = () if self.model.structure == "single" else tuple(layer + 1 for layer in self.model.layers)
        variance = torch.stack(variances, -2)
        return LatentPosterior(means, variance, batch.condition_tokens, batch.condition_mask, layers)

    def read(self, batch: Batch) -> list[Float[Tensor, "B r"]]:
        """The encoding of the texts for each latent, from the tokens that the decoder reads, or from the texts.

        Raises:
            ValueError: If the batch is unobserved.
        """
        tokens, mask = self.observed(batch)
        check_length(tokens.shape[-1], self.model.config)
        encodings: list[Tensor]
        if isinstance(self.encoder, PooledTexts):
            encodings = self.encoder(tokens, mask)
            return encodings
        before = F.pad(tokens[:, :-1], (1, 0), value=self.model.config.bos)
        if are_copies(tokens, mask):
            before = before[:1].expand(before.shape)
        encodings = self.encoder(before, mask)
        return encodings

    def read_vectors(self, vectors: Float[Tensor, "K T p"]) -> list[Float[Tensor, "K r"]]:
        """The encoding at each layer with a latent of texts that are given as vectors in place of embeddings.

        Raises:
            ValueError: If they are longer than a text may be, or the encoder is pretrained.
        """
        if isinstance(self.encoder, PooledTexts):
            raise ValueError(_NO_VECTORS)
        check_length(vectors.shape[-2], self.model.config)
        tokens = torch.zeros(vectors.shape[:-1], dtype=torch.long, device=vectors.device)  # for their places alone
        rotation = self.encoder.embedding.rotation(tokens)
        encodings: list[Tensor] = self.encoder.read(vectors, torch.ones_like(tokens, dtype=torch.bool), rotation)
        return encodings

    def conditional(self, index: int, summary: Float[Tensor, "*#batch S"], encodings: list[Tensor]) -> Any:
        """The posterior of a latent, given those below.

        Summary and encoding broadcast against each other: the distribution of the latents of every text under every
        other text takes no more memory than its parameters.

        Arguments:
            index: Index of the latent, from 0.
            summary: Summary of the latents below and of the condition.
            encodings: The texts' encodings, from :meth:`read`.
        """
        head: Any = self.heads[index]
        below, read = head.weight.split([summary.shape[-1], encodings[index].shape[-1]], -1)
        encoded = F.linear(encodings[index], read, head.bias)
        scores = at_least_float32(F.linear(summary, below)) + at_least_float32(encoded)
        distribution: Any = gaussian(*scores.chunk(2, -1))
        if self.form == "residual":
            prior_mean, prior_scale = _moments(self.model.prior(summary, index))
            distribution = Normal(prior_mean + distribution.mean, prior_scale * distribution.stddev).to_event(1)
        return distribution


_NO_VECTORS = (
    "a prior such as VampPrior has the guide read vectors in place of a text, and a TextEncoder reads texts only: give "
    "the model another latent_prior, or the guide the encoder 'shared'."
)


def _check_reads_texts(model: DELLA) -> None:
    """Raises a ValueError if a prior wants a guide that reads vectors."""
    if any(isinstance(part, VampPrior) for part in model.modules()):
        raise ValueError(_NO_VECTORS)


def _moments(prior: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a diagonal Gaussian prior."""
    base: Any = getattr(prior, "base_dist", prior)
    if not isinstance(base, torch.distributions.Normal):
        raise ValueError(
            f"a residual posterior needs a diagonal Gaussian prior, and this one is a {type(base).__name__}: choose "
            "posterior 'full', or another latent_prior."
        )
    return base.mean, base.stddev
