"""The nonparametric variational autoencoder (NVAE): a text is decoded from a random mixture over vectors."""

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import pyro
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from .attention.editing import interpolated
from .attention.mixture import Mixture
from .batch import Batch
from .distributions.foreign import as_pyro
from .distributions.presence import Presence
from .drawn_layers import layers_at_means, text_with_drawn_layers
from .mixture_memory import MixtureMemoryModel
from .mixture_names import MixtureNames
from .priors.checks import as_prior, check_prior
from .priors.lengths import LengthPrior
from .priors.named import named_prior
from .priors.roles import BaseMeasure, SequencePrior, VectorPrior, WeightPrior
from .priors.sequence.gaussian_tokens import GaussianTokenPrior
from .priors.vectors import GaussianVectorPrior, check_base_measure, check_own_component, over_components
from .priors.weights import BoundedDirichletProcess
from .transformer.backbone import Backbone, Train
from .transformer.config import TransformerConfig
from .transformer.memory import Memory
from .transformer.mixtures.block import check_softmax_only
from .transformer.mixtures.decoder import MixtureDecoder
from .transformer.mixtures.drawn_text import DrawnText
from .transformer.mixtures.heads import AlphaForm
from .transformer.mixtures.posterior import MixturePosterior
from .transformer.stacks import Decoder
from .transformer.text_distribution import AutoregressiveText
from .utils.choices import check_choice
from .utils.numbers import check_at_least, declared_number
from .utils.precision import at_least_float32

__all__ = ["NVAE", "component_mask"]

DELTA = 0.3  # as published
TOKEN_CONCENTRATION = 3.0  # of each component, where the vectors are tokens: no weight is near zero


class NVAE(MixtureMemoryModel):
    r"""A Transformer decoder that attends to a Dirichlet-process mixture instead of to encoded tokens.

    A text has a random mixture :math:`F` of point masses, and each cross-attention of its decoder returns the posterior
    mean of the vector whose noisy observation the query is:

    .. math:: p(x) = p(n) \int p(x \mid F) \, p(\pi \mid n) \, p(z \mid n) \, d\pi \, dz, \qquad
        F = \sum_i \pi_i \, \delta_{z_i}

    The story of one text::

        n       ~ LengthPrior                     its length in tokens; or p(n | z), if
                                                  z says where a text ends
        weights_l, vectors_l                      of layers of the encoder that attend
                                                  to mixtures (nvib_layers)
        b_i     ~ Bernoulli(rho)                  whether a token's vector is present;
                                                  without presence, all are
        log pi  ~ WeightPrior(b)                  weights of kappa (n + 1) components:
                                                  a bounded Dirichlet process
        z_i     ~ BaseMeasure                     one vector per component, independent
                                                  or in sequence
        text    ~ AutoregressiveText(decoder, F)  layers of the decoder may draw
                                                  mixtures of their own over the tokens
                                                  before (nvib_decoder_layers)

    The first kappa components (``samples_per_component``) belong to the prior; the others, kappa each, to the tokens
    that a guide reads. As the mixture depends on the length :math:`n` of the text, the length is random too: bounds of
    :math:`\log p(x)` include :math:`\log p(n)`. Absent components have no weight and no vector; those of the prior are
    always present.

    Arguments:
        config: The network.
        weight_prior: Prior of the log weights; a bounded Dirichlet process by default.
        base_measure: Prior of a vector, or of all vectors of a text; or the name of one: ``tokens``,
            ``language_model``, ``codebook``, ``autoregressive``, ``mixture`` or ``gaussian``. A standard Gaussian by
            default; in :meth:`for_corpus` ``tokens``, or ``language_model`` with a backbone, but ``gaussian`` with
            ``presence``, which needs independent vectors.
        length_prior: Prior of the number of tokens; uniform up to ``max_length`` by default, and a smoothed histogram
            of the training texts in :meth:`for_corpus`. The prior ``tokens`` needs none: by default its vectors say
            where a text ends.
        samples_per_component: Number of vectors drawn for each component of the posterior.
        delta: The increase of the prior's concentration with each token, which decides how many vectors a text keeps:
            short for a ``weight_prior`` of ``BoundedDirichletProcess(delta=...)``. By default 0.3, as published.
            With the priors ``tokens`` and ``language_model`` it is 3, so that weights stay away from zero and no vector
            is hidden; there the prior's own concentration is 3 too, so that uninformative weights have a KL of zero.
        presence: The probability rho with which each token's vector is present, above 0 and below 1: the smaller, the
            fewer vectors a text keeps. The weights are then of those that are present, and their prior is that of a
            text with so many components. By default there is no such choice, and all are. The vectors must be
            independent of each other.
        nvib_layers: The number of layers of the guide's encoder, from the top, whose self-attention is over a mixture
            too. The prior has their weights and vectors as well, from a bounded Dirichlet process and a standard
            Gaussian, and the text does not depend on them: they limit what a layer of the encoder knows of its tokens.
        nvib_decoder_layers: The number of layers of the decoder, from the top, whose causal self-attention is over a
            mixture of the tokens before. They are drawn as the text is written and need no guide: their variational
            posterior is the model's own distribution. The objective ``nvib`` regularizes them.
        nvib_decoder_alpha: Log concentration of a token's component there, as that of the guide: ``linear``; ``relu``,
            which can switch vectors off; or ``quadratic``, which starts as softmax attention.

    Raises:
        ValueError: If ``samples_per_component`` is not positive or another than that of a prior, a prior has another
            shape or support than its role requires, there is a ``length_prior`` beside a ``base_measure`` that ends
            texts, ``delta`` is negative or given beside a ``weight_prior``, ``presence`` is no probability or given
            beside a joint prior of the vectors, or there are not ``nvib_layers`` or ``nvib_decoder_layers`` layers.

    References:
        A Variational AutoEncoder for Transformers with Nonparametric Variational Information Bottleneck (Henderson &
        Fehr, 2023). https://arxiv.org/abs/2207.13529

    Examples:
        A model of texts, whose prior of the vectors is trained with it from the first step:

        >>> corpus = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], max_length=32)
        >>> model = pf.NVAE.for_corpus(corpus, width=16, layers=1, heads=2)
        >>> run = pf.fit(model, pf.NVAEGuide(model), corpus, steps=2)
        >>> model.objective  # the exact bound; with independent vectors it is nvib, the published objective
        'elbo'

        Of given sizes, without a corpus; it is a Pyro model like any other:

        >>> model = NVAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> trace = pyro.poutine.trace(model).get_trace(Batch.unobserved(3))
        >>> trace.nodes["vectors"]["value"].shape[-1]
        16
    """

    latents: tuple[str, ...] = ("weights", "vectors")

    def __init__(
        self,
        config: TransformerConfig,
        weight_prior: WeightPrior | Distribution | Callable[..., Distribution] | None = None,
        base_measure: BaseMeasure | Distribution | Callable[..., Distribution] | str | None = None,
        length_prior: LengthPrior | None = None,
        samples_per_component: int = 1,
        delta: float | None = None,
        presence: float | None = None,
        nvib_layers: int = 0,
        nvib_decoder_layers: int = 0,
        nvib_decoder_alpha: AlphaForm = "linear",
    ) -> None:
        super().__init__()
        if delta is not None and weight_prior is not None:
            raise ValueError(
                f"delta is {delta:g}, and there is a weight_prior beside it: give its own delta to that, or leave "
                "weight_prior out."
            )
        self.config = config
        self.samples_per_component = declared_number("samples_per_component", samples_per_component, int)
        check_at_least(1, samples_per_component=self.samples_per_component)
        prior = named_prior(base_measure, config, self.samples_per_component, ends_texts=length_prior is None)
        self.base_measure = as_prior(prior, VectorPrior, "base_measure")
        concentration, delta = _concentrations(self.base_measure, delta)
        weight_prior = weight_prior or BoundedDirichletProcess(concentration, delta, self.samples_per_component)
        self.weight_prior = as_prior(weight_prior, WeightPrior, "weight_prior")
        self.nvib_layers = _checked_layers("nvib_layers", nvib_layers, config.layers, "encoder")
        self.nvib_decoder_layers = _checked_layers("nvib_decoder_layers", nvib_decoder_layers, config.layers, "decoder")
        check_choice("nvib_decoder_alpha", nvib_decoder_alpha, get_args(AlphaForm))
        if self.nvib_layers or self.nvib_decoder_layers:
            self.layer_weight_prior = BoundedDirichletProcess(delta=delta)
            self.layer_base_measure = GaussianVectorPrior(config.width)
        self.length_prior = self.check_length_prior(length_prior)
        self.presence = _checked_presence(presence, self.base_measure)
        self.latents = self._latent_sites()
        self.decoder = self._decoder(nvib_decoder_alpha)
        self._check_priors()
        self.start_reading()

    def forward(self, batch: Batch) -> Int[Tensor, "*batch T"]:
        with self.texts(batch):
            length, padded_length, vectors = self.sample_length(batch)
            mask = self.components(length, padded_length)
            self._sample_layers(component_mask(length, 1, padded_length + 1))
            if self.presence is not None:
                mask = mask & (pyro.sample("presence", self.presence_prior(mask)) > 0.5)
            log_weights = pyro.sample("weights", as_pyro(self.weight_prior(mask)))
            if vectors is None:
                vectors = self.sample_vectors(mask)
            mixture = Mixture(log_weights.to(vectors.dtype), vectors, mask=mask)
            return pyro.sample("text", self._text(mixture, batch), obs=batch.tokens)

    @classmethod
    def default_prior(cls, options: Mapping[str, Any], pretrained: bool = False) -> str:
        of_independent_vectors = options.get("presence") is not None
        return "gaussian" if of_independent_vectors else super().default_prior(options, pretrained)

    @classmethod
    def check_new(cls, config: TransformerConfig, options: Mapping[str, Any]) -> None:
        alpha = options.get("nvib_decoder_alpha", "linear")
        if alpha != "linear" and not options.get("nvib_decoder_layers"):
            raise ValueError(
                f"nvib_decoder_alpha is {alpha}, and no layer of the decoder attends to a mixture of its own: give "
                "nvib_decoder_layers, or leave it out."
            )
        over_mixtures = (options.get(name) for name in ("nvib_layers", "nvib_decoder_layers"))
        if all(layers == config.layers for layers in over_mixtures):  # no other layer reads the options
            check_softmax_only(config)

    @classmethod
    def check_start(cls, backbone: Backbone, train: Train, options: Mapping[str, Any]) -> None:
        if layers := options.get("nvib_decoder_layers"):
            raise ValueError(
                f"nvib_decoder_layers is {layers}, and all layers of {backbone.name} have softmax attention: leave it "
                "out, or turn a pretrained model of transformers with pf.nvib.wrap."
            )
        if (layers := options.get("nvib_layers")) and backbone.config.positions == "rotary":
            raise ValueError(
                f"nvib_layers is {layers}, and {backbone.name} has rotary positions, which attention to a mixture has "
                "not: leave it out, or start from a model with others, such as a GPT-2."
            )
        super().check_start(backbone, train, options)

    def _latent_sites(self) -> tuple[str, ...]:
        """The names of the latents."""
        of_layers = (site for layer in self._encoder_mixtures for site in (layer.weights, layer.vectors))
        return (*(() if self.presence is None else ("presence",)), *of_layers, *self.latents)

    def _decoder(self, alpha: AlphaForm) -> Decoder:
        """The decoder, some of whose layers may attend to mixtures of their own."""
        reader = self.place_reader(weighted=True)
        if not self.nvib_decoder_layers:
            return Decoder(self.config, cross_attention=True, reader=reader)
        return MixtureDecoder(self.config, self.nvib_decoder_layers, alpha, reader=reader)

    def _check_priors(self) -> None:
        """Raises a ValueError if a prior has another shape, support or number of components than its role requires."""
        samples_per_component = self.samples_per_component
        mask = component_mask(torch.tensor([1, 2]), samples_per_component, 3 * samples_per_component)
        check_prior(self.weight_prior, mask, name="weight_prior")
        for name in ("weight_prior", "base_measure"):
            own = getattr(getattr(self, name), "samples_per_component", samples_per_component)
            if own != samples_per_component:
                raise ValueError(
                    f"samples_per_component is {samples_per_component}, but {own} of {name}: give both the same."
                )
        check_base_measure(self.base_measure, mask, self.config.width)
        check_own_component(self.base_measure)

    def _text(self, mixture: Mixture, batch: Batch) -> AutoregressiveText:
        """The distribution of texts given the mixture; layers of the decoder draw theirs, those of known texts here."""
        if not isinstance(self.decoder, MixtureDecoder):
            return self.likelihood(mixture, batch.mask)
        if batch.tokens is None:
            return DrawnText(self.decoder, mixture, batch.mask)
        mask = component_mask(batch.lengths, 1, batch.tokens.shape[-1] + 1)
        priors = {"weights": self.layer_weight_prior(mask), "vectors": over_components(self.layer_base_measure, mask)}
        return text_with_drawn_layers(self.decoder, mixture, batch, mask, priors)

    def decoder_layers(self, memory: Memory, batch: Batch) -> dict[int, MixturePosterior]:
        """The mixtures of the decoder's layers for observed texts and their memory, by the number of the layer.

        Each is that at the means of the others. Its components are the prior's, that of the beginning of the text, and
        those of all tokens but the last.

        Raises:
            ValueError: If the batch is unobserved.
        """
        if batch.tokens is None:
            raise ValueError("the batch is unobserved: the mixtures of the decoder's layers are those of given texts.")
        if not isinstance(self.decoder, MixtureDecoder):
            return {}
        mask = component_mask(batch.lengths, 1, batch.tokens.shape[-1] + 1)
        return layers_at_means(self.decoder, memory, batch.tokens, mask)

    def _sample_layers(self, mask: Bool[Tensor, "*batch N"]) -> None:
        """The mixtures of the encoder's layers, which the text does not depend on."""
        for layer in self._encoder_mixtures:
            distribution: Any = over_components(self.layer_base_measure, mask)
            pyro.sample(layer.weights, self.layer_weight_prior(mask))
            pyro.sample(layer.vectors, distribution)

    @property
    def mixture_layers(self) -> range:
        """The numbers, from 1, of the encoder's layers that attend to mixtures."""
        return range(self.config.layers - self.nvib_layers + 1, self.config.layers + 1)

    @property
    def decoder_mixture_layers(self) -> range:
        """The numbers, from 1, of the decoder's layers that attend to mixtures over the tokens before."""
        return range(self.config.layers - self.nvib_decoder_layers + 1, self.config.layers + 1)

    @property
    def layers_with_mixtures(self) -> list[MixtureNames]:
        """The names of the mixtures of layers: those of the encoder, then those of the decoder."""
        return [*self._encoder_mixtures, *(MixtureNames("decoder", layer) for layer in self.decoder_mixture_layers)]

    @property
    def _encoder_mixtures(self) -> list[MixtureNames]:
        return [MixtureNames("encoder", layer) for layer in self.mixture_layers]

    def presence_prior(self, mask: Bool[Tensor, "*batch N"]) -> Presence:
        """The prior of which of a text's components are present."""
        assert self.presence is not None, "every component is present"
        log_odds = math.log(self.presence) - math.log1p(-self.presence)
        logits = torch.full(mask.shape, log_odds, device=mask.device, dtype=self.decoder.embedding.tokens.weight.dtype)
        return Presence(at_least_float32(logits), mask, always=self.samples_per_component)

    def components(self, length: Int[Tensor, "*batch"], padded_length: int) -> Bool[Tensor, "*batch N"]:
        return component_mask(length, self.samples_per_component, self.samples_per_component * (padded_length + 1))

    @property
    def objective(self) -> str:
        """``nvib`` for independent vectors; ``elbo`` for a joint prior, for which the paper defines no regularizer."""
        return "elbo" if isinstance(self.base_measure, SequencePrior) else "nvib"

    @property
    def dimensions(self) -> dict[str, tuple[str, ...]]:
        own = {"weights": ("component",), "vectors": ("component", "dimension")}
        for layer in self.layers_with_mixtures:
            component = "component" if layer.stack == "encoder" else "decoder_component"
            own |= {layer.weights: (component,), layer.vectors: (component, "dimension")}
        return own if self.presence is None else {"presence": ("component",), **own}

    def interpolate(self, first: Memory, second: Memory, t: float) -> Mixture:
        r"""The components of both mixtures, :math:`(1 - t) F_1 + t F_2`."""
        return interpolated(self.check_memory(first), self.check_memory(second), t)


def component_mask(
    length: Int[Tensor, "*batch"], samples_per_component: int, components: int
) -> Bool[Tensor, "*batch N"]:
    """True for the components that texts of these lengths have: the prior's, then those of their tokens.

    Arguments:
        length: The number of tokens of each text.
        samples_per_component: Components of the prior, and of each token.
        components: N, the number of components of the longest text.

    Examples:
        >>> component_mask(torch.tensor([1, 2]), samples_per_component=1, components=3).tolist()
        [[True, True, False], [True, True, True]]
    """
    return torch.arange(components, device=length.device) < samples_per_component * (length[..., None] + 1)


def _concentrations(base_measure: nn.Module, delta: float | None) -> tuple[float, float]:
    """The prior's concentration and delta, by default 3 and 3 where the vectors are tokens."""
    of_tokens = isinstance(base_measure, GaussianTokenPrior)
    concentration, default = (TOKEN_CONCENTRATION, TOKEN_CONCENTRATION) if of_tokens else (1.0, DELTA)
    return concentration, default if delta is None else delta


def _checked_layers(name: str, number: int, layers: int, stack: str) -> int:
    """A number of layers of the encoder or the decoder, or a ValueError if there are not as many."""
    number = declared_number(name, number, int)
    if not 0 <= number <= layers:
        raise ValueError(f"{name} is {number}: give a number of the {stack}'s layers, from 0 to {layers}.")
    return number


def _checked_presence(presence: float | None, base_measure: nn.Module) -> float | None:
    """The probability of presence, or a ValueError if it is none, or the vectors of a text are not independent."""
    presence = declared_number("presence", presence, float | None)
    if presence is None:
        return None
    if not 0 < presence < 1:
        raise ValueError(
            f"presence is {presence:g}: give the probability of a vector, above 0 and below 1, or leave it out, where "
            "every vector is present."
        )
    if isinstance(base_measure, SequencePrior):
        raise ValueError(
            f"presence is {presence:g}, and the prior of the vectors is a {type(base_measure).__name__}, in which each "
            "depends on those before, absent or not: take a base_measure of independent vectors (gaussian or mixture), "
            "or leave presence out."
        )
    return presence
