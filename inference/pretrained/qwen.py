"""Configurations of Qwen 2 and 3 as those of our decoder; their weights have the names of Llama's."""

from collections.abc import Mapping
from typing import Any

from ...models.transformer.config import TransformerConfig
from .llama import llama_config
from .mistral import within_window

__all__ = ["qwen2_config", "qwen3_config"]


def qwen2_config(config: Mapping[str, Any]) -> TransformerConfig:
    """The sizes and options with which our decoder computes the same as a Qwen 2 or 2.5.

    Queries, keys and values have biases, nothing else has.

    Raises:
        ValueError: If it lacks a size, or has an option that our decoder lacks.

    Examples:
        >>> sizes = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}
        >>> more = {"num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 8192}
        >>> qwen2_config(sizes | more).qkv_bias
        True
    """
    return llama_config(_windowed(config), bias=False, qkv_bias=True)


def qwen3_config(config: Mapping[str, Any]) -> TransformerConfig:
    """The sizes and options with which our decoder computes the same as a Qwen 3 without experts.

    Each head norms its queries and keys, and nothing has biases.

    Raises:
        ValueError: If it lacks a size, or has an option that our decoder lacks.

    Examples:
        >>> sizes = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}
        >>> more = {"num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 8192}
        >>> qwen3_config(sizes | more).head_size
        128
    """
    if config.get("attention_bias"):
        raise ValueError("attention_bias is True, and only a Qwen 3 without biases can be loaded.")
    return llama_config({"head_dim": 128} | _windowed(config), bias=False, query_key_norm=True)


def _windowed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, within the window of the layers that have one."""
    layers, kinds = config.get("num_hidden_layers"), config.get("layer_types")
    sliding = bool(config.get("use_sliding_window", False))
    if isinstance(kinds, list):
        sliding = sliding and "sliding_attention" in kinds
    elif isinstance(layers, int):
        sliding = sliding and layers > config.get("max_window_layers", 28)
    return within_window(config, config.get("sliding_window", 4096) if sliding else None)
