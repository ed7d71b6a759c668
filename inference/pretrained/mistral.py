"""Configuration of a Mistral as that of our decoder; its weights have the names of Llama's."""

from collections.abc import Mapping
from typing import Any

from ...models.transformer.config import TransformerConfig
from .llama import llama_config

__all__ = ["mistral_config", "within_window"]


def mistral_config(config: Mapping[str, Any]) -> TransformerConfig:
    """The sizes and options with which our decoder computes the same as a Mistral, on texts within its window.

    Raises:
        ValueError: If it lacks a size, or has an option that our decoder lacks.

    Examples:
        >>> sizes = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8}
        >>> more = {"num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 8192}
        >>> mistral_config(sizes | more | {"sliding_window": 4096}).max_length
        4096
    """
    default = {"num_key_value_heads": 8}
    return llama_config(default | within_window(config, config.get("sliding_window", 4096)), bias=False)


def within_window(config: Mapping[str, Any], window: Any) -> dict[str, Any]:
    """A configuration with no more positions than a sliding window, if there is one, has tokens.

    Attention over a window is full attention where the whole text is in it; our decoder has no other.
    """
    positions = config.get("max_position_embeddings")
    if not isinstance(window, int) or not isinstance(positions, int):
        return dict(config)
    return {**config, "max_position_embeddings": min(positions, window)}
