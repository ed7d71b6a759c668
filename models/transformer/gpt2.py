r"""Configuration and weights of a pretrained GPT-2 as those of our decoder."""

import re
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .config import TransformerConfig

__all__ = ["gpt2_config", "gpt2_weights", "plain_name"]

_ACTIVATIONS: dict[str, Literal["gelu_tanh", "gelu", "relu"]] = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}
_REQUIRED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
_WRAPPERS = r"^module\.|\b_orig_mod\."  # of parallel training, and of compiled modules
_OTHER_HEADS = r"(score|classifier|qa_outputs|multiple_choice_head)\."
_NAMES = {
    r"^transformer\.": "",  # a GPT2LMHeadModel has it, a GPT2Model and the published files do not
    r"^wte\.": "embedding.tokens.",
    r"^wpe\.weight$": "embedding.positions",
    r"^h\.": "blocks.",
    r"^ln_f\.": "norm.",
    r"^lm_head\.": "head.",
    r"\.ln_1\.": ".attention_norm.",
    r"\.ln_2\.": ".mlp_norm.",
    r"\.attn\.c_attn\.": ".attention.qkv.",
    r"\.attn\.c_proj\.": ".attention.out.",
    r"\.mlp\.c_fc\.": ".mlp.up.",
    r"\.mlp\.c_proj\.": ".mlp.down.",
}


def gpt2_config(config: Mapping[str, Any]) -> TransformerConfig:
    r"""The sizes and options with which our decoder computes the same as a GPT-2.

    ``reorder_and_upcast_attn`` is ignored, as it only changes the order of operations. Dropout, which only training
    has, is that of the residual stream, with a warning where the other rates differ.

    Arguments:
        config: The content of its ``config.json``.

    Raises:
        ValueError: If it is of another model type, lacks a size, or has an option that our decoder lacks.

    Examples:
        >>> sizes = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
        >>> config = gpt2_config({"model_type": "gpt2", "activation_function": "gelu_new", **sizes})
        >>> config.width, config.feed_forward, config.activation
        (768, 3072, 'gelu_tanh')
    """
    if config.get("model_type") != "gpt2":
        raise ValueError(f"model_type is {config.get('model_type')!r}, and only 'gpt2' can be loaded.")
    for name, required in _REQUIRED.items():
        if config.get(name, required) != required:
            raise ValueError(f"{name} is {config[name]}, and only a GPT-2 with {required} can be loaded.")
    activation = config.get("activation_function", "gelu_new")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation_function is {activation!r}, and only {', '.join(_ACTIVATIONS)} can be loaded.")
    rates = [config.get(name, 0.1) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")]
    if len(set(rates)) > 1:
        warnings.warn(
            f"resid_pdrop, embd_pdrop and attn_pdrop are {', '.join(map(str, rates))}, and our decoder has one rate "
            f"for all: it is {rates[0]}; give dropout for another.",
            stacklevel=2,
        )
    return TransformerConfig(
        vocabulary=_size(config, "vocab_size"),
        max_length=_size(config, "n_positions"),
        width=_size(config, "n_embd"),
        layers=_size(config, "n_layer"),
        heads=_size(config, "n_head"),
        hidden=None if config.get("n_inner") is None else _size(config, "n_inner"),
        dropout=float(rates[0]),
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        activation=_ACTIVATIONS[activation],
        positions="learned",
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def gpt2_weights(weights: Mapping[str, Tensor], tied: bool = True) -> dict[str, Tensor]:
    r"""The weights of a GPT-2 from ``transformers`` under the names of :class:`~.stacks.Decoder`.

    Those of another head, such as a classifier's, are left out, and prefixes of ``torch.compile`` and of parallel
    training are dropped. Other weights that our decoder lacks keep their names, so that loading them fails.

    Arguments:
        weights: The ``state_dict`` of a ``GPT2LMHeadModel``, a ``GPT2Model`` or one with another head.
        tied: Whether the output layer shares the token embedding; if not, it has a matrix of its own, without bias.

    Examples:
        >>> list(gpt2_weights({"transformer.h.0.mlp.c_fc.weight": torch.zeros(4, 16)}).items())[0][0]
        'blocks.0.mlp.up.weight'
    """
    result = {}
    for name, value in weights.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # buffers of old versions
        if (renamed := plain_name(name, _NAMES)) is None:
            continue
        name = renamed
        # GPT-2 stores the matrices of linear layers as [in, out]
        linear = name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
        result[name] = value.T.contiguous() if linear else value
    if tied:
        result.pop("head.weight", None)
    elif "head.weight" in result:
        result.setdefault("head.bias", torch.zeros_like(result["head.weight"][:, 0]))
    return result


def plain_name(name: str, table: Mapping[str, str]) -> str | None:
    """The name that a weight has here, or None if it belongs to another head, such as a classifier's.

    Arguments:
        name: Its name in a ``state_dict``, with prefixes of ``torch.compile`` and of parallel training or without.
        table: Regular expressions and what replaces them, in this order.

    Examples:
        >>> plain_name("module.lm_head.weight", {"^lm_head": "head"}), plain_name("score.weight", {})
        ('head.weight', None)
    """
    name = re.sub(_WRAPPERS, "", name)
    if re.match(_OTHER_HEADS, name):
        return None
    for theirs, ours in table.items():
        name = re.sub(theirs, ours, name)
    return name


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value}, and a GPT-2 needs a positive whole number there.")
    return value
