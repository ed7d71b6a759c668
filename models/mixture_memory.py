"""Base class of the models whose decoder attends to a mixture over the vectors of a text."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar

import pyro
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .attention.mixture import Mixture
from .base import Model
from .batch import Batch
from .priors.lengths import LengthPrior
from .priors.roles import SequencePrior
from .priors.sequence.gaussian_tokens import GaussianTokenPrior
from .priors.sequence.language_model import LanguageModelVectorPrior
from .priors.vectors import over_components
from .transformer.backbone import Backbone, Train
from .transformer.blocks import cross_attention_of
from .transformer.config import TransformerConfig
from .transformer.memory import Memory, check_mixture
from .transformer.place_reader import PlaceReader
from .transformer.stacks import Decoder
from .transformer.text_distribution import AutoregressiveText

__all__ = ["MixtureMemoryModel"]


class MixtureMemoryModel(Model):
    """A decoder that attends to as many vectors as a text is long, so that the length is a site with a prior.

    The prior of the length is ``length_prior``, or else follows from the vectors, if ``base_measure`` ends texts.
    """

    # Llama's blocks, the best from scratch, with learned positions; a literal, which --help reads without an import.
    network: ClassVar[dict[str, Any]] = {
        "norm": "rms",
        "activation": "swiglu",
        "bias": False,
        "positions": "learned",
    }
    config: TransformerConfig
    base_measure: nn.Module
    length_prior: LengthPrior | None
    decoder: Decoder

    @classmethod
    def default_prior(cls, options: Mapping[str, Any], pretrained: bool = False) -> str:
        """The name of the ``base_measure`` in :meth:`for_corpus`, beside these options of a model without one.

        Arguments:
            options: Other options of the model.
            pretrained: Whether it starts from a backbone.
        """
        return "language_model" if pretrained else "tokens"

    @classmethod
    def corpus_arguments(
        cls, corpus: Any, options: Mapping[str, Any], backbone: Backbone | None = None
    ) -> dict[str, Any]:
        own: dict[str, Any] = {}
        prior = options.get("base_measure")
        if prior is None and "base_measure" in signature(cls).parameters:
            own["base_measure"] = prior = cls.default_prior(options, backbone is not None)
        ends = prior in ("tokens", "language_model") or _ends_texts(prior)
        if not ends and "length_prior" not in options:
            own["length_prior"] = LengthPrior.fit(torch.as_tensor(corpus.train.lengths), corpus.max_length)
        return own

    def start_from(self, backbone: Backbone, train: Train = "all", labels: int = 0) -> None:
        super().start_from(backbone, train, labels)
        if isinstance(self.base_measure, LanguageModelVectorPrior):
            backbone.load_into(self.base_measure, labels)
            if train != "all":
                backbone.freeze(self.base_measure)
                if self.decoder.reader is not None:
                    self.decoder.reader.codebook.requires_grad_(False)
        self.start_reading()

    def place_reader(self, weighted: bool) -> PlaceReader | None:
        """The module that adds the vector of each place to the decoder's output layer, if the prior encodes places.

        Arguments:
            weighted: Whether the weights of the vectors are latent, and count.
        """
        if not isinstance(self.base_measure, LanguageModelVectorPrior):
            return None
        config = self.config
        return PlaceReader(config.vocabulary, config.width, self.base_measure.config.max_length, weighted)

    @torch.no_grad()
    def start_reading(self) -> None:
        """Starts at a decoder that understands the prior's vectors, where the prior has a Gaussian for each token.

        The means of the Gaussians are the decoder's embedding, scaled to variance 1. Where a reader finds the vector of
        each place, it starts at them, and the cross-attention adds nothing at first. Otherwise the cross-attention adds
        the vector that it reads to a hidden state as it is, so that the output layer finds the token; where to read, it
        learns.
        """
        prior = self.base_measure
        if not isinstance(prior, GaussianTokenPrior):
            return
        embedding = self.decoder.embedding.tokens.weight
        if prior.means().shape != embedding.shape:
            (own, width), (count, size) = prior.means().shape, embedding.shape
            raise ValueError(
                f"the base_measure has vectors of width {width} for {own} tokens, and the model has {count} tokens of "
                f"width {size}: give both the same."
            )
        prior.start_at_embedding(embedding)
        if self.decoder.reader is not None:
            self.decoder.reader.start_at(prior.means())
        for block in self.decoder.blocks:
            attention = cross_attention_of(block)
            nn.init.orthogonal_(attention.value.weight)
            attention.out.weight.copy_(attention.value.weight.T)
            if self.decoder.reader is not None:
                nn.init.zeros_(attention.out.weight)

    def check_length_prior(self, length_prior: LengthPrior | None) -> LengthPrior | None:
        """The prior of the length, uniform by default; None, with no other allowed, where the vectors end a text."""
        if not _ends_texts(self.base_measure):
            return length_prior or LengthPrior(self.config.max_length)
        if length_prior is not None:
            raise ValueError(
                f"there is a length_prior, but the vectors of the base_measure {type(self.base_measure).__name__} end "
                "texts: leave the length_prior out, or give a base_measure without eos."
            )
        return None

    def components(self, length: Int[Tensor, "*batch"], padded_length: int) -> Bool[Tensor, "*batch N"]:
        """True for the components that texts of these lengths have."""
        raise NotImplementedError(f"{type(self).__name__} is a MixtureMemoryModel: write components(...)")

    def sample_vectors(self, mask: Bool[Tensor, "*batch N"]) -> Float[Tensor, "*texts N P"]:
        """The vectors of the components that exist, at the site ``vectors``."""
        vectors: Tensor = pyro.sample("vectors", self._of_vectors(mask))
        return vectors

    def sample_length(self, batch: Batch) -> tuple[Int[Tensor, "*batch"], int, Float[Tensor, "*texts N P"] | None]:
        """The number of tokens of each text, at the site ``length``, and the padded length of the batch.

        Where the vectors end a text they are drawn first, as many as may be needed, and returned too.
        """
        if self.length_prior is None:
            return self._sample_to_the_end(batch)
        if batch.mask is not None:
            return pyro.sample("length", self.length_prior(), obs=batch.lengths), batch.mask.shape[-1], None
        length: Tensor = pyro.sample("length", self.length_prior())
        return length, int(length.max()), None

    def _sample_to_the_end(self, batch: Batch) -> tuple[Int[Tensor, "*batch"], int, Float[Tensor, "*texts N P"]]:
        if batch.mask is None:
            padded_length = self.config.max_length
            length = torch.full(batch.weight.shape, padded_length, device=batch.weight.device)
        else:
            padded_length, length = batch.mask.shape[-1], batch.lengths
        assert isinstance(self.base_measure, SequencePrior)
        distribution = self._of_vectors(self.components(length, padded_length))
        vectors: Tensor = pyro.sample("vectors", distribution)
        ends: Any = self.base_measure.length(distribution, vectors, self.config.max_length)
        length = pyro.sample("length", ends, obs=None if batch.mask is None else batch.lengths)
        return length, padded_length, vectors

    def _of_vectors(self, mask: Bool[Tensor, "*batch N"]) -> Any:
        return over_components(self.base_measure, mask)

    def likelihood(self, memory: Mixture, mask: Bool[Tensor, "*batch T"] | None = None) -> AutoregressiveText:
        """p(text | mixture): of a drawn mixture, or of the posterior's mean."""
        return AutoregressiveText(self.decoder, memory, mask=mask)

    def check_memory(self, memory: Memory) -> Mixture:
        return check_mixture(memory, self.config.width)


def _ends_texts(base_measure: object) -> bool:
    return isinstance(base_measure, SequencePrior) and base_measure.ends_texts
