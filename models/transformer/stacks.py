r"""Transformer encoder and decoder: stacks of blocks.

With learned positions the decoder is GPT-2, with rotary ones Llama or Qwen. Its memory, if there is one, is a
:class:`~.mixture.Mixture` for cross-attention, which returns the posterior mean of the vector behind each position's
query; or a :class:`~.memory.Context`, with latents for its layers and a condition before the text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..attention.kernel.natural_parameters import Form
from ..attention.kv_cache import KeyValueCache
from ..attention.layers.denoising import ProjectedMixture
from ..attention.mixture import Mixture
from ..utils.weight_tables import from_weights
from .blocks import Block, applied, cross_attention_of, initialize, norm_layer
from .config import TransformerConfig
from .embedding import Embedding
from .fusion import Fusion, FusionKind, MemorySlot, Shift, layer_fusion
from .memory import Context, Memory, batch_shape, flat
from .place_reader import PlaceReader

__all__ = ["BlockInputs", "Decoder", "DecoderCache", "Encoder", "are_copies", "check_condition", "check_length"]


class Encoder(nn.Module):
    r"""Bidirectional stack that maps each token to a hidden state.

    Arguments:
        config: Sizes and options.
        embedding: An embedding to share, such as a decoder's; None makes a new one.

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
        self.norm = norm_layer(config)
        initialize(self, config)
        if embedding is not None:
            self.embedding = embedding

    def forward(
        self, tokens: Int[Tensor, "*batch T"], mask: Bool[Tensor, "*batch T"] | None = None
    ) -> Float[Tensor, "*batch T P"]:
        """Hidden states; those where ``mask`` is False are meaningless, and no other depends on them."""
        check_length(tokens.shape[-1], self.config)
        if not self.training and are_copies(tokens, mask):  # draws of one text, which is then read once
            hidden: Tensor = self(tokens[:1], None if mask is None else mask[:1])
            return hidden.expand(*tokens.shape, -1)
        x, rotation = self.embedding(tokens), self.embedding.rotation(tokens)
        for block in self.blocks:
            x = applied(block, x, mask, rotation=rotation)
        return self.norm(x)


class BlockInputs(NamedTuple):
    """Inputs of a block besides hidden states: a mixture to attend to, or a latent, or neither."""

    memory: Mixture | ProjectedMixture | None = None
    latent: Float[Tensor, "B k"] | None = None


@dataclass
class DecoderCache:
    r"""State of a decoder between tokens; made by :meth:`Decoder.cache`.

    Arguments:
        layers: Keys and values of each block.
        inputs: The other inputs of each block.
        latents: All latents of a text as one vector, with shape :math:`(B, K p)`, or None.
        position: Position of each text's next token, with shape :math:`(B)`.
        draws: Whether layers that attend to mixtures over tokens draw these, or attend to their means.
        memory: The mixture that a :class:`~.place_reader.PlaceReader` reads, or None.
    """

    layers: list[KeyValueCache]
    inputs: list[BlockInputs]
    latents: Float[Tensor, "B k"] | None
    position: Int[Tensor, " B"]
    draws: bool = False
    memory: Mixture | None = None


class Decoder(nn.Module):
    r"""Causal stack whose hidden states predict each token from earlier ones, and from a memory if there is one.

    It prepends the beginning-of-text token itself: ``hidden[:, t]`` predicts ``tokens[:, t]``.

    Arguments:
        config: Sizes and options.
        cross_attention: Whether its blocks attend to a mixture.
        fusion: How latents enter it, or None where there are none.
        reader: What reads the vector of each place for the output layer, or None.

    Examples:
        >>> decoder = Decoder(TransformerConfig(vocabulary=20, max_length=8, width=16), cross_attention=True)
        >>> particles = Mixture(torch.zeros(5, 3, 4), torch.randn(5, 3, 4, 16))
        >>> decoder(torch.randint(20, (3, 8)), particles).shape
        torch.Size([5, 3, 8, 16])
        >>> decoder = Decoder(decoder.config, fusion=Fusion("product", latent=4, layers=(0, 1), rank=2))
        >>> decoder(torch.randint(20, (3, 8)), Context(torch.randn(5, 3, 2, 4))).shape
        torch.Size([5, 3, 8, 16])
    """

    def __init__(
        self,
        config: TransformerConfig,
        cross_attention: bool = False,
        fusion: Fusion | None = None,
        reader: PlaceReader | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, cross_attention) for _ in range(config.layers))
        self.norm = norm_layer(config)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=config.bias)
        initialize(self, config)
        self.reader = reader
        self.fusion = fusion
        self.shift: Shift | None = None
        if fusion is not None:
            self._add_fusion(fusion)

    @property
    def readout(self) -> tuple[Float[Tensor, "V c"], Float[Tensor, " V"] | None]:
        """The matrix and the bias, or None, of the linear map from hidden states to logits.

        With a reader, hidden states and matrix go on with what it reads.
        """
        weight, bias = (self.embedding.tokens.weight, None) if self.head is None else (self.head.weight, self.head.bias)
        if self.reader is None:
            return weight, bias
        reader, codebook = self.reader, self.reader.codebook
        both = from_weights(
            self, "readout", lambda: torch.cat([weight, reader.columns().to(weight.dtype)], -1), weight, codebook
        )
        return both, bias

    def forward(
        self, tokens: Int[Tensor, "*texts T"], memory: Memory | None = None, form: Form = "exact"
    ) -> Float[Tensor, "*batch T P"]:
        r"""Hidden states by teacher forcing.

        A text may end with padding: a position attends only to itself and those before it.

        Arguments:
            tokens: Texts, with shape :math:`(*, T)`.
            memory: The memory of each text. It may have dimensions to the left of those of the texts, such as
                particles, which the result has too.
            form: The form of attention to a mixture with variances.

        Raises:
            ValueError: If the texts are longer than ``max_length``, or the decoder cannot take such a memory.
        """
        return self._teacher_forced(tokens, memory, form)

    def read(self, vectors: Float[Tensor, "B T P"]) -> Float[Tensor, "B T P"]:
        """Hidden states after vectors in place of the rows of tokens in the embedding, without a memory.

        Unlike :meth:`forward`, it prepends nothing: ``hidden[:, t]`` has read ``vectors[:, : t + 1]``.
        """
        place = torch.arange(vectors.shape[-2], device=vectors.device)
        x, rotation = self.embedding.placed(vectors), self.embedding.rotation(place)
        return self.norm(self._run_blocks(x, None, self._block_inputs(None, "exact")[0], rotation))

    def project(self, memory: Mixture, form: Form = "exact") -> list[ProjectedMixture]:
        """The memory as projected by each block: computed once for a text, however many tokens follow."""
        return [cross_attention_of(block).project(memory, form) for block in self.blocks]

    def cache(
        self, batch: Sequence[int], capacity: int, memory: Memory | None = None, form: Form = "exact"
    ) -> DecoderCache:
        """An empty cache for a batch of texts, each of them a row in :meth:`step`.

        Arguments:
            batch: Batch shape of the texts; that of the memory expands to it.
            capacity: The largest number of tokens of a text, with its condition and the beginning-of-text token.
            memory: The memory of each text. The tokens of a condition are not read here: pass them to :meth:`step`.
            form: The form of attention to a mixture with variances.
        """
        memory = None if memory is None else flat(memory, batch)
        inputs, latents = self._block_inputs(memory, form, project=True)
        layers = [KeyValueCache(capacity + isinstance(_fusion(block), MemorySlot)) for block in self.blocks]
        position = torch.zeros(math.prod(batch), dtype=torch.long, device=self.embedding.tokens.weight.device)
        read = memory if isinstance(memory, Mixture) and self.reader is not None else None
        return DecoderCache(layers, inputs, latents, position, memory=read)

    def step(
        self, tokens: Int[Tensor, "B T"], cache: DecoderCache, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T P"]:
        r"""Hidden states of the next tokens, which are added to the cache; ``hidden[:, -1]`` predicts the next token.

        The first token of a text is the beginning-of-text token. Texts of different lengths are aligned by padding on
        the left, where ``mask`` is False.
        """
        return self.step_vectors(self.embedding.tokens(tokens), cache, mask)

    def step_vectors(
        self, vectors: Float[Tensor, "B T P"], cache: DecoderCache, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T P"]:
        """:meth:`step` after vectors in place of the rows of tokens in the embedding."""
        count = cache.position.new_ones(vectors.shape[:-1]) if mask is None else mask.long()
        # Finished texts go on, also beyond max_length, until the last text of their batch has ended.
        last = self.config.max_condition_length + self.config.max_length - 1
        position = (cache.position[:, None] + count.cumsum(-1) - 1).clamp(0, last)
        cache.position = cache.position + count.sum(-1)
        x = self._shifted("embedding", self.embedding.placed(vectors, position), cache.latents)
        rotation = self.embedding.rotation(position, position)
        x = self._run_blocks(x, mask, cache.inputs, rotation, cache)
        return self._with_reading(self._shifted("softmax", self.norm(x), cache.latents), cache.memory, position)

    def _teacher_forced(
        self, tokens: Int[Tensor, "*texts T"], memory: Memory | None, form: Form, **options: Any
    ) -> Float[Tensor, "*batch T P"]:
        """:meth:`forward`, with options of :meth:`_run_blocks`."""
        check_length(tokens.shape[-1], self.config)
        batch, length = tokens.shape[:-1], tokens.shape[-1]
        if memory is not None:
            batch = torch.broadcast_shapes(batch, batch_shape(memory))
            memory = flat(memory, batch)
        tokens = self._shift_right(tokens.expand(*batch, length).reshape(-1, length))
        tokens, mask, position = _prepend_condition(tokens, memory)
        inputs, latents = self._block_inputs(memory, form)
        x = self._shifted("embedding", self.embedding(tokens, position), latents)
        rotation = self.embedding.rotation(tokens, position)
        x = self._run_blocks(x, mask, inputs, rotation, **options)
        x = self._shifted("softmax", self.norm(x), latents)[:, x.shape[1] - length :]
        x = self._with_reading(x, memory, torch.arange(length, device=x.device).expand(x.shape[:2]))
        return x.reshape(*batch, length, -1)

    def _run_blocks(
        self,
        x: Float[Tensor, "B T P"],
        mask: Bool[Tensor, "B T"] | None,
        inputs: Sequence[BlockInputs],
        rotation: Float[Tensor, "*#batch T d"] | None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "B T P"]:
        """Hidden states after all blocks, before the last norm; with a cache, those of the tokens after it."""
        caches: Sequence[KeyValueCache | None] = [None] * len(inputs) if cache is None else cache.layers
        for block, own, (memory, latent) in zip(self.blocks, caches, inputs, strict=True):
            x = applied(block, x, mask, causal=True, memory=memory, cache=own, latent=latent, rotation=rotation)
        return x

    def _add_fusion(self, fusion: Fusion) -> None:
        """Adds the modules through which latents enter."""
        fusion.check(self.config)
        for layer in fusion.layers:
            if (part := layer_fusion(fusion.kind, self.config.value_width, fusion.latent, fusion.rank)) is not None:
                attention = self.blocks[layer].get_submodule("attention")
                attention.fusion = part
        if fusion.kind in ("embedding", "softmax"):
            self.shift = Shift(self.config.width, fusion.count * fusion.latent)

    def _shift_right(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """The token before each token, padding in place of some by word dropout in training."""
        before = F.pad(tokens[:, :-1], (1, 0), value=self.config.bos)
        if self.training and self.config.word_dropout:
            dropped = torch.rand(before[:, 1:].shape, device=before.device) < self.config.word_dropout
            before = before.masked_fill(F.pad(dropped, (1, 0), value=False), self.config.pad)
        return before

    def _block_inputs(
        self, memory: Memory | None, form: Form, project: bool = False
    ) -> tuple[list[BlockInputs], Tensor | None]:
        """The inputs of each block from a memory, and all latents as one vector."""
        if isinstance(memory, Context) and memory.condition_tokens is not None:
            check_condition(memory.condition_tokens, self.config)
        if isinstance(memory, Mixture):
            projected = project or form != "exact"
            memories = self.project(memory, form) if projected else [memory] * len(self.blocks)
            return [BlockInputs(memory=projection) for projection in memories], None
        inputs = [BlockInputs() for _ in self.blocks]
        if memory is None or memory.latents is None:
            return inputs, None
        if self.fusion is None:
            raise ValueError("this decoder takes no latents: build it with a fusion to give it some.")
        latents = self.fusion.checked(memory.latents).to(self.embedding.tokens.weight.dtype)
        if self.shift is None:
            for layer, latent in zip(self.fusion.layers, self.fusion.each(latents), strict=True):
                inputs[layer] = BlockInputs(latent=latent)
        return inputs, latents.flatten(-2)

    def _with_reading(self, x: Tensor, memory: Memory | None, place: Tensor) -> Tensor:
        """Hidden states, followed by the factors of the reader at each place; zeros without a memory."""
        if self.reader is None:
            return x
        if not isinstance(memory, Mixture):
            return F.pad(x, (0, self.reader.codebook.shape[-1] + 1))
        read = self.reader(place, memory)
        return torch.cat([x, read], -1)

    def _shifted(self, kind: FusionKind, x: Tensor, latents: Tensor | None) -> Tensor:
        """Hidden states with the latents added, if the fusion is of this kind."""
        if self.shift is None or latents is None or self.fusion is None or self.fusion.kind != kind:
            return x
        return self.shift(x, latents)


def are_copies(*rows: Tensor | None) -> bool:
    """Whether the rows of each tensor are several views of one row, as ``expand`` makes them.

    Examples:
        >>> text = torch.tensor([[5, 6, 2]])
        >>> are_copies(text.expand(3, 3), None), are_copies(text.repeat(3, 1)), are_copies(text)
        (True, False, False)
    """
    return all(row is None or row.ndim == 2 and row.shape[0] > 1 and row.stride(0) == 0 for row in rows)


def check_length(length: int, config: TransformerConfig) -> None:
    """Raises a ValueError if a text is longer than ``max_length``."""
    if length > config.max_length:
        raise ValueError(
            f"a text of {length} tokens does not fit max_length = {config.max_length}: cut it or raise max_length."
        )


def check_condition(condition: Int[Tensor, "*batch C"], config: TransformerConfig) -> None:
    """Raises a ValueError if a condition is longer than ``max_condition_length``."""
    if condition.shape[-1] > config.max_condition_length:
        raise ValueError(
            f"a condition of {condition.shape[-1]} tokens does not fit max_condition_length = "
            f"{config.max_condition_length}: shorten it, or build the decoder with a larger one."
        )


def _prepend_condition(
    tokens: Int[Tensor, "B T"], memory: Memory | None
) -> tuple[Int[Tensor, "B n"], Bool[Tensor, "B n"] | None, Int[Tensor, "B n"] | None]:
    """Tokens with the condition in front, if there is one; their mask; and their positions."""
    if not isinstance(memory, Context) or memory.condition_tokens is None:
        return tokens, None, None
    mask = torch.cat([memory.present, torch.ones_like(tokens, dtype=torch.bool)], 1)
    return torch.cat([memory.condition_tokens, tokens], 1), mask, (mask.long().cumsum(1) - 1).clamp(min=0)


def _fusion(block: nn.Module) -> nn.Module | None:
    return getattr(block.attention, "fusion", None)
