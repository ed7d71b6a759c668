"""The Gaussian variational autoencoder (VAE): a text is decoded from one random vector for each token."""

import math
from collections.abc import Callable
from dataclasses import replace

import pyro
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from .attention.components import padded
from .attention.editing import check_fraction
from .attention.mixture import Mixture
from .batch import Batch
from .mixture_memory import MixtureMemoryModel
from .priors.checks import as_prior
from .priors.lengths import LengthPrior
from .priors.named import named_prior
from .priors.roles import BaseMeasure, VectorPrior
from .priors.vectors import check_base_measure
from .transformer.config import TransformerConfig
from .transformer.memory import Memory, check_pair
from .transformer.stacks import Decoder

__all__ = ["VAE", "length_mask"]


class VAE(MixtureMemoryModel):
    r"""A Transformer decoder that attends to Gaussian vectors instead of to encoded tokens.

    .. math:: p(x) = p(n) \int p(x \mid z_1, \dots, z_n) \, p(z_1, \dots, z_n \mid n) \, dz

    The story of one text::

        n    ~ LengthPrior                     its length in tokens; or p(n | z), if z
                                               says where a text ends
        z_i  ~ BaseMeasure                     one vector per token, independent or in
                                               sequence
        text ~ AutoregressiveText(decoder, z)  whose every cross-attention is softmax
                                               attention over z_1 .. z_n

    The weights of the vectors, which are random in the :class:`~pyroformer.NVAE`, follow from the vectors here: with
    :math:`\pi_i \propto \exp(|z_i|^2 / 2s)`, where :math:`s` is the variance of a query's noise, denoising attention is
    softmax attention. A VAE with a single vector for the whole text is :class:`~pyroformer.DELLA` with
    ``structure="single"``.

    Arguments:
        config: The network.
        base_measure: Prior of a vector, or of all vectors of a text; or the name of one: ``tokens``,
            ``language_model``, ``codebook``, ``autoregressive``, ``mixture`` or ``gaussian``. A standard Gaussian by
            default; in :meth:`for_corpus` ``tokens``, and ``language_model`` with a backbone.
        length_prior: Prior of the number of tokens; uniform up to ``max_length`` by default, and a smoothed histogram
            of the training texts in :meth:`for_corpus`. The prior ``tokens`` needs none: by default its vectors say
            where a text ends.

    Raises:
        ValueError: If the prior has another shape than the network, or ``length_prior`` is given beside a
            ``base_measure`` that ends texts.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck (Henderson &
        Fehr, 2023), whose baseline VTV this is. https://arxiv.org/abs/2207.13529

    Examples:
        A model of texts, whose prior of the vectors is trained with it from the first step:

        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.VAE.for_corpus(corpus, width=16, layers=1, heads=2)
        >>> run = pf.fit(model, pf.VAEGuide(model), corpus, steps=2)

        Of given sizes, without a corpus; it is a Pyro model like any other:

        >>> model = VAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> trace = pyro.poutine.trace(model).get_trace(Batch.unobserved(3))
        >>> trace.nodes["vectors"]["value"].shape[-1]
        16
    """

    latents = ("vectors",)

    def __init__(
        self,
        config: TransformerConfig,
        base_measure: BaseMeasure | Distribution | Callable[..., Distribution] | str | None = None,
        length_prior: LengthPrior | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        prior = named_prior(base_measure, config, 0, ends_texts=length_prior is None)
        self.base_measure = as_prior(prior, VectorPrior, "base_measure")
        self.length_prior = self.check_length_prior(length_prior)
        self.decoder = Decoder(config, cross_attention=True, reader=self.place_reader(weighted=False))
        check_base_measure(self.base_measure, length_mask(torch.tensor([1, 2]), 2), config.width)
        self.start_reading()

    def forward(self, batch: Batch) -> Int[Tensor, "*batch T"]:
        with self.texts(batch):
            length, padded_length, vectors = self.sample_length(batch)
            mask = self.components(length, padded_length)
            if vectors is None:
                vectors = self.sample_vectors(mask)
            return pyro.sample("text", self.likelihood(self.memory(vectors, mask), batch.mask), obs=batch.tokens)

    def components(self, length: Int[Tensor, "*batch"], padded_length: int) -> Bool[Tensor, "*batch N"]:
        return length_mask(length, padded_length)

    def memory(self, vectors: Float[Tensor, "*#batch N P"], mask: Bool[Tensor, "*#batch N"]) -> Mixture:
        """The mixture for which denoising attention with the query noise of a head is softmax attention."""
        noise = math.sqrt(self.config.width / self.config.heads)
        log_weights = (vectors.square().sum(-1) / (2 * noise)).masked_fill(~mask, -math.inf).log_softmax(-1)
        return Mixture(log_weights, vectors, mask=mask)

    def interpolate(self, first: Memory, second: Memory, t: float) -> Mixture:
        r"""Vectors averaged position by position, :math:`(1 - t) z_i^{(1)} + t z_i^{(2)}`.

        Where only one text has a vector, it stays, with its weight multiplied by the share of its text.
        """
        check_fraction(t)
        first, second = self.check_memory(first), self.check_memory(second)
        check_pair(first, second)
        one, other = (padded(mixture, max(first.components, second.components)) for mixture in (first, second))
        assert one.mask is not None and other.mask is not None
        here, there = (1 - t) * one.mask[..., None], t * other.mask[..., None]
        total = here + there
        mean = (here * one.means + there * other.means) / torch.where(total > 0, total, 1)
        total = total.squeeze(-1)
        memory = self.memory(mean, total > 0)
        return replace(memory, log_weights=(memory.log_weights + total.log()).log_softmax(-1))

    @property
    def dimensions(self) -> dict[str, tuple[str, ...]]:
        return {"vectors": ("component", "dimension")}


def length_mask(length: Int[Tensor, "*batch"], padded_length: int) -> Bool[Tensor, "*batch N"]:
    """True for the places that texts of these lengths fill.

    Examples:
        >>> length_mask(torch.tensor([1, 2]), padded_length=2).tolist()
        [[True, False], [True, True]]
    """
    return torch.arange(padded_length, device=length.device) < length[..., None]
