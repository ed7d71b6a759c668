r"""A layer whose self-attention is over a mixture with a component for each of its tokens: NVIB self-attention.

The story of a layer, with h the normed states of its tokens::

    mu_i, sigma_i^2  from h_i by linear heads; component 0 is the prior's own, a
                     standard Gaussian
    log alpha_i      from h_i by a head, plus that of the same token in the mixture
                     of the layer below
    log pi  ~ LogDirichlet(log alpha_0 .. log alpha_n)
    z_i     ~ Normal(mu_i, sigma_i^2)
    x       = x + DenoisingAttention(h, sum_i pi_i delta(z_i))
    x       = x + MLP(norm(x))

A query is the state itself. Log concentrations add up, and a vector that a layer switches off stays off above it.
Causally, token t attends to the components 0 .. t: the weights of these alone are Dirichlet again, with the same
concentrations, so that a text can be written token by token.

References:
    Learning to Abstract with Nonparametric Variational Information Bottleneck (Behjati, Fehr & Henderson, 2023),
    https://arxiv.org/abs/2310.17284
"""

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...attention.kv_cache import KeyValueCache
from ...attention.layers.denoising import DenoisingAttention, ProjectedMixture
from ...attention.mixture import Mixture
from ...utils.precision import at_least_float32
from ..blocks import PreNormBlock, initialize
from ..config import TransformerConfig
from .heads import AlphaForm, AlphaHead, VarianceForm, VarianceHead, bounded
from .posterior import LEAST_LOG_ALPHA, MixturePosterior

__all__ = ["Draw", "MixtureBlock", "check_mixtures", "check_softmax_only"]

Draw: TypeAlias = Callable[[int, MixturePosterior], Mixture]


class MixtureBlock(PreNormBlock):
    r"""A pre-norm layer whose self-attention is over a mixture with a component for each token.

    It starts with means that are the normed states. With the head ``quadratic`` and small variances it then attends as
    softmax attention does, to the prior's component too.

    Arguments:
        config: Sizes and options.
        alpha: Form of the concentration's head.
        variance: Form of the variance's head.
        log_variance: Initial log variance of every component.
        cross_attention: Whether the block attends to a memory too, as those of a decoder do.

    Examples:
        >>> block = MixtureBlock(TransformerConfig(vocabulary=20, max_length=8, width=16, heads=2))
        >>> x, mask = torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
        >>> posterior = block.posterior(x, mask)
        >>> posterior
        MixturePosterior(3 texts, 6 components of 16 dimensions)
        >>> block(x, posterior.memory()).shape
        torch.Size([3, 5, 16])
    """

    attention: DenoisingAttention

    def __init__(
        self,
        config: TransformerConfig,
        alpha: AlphaForm = "linear",
        variance: VarianceForm = "diagonal",
        log_variance: float = -3.0,
        cross_attention: bool = False,
    ) -> None:
        width, heads = config.width, config.heads
        attention = DenoisingAttention(width, heads, bias=config.bias, dropout=config.dropout)
        super().__init__(config, attention, cross_attention)
        initialize(self, config)
        self.mean = nn.Linear(width, width)
        nn.init.eye_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)
        self.alpha = AlphaHead(width, heads, alpha)
        self.log_variance = VarianceHead(width, variance, log_variance)

    def posterior(
        self, x: Float[Tensor, "*#batch T P"], mask: Bool[Tensor, "*#batch T"], below: MixturePosterior | None = None
    ) -> MixturePosterior:
        """The mixture of the layer, the prior's component first.

        Arguments:
            x: States of the tokens, before the norm.
            mask: True where there is a token.
            below: The mixture of the layer below, if that has one.
        """
        h = self.attention_norm(x)
        log_alpha = self.alpha(h)
        if below is not None:
            off = _is_off(log_alpha) | _is_off(below.log_alpha[..., 1:])  # the sum of an off vector alone could be on
            log_alpha = (log_alpha + below.log_alpha[..., 1:]).masked_fill(off, LEAST_LOG_ALPHA)
        mean, variance = at_least_float32(self.mean(h)), at_least_float32(self.log_variance(h)).exp()
        return MixturePosterior(
            F.pad(bounded(log_alpha), (1, 0)),
            F.pad(mean, (0, 0, 1, 0)),
            F.pad(variance, (0, 0, 1, 0), value=1.0),
            F.pad(mask, (1, 0), value=True),
        )

    def forward(
        self,
        x: Float[Tensor, "*#batch T P"],
        mixture: Mixture,
        causal: bool = False,
        memory: Mixture | ProjectedMixture | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "*#batch T P"]:
        """The states after every token has attended to the mixture.

        Arguments:
            x: States of the tokens, before the norm.
            mixture: A draw or the mean of the layer's mixture, with a component for each token after the prior's.
            causal: Whether a token attends to the components of tokens before it, its own and the prior's only.
            memory: What the cross-attention attends to, if there is any.
            cache: Keys and values of the components before. The mixture is then of the tokens of x alone, after the
                prior's, which only the first tokens add to the cache; weights must not be normalized.

        Raises:
            ValueError: If there is a memory and no cross-attention.
        """
        projected = self.attention.project(mixture, local=causal)
        if cache is not None:
            new = slice(min(cache.length, 1), None)
            keys, values, _ = cache.append(projected.keys[..., new, :], projected.values[..., new, :])
            projected = projected._replace(keys=keys, values=values)
        answers = self.attention(self.attention_norm(x), projected, causal and x.shape[-2] > 1)
        return self._after_attention(x, answers, memory)


def check_mixtures(config: TransformerConfig, mixtures: int) -> None:
    """Raises a ValueError unless so many of the layers can attend to a mixture, which has no rotary positions."""
    if not 1 <= mixtures <= config.layers:
        raise ValueError(f"mixtures is {mixtures}: give a number of layers from 1 to {config.layers}.")
    if config.positions == "rotary":
        raise ValueError("positions are rotary, which attention to a mixture has not: choose sinusoidal or learned.")


def check_softmax_only(config: TransformerConfig) -> None:
    """Raises a ValueError for options of self-attention that attention to a mixture lacks, where no layer reads them.

    Adapters are no such option: they are beside the frozen weights of other layers, and those of a mixture are trained.
    """
    present = {
        "attention": config.attention != "softmax",
        "key_value_heads": config.value_heads != config.heads,
        "head_size": config.head_width * config.heads != config.width,
        "qkv_bias": config.qkv_bias not in (None, config.bias),
        "query_key_norm": config.query_key_norm,
    }
    for name in (name for name, ignored in present.items() if ignored):
        raise ValueError(f"{name} is {getattr(config, name)}, which attention to a mixture has not: leave it out.")


def _is_off(log_alpha: Float[Tensor, "*batch n"]) -> Bool[Tensor, "*batch n"]:
    """True for vectors that a head or a layer has switched off."""
    return log_alpha <= LEAST_LOG_ALPHA + 1e-3  # float32 has log(exp(-20)) only nearly
