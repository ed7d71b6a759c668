r"""A decoder whose upper layers attend to mixtures over the tokens that are written: causal NVIB self-attention.

The story of one text, given a memory F, for t = 1, 2, ... and each such layer::

    log alpha_t, mu_t, sigma_t^2   from the states of x_1 .. x_{t-1} and F, and of
                                   what was drawn for these
    g_t ~ Gamma(alpha_t), z_t ~ Normal(mu_t, sigma_t^2)
    x_t ~ Categorical(decoder(x_1 .. x_{t-1}, F)), whose layers attend to
          sum_{i <= t} g_i delta(z_i), the prior's own component i = 0 included

The weights that token t attends to, :math:`g_i / \sum_{j \le t} g_j`, are Dirichlet. What is drawn depends on earlier
tokens only, so that this is a distribution of texts, and a draw of all :math:`g, z` for a whole text, as teacher
forcing needs it, is one of the same weights: gammas, normalized over all tokens, are a Dirichlet draw, and so are those
of the first t tokens among themselves.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...attention.kernel.natural_parameters import Form
from ...attention.kv_cache import KeyValueCache
from ...attention.mixture import Mixture
from ...distributions.log_dirichlet_math import sample_log_gamma
from ..blocks import applied
from ..config import TransformerConfig
from ..memory import Memory, batch_shape, flat
from ..place_reader import PlaceReader
from ..stacks import BlockInputs, Decoder, DecoderCache
from .block import Draw, MixtureBlock, check_mixtures
from .heads import AlphaForm, VarianceForm
from .posterior import MixturePosterior

__all__ = ["MixtureDecoder", "drawn", "mean_mixture"]


class MixtureDecoder(Decoder):
    r"""Causal stack with cross-attention whose upper layers attend to mixtures over their own tokens.

    By default they attend to the means of these mixtures.

    Arguments:
        config: Sizes and options.
        mixtures: The number of layers with a mixture, from the top.
        alpha: Form of the concentrations' heads.
        variance: Form of the variances' heads.
        log_variance: Initial log variance of every component.
        reader: What reads the vector of each place for the output layer, or None.

    Raises:
        ValueError: If there are not as many layers, or positions are rotary, which attention to a mixture lacks.

    Examples:
        >>> decoder = MixtureDecoder(TransformerConfig(vocabulary=20, max_length=8, width=16), mixtures=1)
        >>> memory = Mixture(torch.zeros(3, 4), torch.randn(3, 4, 16))
        >>> decoder(torch.randint(20, (3, 8)), memory).shape
        torch.Size([3, 8, 16])
    """

    def __init__(
        self,
        config: TransformerConfig,
        mixtures: int,
        alpha: AlphaForm = "linear",
        variance: VarianceForm = "diagonal",
        log_variance: float = -3.0,
        reader: PlaceReader | None = None,
    ) -> None:
        super().__init__(config, cross_attention=True, reader=reader)
        check_mixtures(config, mixtures)
        for index in range(config.layers - mixtures, config.layers):
            self.blocks[index] = MixtureBlock(config, alpha, variance, log_variance, cross_attention=True)

    def forward(
        self,
        tokens: Int[Tensor, "*texts T"],
        memory: Memory | None = None,
        form: Form = "exact",
        draw: Draw | None = None,
    ) -> Float[Tensor, "*batch T P"]:
        r"""Hidden states by teacher forcing; see :meth:`Decoder.forward`.

        Arguments:
            tokens: Texts, with shape :math:`(*, T)`.
            memory: The memory of each text.
            form: The form of attention to a memory with variances.
            draw: Called with the number of a layer, from 1, and its mixture, with the prior's component and one for
                each token that the layer reads, for the mixture that it attends to; the mean by default.
        """
        if draw is None:
            return super().forward(tokens, memory, form)
        batch = torch.broadcast_shapes(tokens.shape[:-1], () if memory is None else batch_shape(memory))

        def flat_draw(layer: int, posterior: MixturePosterior) -> Mixture:
            return _flat(draw(layer, _shaped(posterior, batch)), batch)

        return self._teacher_forced(tokens, memory, form, draw=flat_draw)

    def cache(
        self, batch: Sequence[int], capacity: int, memory: Memory | None = None, form: Form = "exact"
    ) -> DecoderCache:
        """An empty cache; see :meth:`Decoder.cache`. Layers with a mixture also keep the prior's component there."""
        cache = super().cache(batch, capacity, memory, form)
        for layer, block in enumerate(self.blocks):
            if isinstance(block, MixtureBlock):
                cache.layers[layer] = KeyValueCache(capacity + 1)
        return cache

    def _run_blocks(
        self,
        x: Float[Tensor, "B T P"],
        mask: Bool[Tensor, "B T"] | None,
        inputs: Sequence[BlockInputs],
        rotation: Float[Tensor, "*#batch T d"] | None,
        cache: DecoderCache | None = None,
        draw: Draw | None = None,
    ) -> Float[Tensor, "B T P"]:
        """Hidden states after all blocks; layers attend to the means of their mixtures, or to what ``draw`` returns.

        Where the cache ``draws``, they attend to what is drawn for each token once and kept.
        """
        present = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if mask is None else mask
        attended, posterior = drawn if cache is not None and cache.draws else mean_mixture, None
        caches: Sequence[KeyValueCache | None] = [None] * len(inputs) if cache is None else cache.layers
        for layer, (block, own, (memory, _)) in enumerate(zip(self.blocks, caches, inputs, strict=True), 1):
            if isinstance(block, MixtureBlock):
                posterior = block.posterior(x, present, posterior)
                mixture = attended(posterior) if draw is None else draw(layer, posterior)
                x = applied(block, x, mixture, causal=True, memory=memory, cache=own)
            else:
                x = applied(block, x, mask, causal=True, memory=memory, cache=own, rotation=rotation)
        return x


def mean_mixture(posterior: MixturePosterior) -> Mixture:
    """The mean of a mixture, with concentrations in place of weights: normalized, each would depend on later tokens."""
    kept = posterior.kept
    log_weights = posterior.log_alpha.masked_fill(~kept, -torch.inf)
    return Mixture(log_weights, posterior.mean, variances=posterior.variance, mask=kept)


def drawn(posterior: MixturePosterior) -> Mixture:
    """A draw of a mixture, with gamma draws in place of weights, which are these divided by their sum.

    Examples:
        >>> one = torch.ones(3, 2)
        >>> drawn(MixturePosterior(torch.zeros(3), one, one, torch.ones(3, dtype=torch.bool))).log_weights.shape
        torch.Size([3])
    """
    log_gamma = sample_log_gamma(posterior.log_alpha.double()).to(posterior.mean.dtype)
    vectors = posterior.mean + posterior.variance.sqrt() * torch.randn_like(posterior.mean)
    return Mixture(log_gamma.masked_fill(~posterior.mask, -torch.inf), vectors, mask=posterior.mask)


def _shaped(posterior: MixturePosterior, batch: Sequence[int]) -> MixturePosterior:
    """The posterior of rows with these dimensions in place of one."""

    def shaped(rows: Tensor) -> Tensor:
        return rows.reshape(*batch, *rows.shape[1:])

    log_alpha, mean, variance, mask = map(shaped, posterior[:4])
    return MixturePosterior(log_alpha, mean, variance, mask)


def _flat(mixture: Mixture, batch: Sequence[int]) -> Mixture:
    """The mixture with a row for each text."""
    rows = flat(mixture, batch)
    assert isinstance(rows, Mixture)
    return rows
