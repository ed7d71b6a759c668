r"""The posterior of the NVAE: a Transformer encoder turns each token into one component of the mixture.

The story of one text::

    h_1..h_n            = encoder(text), which reads tokens through the decoder's embedding
    mu_i, sigma_i^2, log alpha_i  from h_i by linear heads; component 0 is the prior's own
                                  (mu and sigma from the Gaussian of the token on, where the prior has one for each)
    b_i     ~ Bernoulli(g_i)      with the log odds of g_i from h_i by a linear head, where the model has presence
    log pi  ~ LogDirichlet(log alpha_0 .. log alpha_n)        of the components that are present
    z_i     ~ Normal(mu_i, sigma_i^2)

With kappa (``samples_per_component``) above 1 every component is repeated kappa times at 1/kappa of its alpha, which is
the paper's nested draw.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..models.attention.mixture import Mixture, SharedVariances
from ..models.batch import Batch
from ..models.choices import check_choice
from ..models.distributions.log_dirichlet import LogDirichlet
from ..models.distributions.presence import Presence, WherePresent
from ..models.nvae import NVAE, component_mask
from ..models.precision import at_least_float32
from ..models.priors.vectors import own_component
from ..models.transformer.stacks import Encoder
from .base import Guide
from .posteriors import in_words
from .token_start import from_prior, start_log_variance, start_mean

__all__ = ["AlphaHead", "MixturePosterior", "NVAEGuide", "kept_components"]

AlphaForm = Literal["linear", "relu", "quadratic"]
VarianceForm = Literal["diagonal", "isotropic", "shared"]
LEAST_LOG_ALPHA = -20.0  # at which a vector is off: its draws have no weight that float64 holds
NO_VECTORS = (
    "no text keeps a vector of its own: the posterior is the prior's component, and the head of alpha gets no gradient "
    "any more. Fit anew with a larger delta of the weight_prior or presence, or another --guide.alpha."
)
START_LOG_ODDS = 3.0  # of presence: a model that copies first has all vectors, 95 in 100 of them at a time
MOST_LOG_ALPHA = 60.0  # draws and divergences in float64 are exact up to here


class MixturePosterior(NamedTuple):
    """Parameters of the posterior mixture; components on axis -1 of ``log_alpha``."""

    log_alpha: Float[Tensor, "*batch N"]
    mean: Float[Tensor, "*batch N P"]
    variance: Float[Tensor, "*batch N P"]
    mask: Bool[Tensor, "*batch N"]
    shared: SharedVariances | None = None  # the same variances as groups, where there are only two
    samples_per_component: int = 1  # components of the prior, and of each token
    log_odds: Float[Tensor, "*batch N"] | None = None  # of presence, where the model has it

    def __repr__(self) -> str:
        return in_words(self, self.mean, self.mask, name="components")

    @property
    def log_weights(self) -> Float[Tensor, "*batch N"]:
        r"""Log of the mean weights, :math:`\log \alpha_i / \alpha_0`; those of vectors that are off are exactly 0."""
        return torch.log_softmax(self.log_alpha.masked_fill(~self.kept, -math.inf), -1)

    @property
    def kept(self) -> Bool[Tensor, "*batch N"]:
        """True for the prior's components and those of tokens that are not switched off, as ``relu`` does with some.

        Training draws weights of 0 for the others, so evaluation does not attend to them either. Where the model has
        presence, these are the components that are more probably present than not.
        """
        kept = kept_components(self.log_alpha, self.mask, self.samples_per_component)
        presence = self.presence()
        return kept if presence is None else kept & (presence.mean > 0.5)

    def presence(self) -> Presence | None:
        """The distribution of which components are present; None where the model has no presence."""
        return None if self.log_odds is None else Presence(self.log_odds, self.mask, self.samples_per_component)

    @property
    def layers(self) -> tuple[int, ...]:
        """Empty: every layer attends to the one mixture."""
        return ()

    def memory(self) -> Mixture:
        """The posterior's mean measure, to which evaluation attends: a mixture without the vectors that are off."""
        variances = self.variance if self.shared is None else self.shared
        return Mixture(self.log_weights, self.mean, variances=variances, mask=self.kept)

    def memory_at(self, latents: Float[Tensor, "*batch N P"]) -> Mixture:
        """Refused: weights are latent too, so that vectors alone set no mixture."""
        raise ValueError("the latents of a mixture form no table: choose a DELLA or a VAE to set them.")

    def moments(self) -> None:
        """None: weights are latent too, so that the latents form no table of vectors."""

    def token_weights(self) -> Float[Tensor, "*batch T"]:
        """The mean weight of each token's components, in float64; the prior's have the rest of one."""
        masked = self.log_alpha.double().masked_fill(~self.kept, -math.inf)
        return masked.softmax(-1).unflatten(-1, (-1, self.samples_per_component)).sum(-1)[..., 1:]


class AlphaHead(nn.Module):
    r"""Log concentration of a component from its token's encoding ``h``.

    ========== ============================================= =========================================
    form       log alpha                                     where
    ========== ============================================= =========================================
    linear     :math:`w \cdot h + b`                         the package's second version, here default
    relu       :math:`\log \max(w \cdot h + b, 0)`           the published experiments
    quadratic  :math:`w_2 \cdot h^2 + w_1 \cdot h + b`       the package's third version, for pretrained models
    ========== ============================================= =========================================

    A component that ``relu`` switches off has almost no alpha, for which the exact Dirichlet divergence grows without
    bound: use it with the published objective only. It gets no gradient either, so that a head which switches all
    components off stays dead: ``evaluate`` warns of texts without a vector. ``quadratic`` starts at
    :math:`|h|^2 / (2 \sqrt{P/H})`, where denoising attention is softmax attention: 11 for 128 dimensions in 4 heads, 48
    for 768 in 12.
    """

    def __init__(self, width: int, heads: int, form: AlphaForm) -> None:
        super().__init__()
        check_choice("alpha", form, get_args(AlphaForm))
        self.form = form
        self.linear = nn.Linear(width, 1)
        if form == "quadratic":
            self.square = nn.Parameter(torch.full((width,), 0.5 / math.sqrt(width / heads)))
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, h: Float[Tensor, "*batch n P"]) -> Float[Tensor, "*batch n"]:
        score = at_least_float32(self.linear(h).squeeze(-1))
        if self.form == "relu":
            return F.relu(score).clamp(min=math.exp(LEAST_LOG_ALPHA)).log()
        if self.form == "quadratic":
            return score + (self.square * at_least_float32(h).square()).sum(-1)
        return score


class VarianceHead(nn.Module):
    """Log variance of a component from its token's encoding; at the start, the same for all.

    One for each dimension, one for all of them, or one vector for all tokens.
    """

    def __init__(self, width: int, form: VarianceForm, start: float) -> None:
        super().__init__()
        check_choice("variance", form, get_args(VarianceForm))
        self.form = form
        outputs = 1 if form == "isotropic" else width
        self.bias = nn.Parameter(torch.full((outputs,), start))
        self.weight = None if form == "shared" else nn.Parameter(torch.zeros(outputs, width))

    def forward(self, h: Float[Tensor, "*batch n P"]) -> Float[Tensor, "*batch n P"]:
        if self.weight is None:
            return self.bias.expand(h.shape)
        return F.linear(h, self.weight, self.bias).expand(h.shape)


class NVAEGuide(Guide):
    r"""Amortized posterior of :class:`~pyroformer.NVAE`.

    Arguments:
        model: The model whose sites it samples.
        alpha: Form of the concentration's head, see :class:`AlphaHead`.
        variance: ``diagonal`` (one variance per component and dimension), ``isotropic`` (one per component) or
            ``shared`` (one vector for all tokens).
        log_variance: Initial log variance of every component; not used where the prior has a Gaussian for each token.

    Raises:
        ValueError: If ``alpha`` or ``variance`` has no such name, or the batch is unobserved.

    Examples:
        >>> from pyroformer.models.transformer.config import TransformerConfig
        >>> model = NVAE(TransformerConfig(vocabulary=20, max_length=8, width=16, layers=1, heads=2))
        >>> NVAEGuide(model).encode(Batch.pad([[5, 6, 2], [7, 2]])).mean.shape
        torch.Size([2, 4, 16])
    """

    model: NVAE

    model_class = NVAE

    def __init__(
        self, model: NVAE, alpha: AlphaForm = "linear", variance: VarianceForm = "diagonal", log_variance: float = -3.0
    ) -> None:
        super().__init__(model)
        width = model.config.width
        self.encoder = Encoder(model.config, model.decoder.embedding)  # it reads the tokens that the decoder writes
        self.mean = nn.Linear(width, width)
        start_mean(self.mean, model.base_measure)
        self.alpha = AlphaHead(width, model.config.heads, alpha)
        self.log_odds = None if model.presence is None else nn.Linear(width, 1)
        if self.log_odds is not None:
            nn.init.zeros_(self.log_odds.weight)
            nn.init.constant_(self.log_odds.bias, START_LOG_ODDS)
        self.log_variance = VarianceHead(width, variance, start_log_variance(model.base_measure, log_variance))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        posterior = self.encode(batch)
        normal: Any = dist.Normal(posterior.mean, posterior.variance.sqrt()).to_event(1)
        presence, mask = posterior.presence(), posterior.mask
        with self.texts(batch):
            if presence is not None:
                mask = mask & (pyro.sample("presence", presence) > 0.5)
            weights = pyro.sample("weights", LogDirichlet(posterior.log_alpha.double(), mask))
            where = normal.mask(mask) if presence is None else WherePresent(normal, mask, presence.mean)
            vectors = pyro.sample("vectors", where.to_event(1))
        return weights, vectors

    def encode(self, batch: Batch) -> MixturePosterior:
        """The posterior of each text, the prior's component first."""
        tokens, observed = self.observed(batch)
        h = self.encoder(tokens, observed)
        log_alpha = _bounded(self.alpha(h))
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
        return MixturePosterior(log_alpha, mean, variance, mask, shared, samples_per_component, log_odds)

    def _prior_log_alpha(self, like: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch 1"]:
        """Log concentration of the prior's component: that of the plain Dirichlet process, 0 for other priors."""
        concentration = getattr(self.model.weight_prior, "concentration", like.new_ones(()))
        return concentration.log().to(like.dtype).expand(*like.shape[:-1], 1)

    def _shared(
        self, base: Float[Tensor, " P"], tokens: Float[Tensor, "*batch n P"], like: Float[Tensor, "*batch N"]
    ) -> SharedVariances | None:
        if self.log_variance.form != "shared":
            return None
        table = torch.stack([base.to(like.dtype), tokens.flatten(0, -2)[0].to(like.dtype).exp()])
        index = (torch.arange(like.shape[-1], device=like.device) >= self.model.samples_per_component).long()
        return SharedVariances(table, index.expand(like.shape))


def kept_components(
    log_alpha: Float[Tensor, "*batch N"],
    mask: Bool[Tensor, "*batch N"],
    samples_per_component: int | Int[Tensor, "*batch 1"] = 1,
) -> Bool[Tensor, "*batch N"]:
    """True for the prior's components and those of tokens whose concentration is not 0.

    Examples:
        >>> kept_components(torch.tensor([0.0, LEAST_LOG_ALPHA, 1.0, 1.0]), torch.tensor([True, True, True, False]))
        tensor([ True, False,  True, False])
    """
    each = torch.as_tensor(samples_per_component, device=log_alpha.device)
    off = log_alpha <= LEAST_LOG_ALPHA - each.log() + 1e-3
    own = torch.arange(off.shape[-1], device=off.device) < each
    return mask & (own | ~off)


def _bounded(log_alpha: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Values in the range that the sampler takes; above it they keep their gradient, which leads them back."""
    below = log_alpha.clamp(min=LEAST_LOG_ALPHA)
    passing = below - below.detach() + MOST_LOG_ALPHA
    return torch.where(below > MOST_LOG_ALPHA, passing, below)


def _prepend(component: Float[Tensor, " P"], others: Float[Tensor, "*batch n P"]) -> Float[Tensor, "*batch m P"]:
    """The prior's component, followed by those of the tokens."""
    first = component.to(others.dtype).expand(*others.shape[:-2], 1, others.shape[-1])
    return torch.cat([first, others], -2)
