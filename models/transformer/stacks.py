r"""Transformer encoder and decoder: blocks and stacks, in reading order.

Pre-norm blocks with biases, tanh-GELU and tied embeddings; with learned positions the decoder is GPT-2.
A decoder can also be told something, its memory: a :class:`~.mixture.Mixture` to attend to, so that what its
cross-attention returns is the posterior mean of what a position saw; or a :class:`~.memory.Context`, with latents for
its layers and a condition that stands before the text.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..attention.denoising import DenoisingAttention, ProjectedMixture
from ..attention.kv_cache import KeyValueCache
from ..attention.mixture import Mixture
from ..attention.natural_parameters import Form
from ..attention.probabilistic import ProbabilisticAttention
from .config import TransformerConfig
from .fusion import Fusion, FusionKind, MemorySlot, Shift, layer_fusion
from .memory import Context, Memory, batch_shape, flat
from .self_attention import SelfAttention

__all__ = [
    "Block",
    "Decoder",
    "DecoderCache",
    "Embedding",
    "Encoder",
    "TransformerConfig",
    "check_condition",
    "check_length",
    "compile_blocks",
    "initialize",
    "sinusoids",
]

RECOMPILE_LIMIT = 64  # graphs of blocks: {encoder, decoder} x {training, evaluation} x {autocast or not} x ...

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class Block(nn.Module):
    r"""One pre-norm layer.

        x = x + SelfAttention(norm(x))
        x = x + DenoisingAttention(norm(x), memory)        if the block has cross-attention
        x = x + MLP(norm(x))

    Whether attention is causal is said at each call, so that an encoder and a decoder can share blocks.

    Arguments:
        config: Sizes and options.
        cross_attention: Whether the block attends to a memory.
    """

    def __init__(self, config: TransformerConfig, cross_attention: bool = False) -> None:
        super().__init__()
        width, bias, dropout = config.width, config.bias, config.dropout
        self.attention_norm = _norm(config)
        self.attention = _self_attention(config)
        self.cross_norm = _norm(config) if cross_attention else None
        self.cross = DenoisingAttention(width, config.heads, bias=bias, dropout=dropout) if cross_attention else None
        self.mlp_norm = _norm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "*batch T P"],
        mask: Bool[Tensor, "*batch N"] | None = None,
        causal: bool = False,
        memory: Mixture | ProjectedMixture | None = None,
        cache: KeyValueCache | None = None,
        latent: Float[Tensor, "*batch k"] | None = None,
    ) -> Float[Tensor, "*batch T P"]:
        fused = () if latent is None else (latent,)
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, causal, cache, *fused))
        if memory is not None:
            cross = _cross_attention(self)
            assert self.cross_norm is not None
            x = x + self.dropout(cross(self.cross_norm(x), memory))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class MLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Linear(config.width, config.feed_forward, bias=config.bias)
        self.down = nn.Linear(config.feed_forward, config.width, bias=config.bias)

    def forward(self, x: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P"]:
        return self.down(self.activation(self.up(x)))


class Embedding(nn.Module):
    r"""Tokens and their positions as vectors."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = 1.0
        longest = config.max_condition_length + config.max_length
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(longest, config.width))
        else:
            self.scale = math.sqrt(config.width)
            self.register_buffer("positions", sinusoids(torch.arange(longest), config.width), persistent=False)

    def forward(
        self, tokens: Int[Tensor, "*batch T"], position: Int[Tensor, "*#batch T"] | None = None
    ) -> Float[Tensor, "*batch T P"]:
        """Embeds tokens at the given positions; None is 0, 1, ..., T - 1."""
        places = self.positions[: tokens.shape[-1]] if position is None else self.positions[position]
        return self.dropout(self.tokens(tokens) * self.scale + places)


class Encoder(nn.Module):
    r"""Bidirectional stack: tokens to one hidden state each.

    Arguments:
        config: Sizes and options.
        embedding: The embedding to use, such as a decoder's; one of its own by default.

    Examples:
        >>> encoder = Encoder(TransformerConfig(vocabulary=20, max_length=8, width=16))
        >>> encoder(torch.randint(20, (3, 8))).shape
        torch.Size([3, 8, 16])
    """

    def __init__(self, config: TransformerConfig, embedding: Embedding | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = _norm(config)
        initialize(self, config)
        if embedding is not None:
            self.embedding = embedding

    def forward(
        self, tokens: Int[Tensor, "*batch T"], mask: Bool[Tensor, "*batch T"] | None = None
    ) -> Float[Tensor, "*batch T P"]:
        """Hidden states; those where ``mask`` is False mean nothing, and no other depends on them."""
        check_length(tokens.shape[-1], self.config)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class BlockInputs(NamedTuple):
    """What one block is told of a text: a mixture to attend to, or a latent, or nothing."""

    memory: Mixture | ProjectedMixture | None = None
    latent: Float[Tensor, "B k"] | None = None


@dataclass
class DecoderCache:
    r"""What a decoder keeps of the tokens that it has read; made by :meth:`Decoder.cache`.

    Arguments:
        layers: Keys and values of each block.
        told: What each block is told of the texts.
        latents: All latents of a text as one vector, with shape :math:`(B, K p)`, or None.
        position: Position of each text's next token, with shape :math:`(B)`.
    """

    layers: list[KeyValueCache]
    told: list[BlockInputs]
    latents: Float[Tensor, "B k"] | None
    position: Int[Tensor, " B"]


class Decoder(nn.Module):
    r"""Causal stack: a hidden state that predicts each token from those before it, and from a memory if there is one.

    It puts the beginning-of-text token before a text by itself: ``hidden[:, t]`` predicts ``tokens[:, t]``.

    Arguments:
        config: Sizes and options.
        cross_attention: Whether its blocks attend to a mixture.
        fusion: How latents enter it, or None where there are none.

    Examples:
        >>> decoder = Decoder(TransformerConfig(vocabulary=20, max_length=8, width=16), cross_attention=True)
        >>> num_particles = Mixture(torch.zeros(5, 3, 4), torch.randn(5, 3, 4, 16))
        >>> decoder(torch.randint(20, (3, 8)), num_particles).shape
        torch.Size([5, 3, 8, 16])
        >>> decoder = Decoder(decoder.config, fusion=Fusion("product", latent=4, layers=(0, 1), rank=2))
        >>> decoder(torch.randint(20, (3, 8)), Context(torch.randn(5, 3, 2, 4))).shape
        torch.Size([5, 3, 8, 16])
    """

    def __init__(self, config: TransformerConfig, cross_attention: bool = False, fusion: Fusion | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, cross_attention) for _ in range(config.layers))
        self.norm = _norm(config)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=config.bias)
        initialize(self, config)
        self.fusion = fusion
        self.shift: Shift | None = None
        if fusion is not None:
            self._add(fusion)

    @property
    def readout(self) -> tuple[Float[Tensor, "V P"], Float[Tensor, " V"] | None]:
        """The matrix, and the offsets or None, that turn hidden states into logits."""
        return (self.embedding.tokens.weight, None) if self.head is None else (self.head.weight, self.head.bias)

    def forward(
        self, tokens: Int[Tensor, "*texts T"], memory: Memory | None = None, form: Form = "exact"
    ) -> Float[Tensor, "*batch T P"]:
        r"""Hidden states by teacher forcing.

        Padding may stand at the end of a text: a position sees only those before it.

        Arguments:
            tokens: Texts, with shape :math:`(*, T)`.
            memory: What is known of each text. It may have dimensions to the left of those of the texts, such as
                particles, which the result has too.
            form: How attention treats a mixture with variances.

        Raises:
            ValueError: If the texts are longer than the max_length, or the decoder was not built for such a memory.
        """
        check_length(tokens.shape[-1], self.config)
        batch, length = tokens.shape[:-1], tokens.shape[-1]
        if memory is not None:
            batch = torch.broadcast_shapes(batch, batch_shape(memory))
            memory = flat(memory, batch)
        tokens = self._read(tokens.expand(*batch, length).reshape(-1, length))
        tokens, mask, position = _conditioned(tokens, memory)
        told, latents = self._told(memory, form)
        x = self._shifted("embedding", self.embedding(tokens, position), latents)
        for block, seen in zip(self.blocks, told, strict=True):
            x = block(x, mask, causal=True, memory=seen.memory, latent=seen.latent)
        x = self._shifted("softmax", self.norm(x), latents)
        return x[:, x.shape[1] - length :].reshape(*batch, length, -1)

    def project(self, memory: Mixture, form: Form = "exact") -> list[ProjectedMixture]:
        """The memory as each block sees it: computed once for a text, however many tokens follow."""
        return [_cross_attention(block).project(memory, form) for block in self.blocks]

    def cache(
        self, batch: Sequence[int], capacity: int, memory: Memory | None = None, form: Form = "exact"
    ) -> DecoderCache:
        """An empty cache for a batch of texts, which :meth:`step` sees as one row each.

        Arguments:
            batch: Batch shape of the texts; that of the memory expands to it.
            capacity: The most tokens of a text, its condition and the one at its beginning included.
            memory: What is known of each text. Of a condition, the tokens are to be given to :meth:`step`.
            form: How attention treats a mixture with variances.
        """
        memory = None if memory is None else flat(memory, batch)
        told, latents = self._told(memory, form, project=True)
        layers = [KeyValueCache(capacity + isinstance(_fusion(block), MemorySlot)) for block in self.blocks]
        position = torch.zeros(math.prod(batch), dtype=torch.long, device=self.embedding.tokens.weight.device)
        return DecoderCache(layers, told, latents, position)

    def step(
        self, tokens: Int[Tensor, "B T"], cache: DecoderCache, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T P"]:
        r"""Hidden states of the next tokens, which the cache then holds; ``hidden[:, -1]`` predicts what comes next.

        The first token of a text is the beginning-of-text token. Texts of different lengths are aligned by padding on
        the left, where ``mask`` is False.
        """
        count = torch.ones_like(tokens) if mask is None else mask.long()
        # Texts that have ended run on, beyond the max_length too, until the last one of their batch has.
        last = self.config.max_condition_length + self.config.max_length - 1
        position = (cache.position[:, None] + count.cumsum(-1) - 1).clamp(0, last)
        cache.position = cache.position + count.sum(-1)
        x = self._shifted("embedding", self.embedding(tokens, position), cache.latents)
        for block, keys_values, seen in zip(self.blocks, cache.layers, cache.told, strict=True):
            # Not block(...): a compiled block would be compiled again for every length of the cache.
            x = block.forward(x, mask, causal=True, memory=seen.memory, cache=keys_values, latent=seen.latent)
        return self._shifted("softmax", self.norm(x), cache.latents)

    def _add(self, fusion: Fusion) -> None:
        """Makes the parts through which latents enter."""
        fusion.check(self.config)
        for layer in fusion.layers:
            if (part := layer_fusion(fusion.kind, self.config.width, fusion.latent, fusion.rank)) is not None:
                self.blocks[layer].attention.fusion = part  # type: ignore[union-attr]
        if fusion.kind in ("embedding", "softmax"):
            self.shift = Shift(self.config.width, fusion.count * fusion.latent)

    def _read(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """What stands before each token, some of it hidden in training."""
        before = F.pad(tokens[:, :-1], (1, 0), value=self.config.bos)
        if self.training and self.config.word_dropout:
            hidden = torch.rand(before[:, 1:].shape, device=before.device) < self.config.word_dropout
            before = before.masked_fill(F.pad(hidden, (1, 0), value=False), self.config.pad)
        return before

    def _told(
        self, memory: Memory | None, form: Form, project: bool = False
    ) -> tuple[list[BlockInputs], Tensor | None]:
        """What each block is told, and all latents as one vector."""
        if isinstance(memory, Context) and memory.condition_tokens is not None:
            check_condition(memory.condition_tokens, self.config)
        if isinstance(memory, Mixture):
            projected = project or form != "exact"
            memories = self.project(memory, form) if projected else [memory] * len(self.blocks)
            return [BlockInputs(memory=seen) for seen in memories], None
        told = [BlockInputs() for _ in self.blocks]
        if memory is None or memory.latents is None:
            return told, None
        if self.fusion is None:
            raise ValueError("this decoder takes no latents; build it with a fusion to give it some")
        latents = self.fusion.checked(memory.latents).to(self.embedding.tokens.weight.dtype)
        if self.shift is None:
            for layer, latent in zip(self.fusion.layers, self.fusion.each(latents), strict=True):
                told[layer] = BlockInputs(latent=latent)
        return told, latents.flatten(-2)

    def _shifted(self, kind: FusionKind, x: Tensor, latents: Tensor | None) -> Tensor:
        if self.shift is None or latents is None or self.fusion is None or self.fusion.kind != kind:
            return x
        return self.shift(x, latents)


def compile_blocks(module: nn.Module, **options: Any) -> None:
    r"""Compiles every :class:`Block` in ``module``, in place and without graph breaks; names of parameters stay.

    Lengths and batch sizes are dynamic from the start, so that a block is compiled once for each way it is used
    (training or not, with or without gradients, autocast, mask, memory), not once for each shape. All blocks of equal
    sizes share these graphs, and the limit on their number, which is raised from 8, is shared too.

    Arguments:
        module: A network, or anything that contains some.
        options: Passed to :func:`torch.compile`.
    """
    options = {"fullgraph": True, "dynamic": True, **options}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        options.setdefault("recompile_limit", RECOMPILE_LIMIT)
    else:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    validate = torch.distributions.Distribution._validate_args
    for block in module.modules():
        if isinstance(block, Block):
            block.compile(**options)
    # On its first use torch.compile switches the validation of every distribution off.
    torch.distributions.Distribution.set_default_validate_args(validate)


def _self_attention(config: TransformerConfig) -> SelfAttention | ProbabilisticAttention:
    if config.attention == "softmax":
        return SelfAttention(config.width, config.heads, bias=config.bias, dropout=config.dropout)
    return ProbabilisticAttention(
        config.width,
        config.heads,
        bias=config.bias,
        dropout=config.dropout,
        precision=config.key_precision,
        prior=config.key_prior,
        components=config.key_components,
        null_component=config.null_component,
        steps=config.key_steps,
    )


def _norm(config: TransformerConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)


def initialize(module: nn.Module, config: TransformerConfig) -> None:
    """As GPT-2: a normal of standard deviation ``init_std``, narrower for what is added to the residual stream."""
    std = 1 / math.sqrt(config.width) if config.init_std is None else config.init_std
    probabilistic = [layer for layer in module.modules() if isinstance(layer, ProbabilisticAttention)]
    started = {id(parameter) for layer in probabilistic for parameter in layer.reset_to_softmax()}
    for name, parameter in module.named_parameters():
        if id(parameter) in started:
            continue
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            residual = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=std / (math.sqrt(2 * config.layers) if residual else 1))


def sinusoids(places: Int[Tensor, "*batch"], width: int) -> Float[Tensor, "*batch width"]:
    """Sines in the even dimensions and cosines in the odd ones, of wavelengths from 2 pi to 20000 pi."""
    rates = torch.exp(torch.arange(0, width, 2, device=places.device) * (-math.log(10000.0) / width))
    angles = places[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def _conditioned(
    tokens: Int[Tensor, "B T"], memory: Memory | None
) -> tuple[Int[Tensor, "B n"], Bool[Tensor, "B n"] | None, Int[Tensor, "B n"] | None]:
    """Tokens with the condition before them, if there is one; which of them are there; and their positions."""
    if not isinstance(memory, Context) or memory.condition_tokens is None:
        return tokens, None, None
    mask = torch.cat([memory.present, torch.ones_like(tokens, dtype=torch.bool)], 1)
    return torch.cat([memory.condition_tokens, tokens], 1), mask, (mask.long().cumsum(1) - 1).clamp(min=0)


def _fusion(block: nn.Module) -> nn.Module | None:
    return getattr(block.attention, "fusion", None)


def _cross_attention(block: nn.Module) -> DenoisingAttention:
    if not isinstance(block, Block) or block.cross is None:
        raise ValueError("this decoder has no cross-attention; build it with cross_attention=True to give it a memory")
    return block.cross


def check_length(length: int, config: TransformerConfig) -> None:
    """Raises a ValueError if a text is longer than the max_length."""
    if length > config.max_length:
        raise ValueError(
            f"a text of {length} tokens does not fit max_length = {config.max_length}; cut it or widen the max_length"
        )


def check_condition(condition: Int[Tensor, "*batch C"], config: TransformerConfig) -> None:
    """Raises a ValueError if a condition is longer than a decoder has room for."""
    if condition.shape[-1] > config.max_condition_length:
        raise ValueError(
            f"a condition of {condition.shape[-1]} tokens does not fit the decoder's longest of {config.max_condition_length}; "
            "shorten it, or build the decoder with more"
        )
