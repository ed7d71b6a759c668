r"""Transformer blocks: pre-norm self-attention, cross-attention to a mixture and an MLP; their initialization."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..attention.kv_cache import KeyValueCache
from ..attention.layers.denoising import DenoisingAttention, ProjectedMixture
from ..attention.layers.probabilistic import ProbabilisticAttention
from ..attention.mixture import Mixture
from .config import TransformerConfig
from .linear import linear
from .self_attention import SelfAttention

__all__ = [
    "MLP",
    "Block",
    "PreNormBlock",
    "applied",
    "compile_blocks",
    "cross_attention_of",
    "initialize",
    "norm_layer",
    "recompute_blocks",
    "uncompile_blocks",
]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")  # a function with a name, so that models can be pickled


RECOMPILE_LIMIT = 64  # graphs of blocks: {encoder, decoder} x {training, evaluation} x {autocast or not} x ...

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": _gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "swiglu": F.silu,  # of the gate
}


class PreNormBlock(nn.Module):
    r"""A pre-norm layer but for its self-attention, which a subclass gives, and calls in its ``forward``.

        x = x + DenoisingAttention(norm(x), memory)        if the block has cross-attention
        x = x + MLP(norm(x))

    Arguments:
        config: Sizes and options.
        attention: The self-attention.
        cross_attention: Whether the block attends to a memory.

    Attributes:
        recomputed: Whether :func:`applied` computes its activations again in the backward pass.
    """

    recomputed = False

    def __init__(self, config: TransformerConfig, attention: nn.Module, cross_attention: bool = False) -> None:
        super().__init__()
        width, bias, dropout = config.width, config.bias, config.dropout
        self.attention_norm = norm_layer(config)
        self.attention = attention
        self.cross_norm = norm_layer(config) if cross_attention else None
        self.cross = DenoisingAttention(width, config.heads, bias=bias, dropout=dropout) if cross_attention else None
        self.mlp_norm = norm_layer(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(dropout)

    def _after_attention(
        self,
        x: Float[Tensor, "*#batch T P"],
        answers: Float[Tensor, "*#batch T P"],
        memory: Mixture | ProjectedMixture | None,
    ) -> Float[Tensor, "*#batch T P"]:
        """The layer's output, from its input and the output of the self-attention."""
        x = x + self.dropout(answers)
        if memory is not None:
            cross = cross_attention_of(self)
            assert self.cross_norm is not None
            x = x + self.dropout(cross(self.cross_norm(x), memory))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Block(PreNormBlock):
    r"""A pre-norm layer.

        x = x + SelfAttention(norm(x))
        x = x + DenoisingAttention(norm(x), memory)        if the block has cross-attention
        x = x + MLP(norm(x))

    Attention is causal or not by an argument of each call, so that an encoder and a decoder can share blocks.

    Arguments:
        config: Sizes and options.
        cross_attention: Whether the block attends to a memory.
    """

    attention: SelfAttention | ProbabilisticAttention

    def __init__(self, config: TransformerConfig, cross_attention: bool = False) -> None:
        super().__init__(config, _self_attention(config), cross_attention)

    def forward(
        self,
        x: Float[Tensor, "*batch T P"],
        mask: Bool[Tensor, "*batch N"] | None = None,
        causal: bool = False,
        memory: Mixture | ProjectedMixture | None = None,
        cache: KeyValueCache | None = None,
        latent: Float[Tensor, "*batch k"] | None = None,
        rotation: Float[Tensor, "*#batch T d"] | None = None,
    ) -> Float[Tensor, "*batch T P"]:
        others = {} if latent is None else {"latent": latent}  # which only softmax attention takes
        others |= {} if rotation is None else {"rotation": rotation}
        return self._after_attention(x, self.attention(self.attention_norm(x), mask, causal, cache, **others), memory)


def applied(
    block: nn.Module, x: Float[Tensor, "*batch T P"], *args: Any, cache: KeyValueCache | None = None, **kwargs: Any
) -> Float[Tensor, "*batch T P"]:
    """A block's output; if it is ``recomputed``, only its inputs are kept for the backward pass.

    With a cache, a compiled block runs as it was before: it would be compiled again for every length of the cache.

    Examples:
        >>> block = Block(TransformerConfig(vocabulary=20, max_length=8, width=16))
        >>> x = torch.randn(2, 8, 16)
        >>> expected = applied(block, x)
        >>> block.recomputed = True
        >>> torch.equal(applied(block, x), expected)
        True
    """
    y: Tensor
    if cache is not None:
        y = block.forward(x, *args, cache=cache, **kwargs)
    elif block.recomputed and torch.is_grad_enabled():
        y = checkpoint(block, x, *args, use_reentrant=False, **kwargs)
    else:
        y = block(x, *args, **kwargs)
    return y


class MLP(nn.Module):
    r"""Two linear layers around an activation :math:`a`, :math:`W_2 \, a(W_1 x)`.

    With ``swiglu`` a third one, the gate, takes the activation: :math:`W_2 (\text{silu}(W_g x) \circ W_1 x)`.

    References:
        GLU Variants Improve Transformer (Shazeer, 2020), https://arxiv.org/abs/2002.05202
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, hidden, options = config.width, config.feed_forward, (config.bias, config.adapter_rank)
        self.activation = ACTIVATIONS[config.activation]
        self.gate = linear(width, hidden, *options) if config.activation == "swiglu" else None
        self.up = linear(width, hidden, *options)
        self.down = linear(hidden, width, *options)

    def forward(self, x: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P"]:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


def cross_attention_of(block: nn.Module) -> DenoisingAttention:
    """The cross-attention of a block, or a ValueError if it has none."""
    cross = getattr(block, "cross", None)
    if not isinstance(cross, DenoisingAttention):
        raise ValueError("this decoder has no cross-attention: build it with cross_attention=True to give it a memory.")
    return cross


def compile_blocks(module: nn.Module, **options: Any) -> None:
    r"""Compiles every :class:`Block` in ``module``, in place and without graph breaks; parameter names stay.

    Lengths and batch sizes are dynamic from the start, so that a block is compiled once for each mode (training or
    evaluation, with or without gradients, autocast, mask, memory), not once for each shape. All blocks of equal sizes
    share these graphs and the limit on their number, which is raised from 8. The hooks of a sharded block (FSDP) stay
    outside its graphs.

    Arguments:
        module: A module that contains blocks.
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
            if hasattr(block, "set_reshard_after_forward"):  # sharded
                setattr(block, "forward", torch.compile(block.forward, **options))  # noqa: B010
            else:
                block.compile(**options)
    # On its first use torch.compile disables the validation of every distribution.
    torch.distributions.Distribution.set_default_validate_args(validate)


def uncompile_blocks(module: nn.Module) -> None:
    """Undoes :func:`compile_blocks`."""
    for block in module.modules():
        if isinstance(block, Block):
            vars(block).pop("forward", None)
            block._compiled_call_impl = None


def recompute_blocks(module: nn.Module, on: bool) -> None:
    """Whether the activations of every :class:`PreNormBlock` in ``module`` are computed again in the backward pass."""
    for block in module.modules():
        if isinstance(block, PreNormBlock):
            block.recomputed = on


def initialize(module: nn.Module, config: TransformerConfig) -> None:
    """GPT-2's initialization: normal with standard deviation ``init_std``, narrower before residual connections."""
    std = 1 / math.sqrt(config.width) if config.init_std is None else config.init_std
    probabilistic = [layer for layer in module.modules() if isinstance(layer, ProbabilisticAttention)]
    started = {id(parameter) for layer in probabilistic for parameter in layer.reset_to_softmax()}
    for name, parameter in module.named_parameters():
        if id(parameter) in started:
            continue
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        elif name.endswith(("bias", "adapter_up")):
            nn.init.zeros_(parameter)
        elif name.endswith("adapter_down"):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        else:
            residual = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=std / (math.sqrt(2 * config.layers) if residual else 1))


def norm_layer(config: TransformerConfig) -> nn.LayerNorm | nn.RMSNorm:
    """A norm of hidden states with the options of a configuration."""
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)


def _self_attention(config: TransformerConfig) -> SelfAttention | ProbabilisticAttention:
    if config.attention == "softmax":
        return SelfAttention(
            config.width,
            config.heads,
            bias=config.bias,
            dropout=config.dropout,
            key_value_heads=config.key_value_heads,
            head_size=config.head_size,
            qkv_bias=config.qkv_bias,
            norm_eps=config.norm_eps if config.query_key_norm else None,
            adapter_rank=config.adapter_rank,
        )
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
        pseudo_counts=config.key_pseudo_counts,
        tolerance=config.key_tolerance,
        density=config.key_density,
        assignment=config.key_assignment,
        positions=config.key_distance,
    )
