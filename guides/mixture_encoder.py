"""An encoder whose upper layers attend to a mixture over their own tokens: NVIB self-attention.

Each upper layer is a :class:`~pyroformer.models.transformer.mixtures.block.MixtureBlock`.

References:
    Learning to Abstract with Nonparametric Variational Information Bottleneck (Behjati, Fehr & Henderson, 2023),
    https://arxiv.org/abs/2310.17284
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..models.transformer.blocks import Block, applied, initialize, norm_layer
from ..models.transformer.config import TransformerConfig
from ..models.transformer.embedding import Embedding
from ..models.transformer.mixtures.block import Draw, MixtureBlock, check_mixtures
from ..models.transformer.mixtures.heads import AlphaForm, VarianceForm
from ..models.transformer.stacks import check_length

__all__ = ["MixtureEncoder"]


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
        check_mixtures(config, mixtures)
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
            x = applied(block, x, posterior.memory() if draw is None else draw(layer, posterior))
        return self.norm(x)
