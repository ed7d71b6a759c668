r"""An encoder whose upper layers attend to a mixture over their own tokens: NVIB self-attention.

The story of an upper layer, with h the normed states of its tokens::

    mu_i, sigma_i^2  from h_i by linear heads; component 0 is the prior's own, a standard Gaussian
    log alpha_i      from h_i by a head, plus that of the same token in the mixture of the layer below
    log pi  ~ LogDirichlet(log alpha_0 .. log alpha_n)
    z_i     ~ Normal(mu_i, sigma_i^2)
    x       = x + DenoisingAttention(h, sum_i pi_i delta(z_i))
    x       = x + MLP(norm(x))

A query is the state itself. Log concentrations add up, and a vector that a layer switches off stays off above it.

References:
    Learning to Abstract with Nonparametric Variational Information Bottleneck (Behjati, Fehr & Henderson, 2023),
    https://arxiv.org/abs/2310.17284
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..models.attention.layers.denoising import DenoisingAttention
from ..models.attention.mixture import Mixture
from ..models.transformer.blocks import MLP, Block, applied, initialize, norm_layer
from ..models.transformer.config import TransformerConfig
from ..models.transformer.embedding import Embedding
from ..models.transformer.stacks import check_length
from ..models.utils.precision import at_least_float32
from .heads import AlphaForm, AlphaHead, VarianceForm, VarianceHead, bounded
from .mixture_posterior import LEAST_LOG_ALPHA, MixturePosterior

__all__ = ["Draw", "MixtureBlock", "MixtureEncoder"]

Draw: TypeAlias = Callable[[int, MixturePosterior], Mixture]


class MixtureBlock(nn.Module):
    r"""A pre-norm layer whose self-attention is over a mixture with a component for each token.

    It starts with means that are the normed states. With the head ``quadratic`` and small variances it then attends as
    softmax attention does, to the prior's component too.

    Arguments:
        config: Sizes and options.
        alpha: Form of the concentration's head.
        variance: Form of the variance's head.
        log_variance: Initial log variance of every component.

    Examples:
        >>> block = MixtureBlock(TransformerConfig(vocabulary=20, max_length=8, width=16, heads=2))
        >>> x, mask = torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
        >>> posterior = block.posterior(x, mask)
        >>> posterior
        MixturePosterior(3 texts, 6 components of 16 dimensions)
        >>> block(x, posterior.memory()).shape
        torch.Size([3, 5, 16])
    """

    def __init__(
        self,
        config: TransformerConfig,
        alpha: AlphaForm = "linear",
        variance: VarianceForm = "diagonal",
        log_variance: float = -3.0,
    ) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.attention_norm = norm_layer(config)
        self.attention = DenoisingAttention(width, heads, bias=config.bias, dropout=config.dropout)
        self.mlp_norm = norm_layer(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)
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
        first = torch.zeros_like(mean[..., :1, :])
        return MixturePosterior(
            F.pad(bounded(log_alpha), (1, 0)),
            torch.cat([first, mean], -2),
            torch.cat([torch.ones_like(first), variance], -2),
            F.pad(mask, (1, 0), value=True),
        )

    def forward(
        self, x: Float[Tensor, "*#batch T P"], mixture: Mixture, causal: bool = False
    ) -> Float[Tensor, "*#batch T P"]:
        """The states after every token has attended to the mixture.

        Arguments:
            x: States of the tokens, before the norm.
            mixture: A draw or the mean of the layer's mixture, with a component for each token after the prior's.
            causal: Whether a token attends to the components of tokens before it, its own and the prior's only.
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), mixture, causal))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class MixtureEncoder(nn.Module):
    r"""Bidirectional stack whose upper layers attend to mixtures.

    Arguments:
        config: Sizes and options.
        mixtures: The number of layers with a mixture, from the top.
        embedding: The embedding to share; None makes a new one.
        alpha: Form of the concentrations' heads.
        variance: Form of the variances' heads.
        log_variance: Initial log variance of every component.

    Raises:
        ValueError: If there are not as many layers, or positions are rotary, which attention to a mixture lacks.

    Examples:
        >>> encoder = MixtureEncoder(TransformerConfig(vocabulary=20, max_length=8, width=16, heads=2), mixtures=1)
        >>> tokens = torch.randint(20, (3, 8))
        >>> encoder(tokens, torch.ones_like(tokens, dtype=torch.bool)).shape
        torch.Size([3, 8, 16])
    """

    def __init__(
        self,
        config: TransformerConfig,
        mixtures: int,
        embedding: Embedding | None = None,
        alpha: AlphaForm = "linear",
        variance: VarianceForm = "diagonal",
        log_variance: float = -3.0,
    ) -> None:
        super().__init__()
        if not 1 <= mixtures <= config.layers:
            raise ValueError(f"mixtures is {mixtures}: give a number of layers from 1 to {config.layers}.")
        if config.positions == "rotary":
            raise ValueError(
                "positions are rotary, which attention to a mixture has not: choose sinusoidal or learned."
            )
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers - mixtures))
        self.norm = norm_layer(config)
        initialize(self, config)
        self.mixture_blocks = nn.ModuleList(
            MixtureBlock(config, alpha, variance, log_variance) for _ in range(mixtures)
        )
        if embedding is not None:
            self.embedding = embedding

    def forward(
        self,
        tokens: Int[Tensor, "*#batch T"],
        mask: Bool[Tensor, "*#batch T"] | None = None,
        draw: Draw | None = None,
    ) -> Float[Tensor, "*#batch T P"]:
        """Hidden states; those where ``mask`` is False are meaningless, and no other depends on them.

        Arguments:
            tokens: Texts.
            mask: True where there is a token.
            draw: Called with the number of a layer, from 1, and its mixture, for the mixture that the layer attends to;
                its mean by default.
        """
        check_length(tokens.shape[-1], self.config)
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        x = self.embedding(tokens)
        for block in self.blocks:
            x = applied(block, x, mask)
        posterior = None
        for layer, block in enumerate(self.mixture_blocks, len(self.blocks) + 1):
            assert isinstance(block, MixtureBlock)
            posterior = block.posterior(x, mask, posterior)
            x = block(x, posterior.memory() if draw is None else draw(layer, posterior))
        return self.norm(x)


def _is_off(log_alpha: Float[Tensor, "*batch n"]) -> Bool[Tensor, "*batch n"]:
    """True for vectors that a head or a layer has switched off."""
    return log_alpha <= LEAST_LOG_ALPHA + 1e-3  # float32 has log(exp(-20)) only nearly
