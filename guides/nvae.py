r"""The posterior of the NVAE: a Transformer encoder turns each token into one component of the mixture.

The story of one text::

    h_1..h_n = encoder(text), which reads tokens through the decoder's embedding,
               or is a pretrained one
    mu_i, sigma_i^2, log alpha_i  from h_i by linear heads (mu and sigma from the
               Gaussian of the token on, where the prior has one for each);
               component 0 is the prior's own
    b_i      ~ Bernoulli(g_i), with the log odds of g_i from h_i by a linear head,
               where the model has presence
    log pi   ~ LogDirichlet(log alpha_0 .. log alpha_n) of the components that are
               present
    z_i      ~ Normal(mu_i, sigma_i^2)

With kappa (``samples_per_component``) above 1 every component is repeated kappa times at 1/kappa of its alpha, which is
the paper's nested draw.
"""

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..models.attention.mixture import Mixture
from ..models.attention.variances import SharedVariances
from ..models.base import SWITCHES_OFF
from ..models.batch import Batch
from ..models.mixture_names import MixtureNames
from ..models.nvae import NVAE, component_mask
from ..models.priors.roles import WeightPrior
from ..models.priors.vectors import own_component
from ..models.transformer.mixtures.block import Draw
from ..models.transformer.mixtures.heads import AlphaForm, AlphaHead, VarianceForm, VarianceHead, bounded
from ..models.transformer.mixtures.posterior import MixturePosterior
from ..models.transformer.stacks import Encoder
from ..models.utils.precision import at_least_float32
from .base import Guide
from .encoders.aligned_texts import AlignedTexts
from .encoders.text_encoder import TextEncoder
from .mixture_encoder import MixtureEncoder
from .token_start import check_log_variance, encoder_config, from_prior, start_alpha, start_log_variance, start_mean

__all__ = ["NVAEGuide"]

START_LOG_ODDS = 3.0  # of presence: a model that copies first has all vectors, 95 in 100 of them at a time


class NVAEGuide(Guide):
    r"""Amortized posterior of :class:`~pyroformer.NVAE`.

    Arguments:
        model: The model whose sites it samples.
        alpha: Log concentration of a component from its token's encoding: ``linear``; ``relu``, the logarithm of a
            linear function cut off at zero, as published, for the objective ``nvib`` only; or ``quadratic``, which
            starts as softmax attention, for pretrained weights.
        variance: ``diagonal`` (one variance per component and dimension), ``isotropic`` (one per component) or
            ``shared`` (one vector for all tokens).
        log_variance: Initial log variance of every component; not used where the prior has a Gaussian for each token.
        encoder: A frozen pretrained encoder with its own tokenizer, a :class:`~pyroformer.TextEncoder`, whose states of
            a token's characters are read in place of those of an encoder of the decoder's sizes; on the command line,
            the folder of a BERT, or its name on the Hugging Face hub.

    Its own encoder has as many layers as the decoder, and two beside the prior ``language_model``.

    Raises:
        ValueError: If ``alpha`` or ``variance`` has no such name, the encoder is pretrained and its layers are to
            attend to mixtures, or the batch is unobserved.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = NVAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> NVAEGuide(model).encode(Batch.pad([[5, 6, 2], [7, 2]])).mean.shape
        torch.Size([2, 4, 16])
    """

    model: NVAE

    model_class = NVAE

    def __init__(
        self,
        model: NVAE,
        alpha: AlphaForm = "linear",
        variance: VarianceForm = "diagonal",
        log_variance: float = -3.0,
        encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__(model)
        width = model.config.width
        embedding = model.decoder.embedding  # the guide reads the tokens that the decoder writes
        self.encoder: Encoder | MixtureEncoder | AlignedTexts
        if encoder is not None and model.nvib_layers:
            raise ValueError(
                f"nvib_layers is {model.nvib_layers}, and a TextEncoder has no layers that attend to mixtures: "
                "build the model without nvib_layers, or leave the encoder out."
            )
        elif encoder is not None:
            self.encoder = AlignedTexts(encoder, width)
        elif model.nvib_layers:
            self.encoder = MixtureEncoder(
                model.config, model.nvib_layers, embedding, alpha, variance, log_variance=log_variance
            )
        else:
            self.encoder = Encoder(encoder_config(model), embedding)
        self.mean = nn.Linear(width, width)
        start_mean(self.mean, model.base_measure)
        self.alpha = AlphaHead(width, model.config.heads, alpha)
        start_alpha(self.alpha, model)
        self.log_odds = None if model.presence is None else nn.Linear(width, 1)
        if self.log_odds is not None:
            nn.init.zeros_(self.log_odds.weight)
            nn.init.constant_(self.log_odds.bias, START_LOG_ODDS)
        self.log_variance = VarianceHead(width, variance, start_log_variance(model.base_measure, log_variance))

    @classmethod
    def check_new(cls, model: Any, options: Mapping[str, Any]) -> None:
        if not model.nvib_layers:  # whose layers read it
            check_log_variance(model.base_measure, options)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.texts(batch):
            posterior = self._encode(batch, self._sampled) if self.model.nvib_layers else self.encode(batch)
            presence, present = posterior.presence(), posterior.mask
            if presence is not None:
                present = present & (pyro.sample("presence", presence) > 0.5)
            sites: dict[str, Any] = {"weights": posterior.weights(present), "vectors": posterior.vectors(present)}
            # in the order of the model, where vectors that say where a text ends come first
            names = list(sites) if self.model.length_prior is not None else reversed(sites)
            drawn = {name: self._sample(name, sites[name]) for name in names}
        return drawn["weights"], drawn["vectors"]

    def encode(self, batch: Batch) -> MixturePosterior:
        """The posterior of each text, the prior's component first.

        Where layers of the encoder attend to mixtures, it is that at the means of these.
        """
        return self._encode(batch, lambda layer, posterior: posterior.memory())

    def _encode(self, batch: Batch, draw: Draw) -> MixturePosterior:
        """The posterior, with ``draw(layer, posterior)`` as the mixture that a layer of the encoder attends to."""
        tokens, observed = self.observed(batch)
        lower: dict[int, MixturePosterior] = {}

        def collecting(layer: int, posterior: MixturePosterior) -> Mixture:
            lower[layer] = posterior
            return draw(layer, posterior)

        h = self.encoder(tokens, observed, collecting) if self.model.nvib_layers else self.encoder(tokens, observed)
        tokens = tokens.expand(h.shape[:-1])  # a draw of the layers' mixtures may have particles on the left
        log_alpha = bounded(self.alpha(h))
        log_odds = None if self.log_odds is None else F.pad(at_least_float32(self.log_odds(h).squeeze(-1)), (1, 0))
        with self.set_hyperparameters():
            base: Any = own_component(self.model.base_measure)
            means, log_variances = from_prior(
                self.model.base_measure, tokens, at_least_float32(self.mean(h)), at_least_float32(self.log_variance(h))
            )
            log_alpha = torch.cat([self._prior_log_alpha(log_alpha), log_alpha], -1)
        mean, variance = _prepend(base.mean, means), _prepend(base.variance, log_variances.exp())
        samples_per_component = self.model.samples_per_component
        if samples_per_component > 1:
            log_alpha = (log_alpha - math.log(samples_per_component)).repeat_interleave(samples_per_component, -1)
            mean = mean.repeat_interleave(samples_per_component, -2)
            variance = variance.repeat_interleave(samples_per_component, -2)
            log_odds = None if log_odds is None else log_odds.repeat_interleave(samples_per_component, -1)
        mask = component_mask(batch.lengths, samples_per_component, log_alpha.shape[-1])
        shared = self._shared(base.variance, log_variances, log_alpha)
        return MixturePosterior(log_alpha, mean, variance, mask, shared, samples_per_component, log_odds, lower)

    def _sampled(self, layer: int, posterior: MixturePosterior) -> Mixture:
        """A draw of the mixture of a layer of the encoder, at sites of its own."""
        names = MixtureNames("encoder", layer)
        weights = self._sample(names.weights, posterior.weights())
        vectors = self._sample(names.vectors, posterior.vectors())
        return Mixture(weights.to(vectors.dtype), vectors, mask=posterior.mask)

    def _sample(self, site: str, distribution: Any) -> Tensor:
        infer: Any = {SWITCHES_OFF: self.alpha.form == "relu"}
        drawn: Tensor = pyro.sample(site, distribution, infer=infer)
        return drawn

    def _prior_log_alpha(self, like: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
        """Log concentration of the prior's component; 0 if the prior is not a :class:`WeightPrior`."""
        prior = self.model.weight_prior
        own = prior.own_log_concentration() if isinstance(prior, WeightPrior) else 0.0
        if isinstance(own, Tensor):
            return own.to(like.dtype).expand(*like.shape[:-1], 1)
        return like.new_full((*like.shape[:-1], 1), own)  # without a copy to the device

    def _shared(
        self, base: Float[Tensor, " P"], tokens: Float[Tensor, "*batch n P"], like: Float[Tensor, "*batch N"]
    ) -> SharedVariances | None:
        if self.log_variance.form != "shared":
            return None
        table = torch.stack([base.to(like.dtype), tokens.flatten(0, -2)[0].to(like.dtype).exp()])
        index = (torch.arange(like.shape[-1], device=like.device) >= self.model.samples_per_component).long()
        return SharedVariances(table, index.expand(like.shape))


def _prepend(component: Float[Tensor, " P"], others: Float[Tensor, "*batch n P"]) -> Float[Tensor, "*batch m P"]:
    """The prior's component, followed by those of the tokens."""
    first = component.to(others.dtype).expand(*others.shape[:-2], 1, others.shape[-1])
    return torch.cat([first, others], -2)
