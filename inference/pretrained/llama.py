r"""Configuration and weights of Llama, and of the families that share its architecture, as those of our decoder."""

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ...models.transformer.config import TransformerConfig
from ...models.transformer.gpt2 import plain_name

__all__ = ["llama_config", "llama_weights", "required_size"]

_NAMES = {
    r"^model\.": "",  # a LlamaForCausalLM has it, a LlamaModel does not
    r"^embed_tokens\.": "embedding.tokens.",
    r"^layers\.": "blocks.",
    r"^lm_head\.": "head.",
    r"\.input_layernorm\.": ".attention_norm.",
    r"\.post_attention_layernorm\.": ".mlp_norm.",
    r"\.self_attn\.o_proj\.": ".attention.out.",
    r"\.self_attn\.([qkv])_proj\.": r".attention.\1.",
    r"\.self_attn\.q_norm\.": ".attention.query_norm.",
    r"\.self_attn\.k_norm\.": ".attention.key_norm.",
    r"\.mlp\.(gate|up|down)_proj\.": r".mlp.\1.",
}
Scaling = Literal["none", "linear", "llama3"]


def llama_config(config: Mapping[str, Any], **family: Any) -> TransformerConfig:
    r"""The sizes and options with which our decoder computes the same as a Llama.

    Arguments:
        config: The content of its ``config.json``, of ``transformers`` 4 or 5.
        family: Options in which a family differs from Llama.

    Raises:
        ValueError: If it lacks a size, or has an option that our decoder lacks.

    Examples:
        >>> sizes = {"vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9}
        >>> more = {"num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 8192}
        >>> llama_config(sizes | more | {"rope_theta": 1e5}).rotary_base
        100000.0
    """
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act is {config['hidden_act']!r}, and only silu can be loaded.")
    biases = {name: bool(config.get(name, False)) for name in ("attention_bias", "mlp_bias")}
    if "bias" not in family and len(set(biases.values())) > 1:
        raise ValueError(
            f"attention_bias and mlp_bias are {', '.join(map(str, biases.values()))}: both or none can be."
        )
    options: dict[str, Any] = {
        "vocabulary": required_size(config, "vocab_size"),
        "max_length": required_size(config, "max_position_embeddings"),
        "width": required_size(config, "hidden_size"),
        "layers": required_size(config, "num_hidden_layers"),
        "heads": required_size(config, "num_attention_heads"),
        "hidden": required_size(config, "intermediate_size"),
        "bias": biases["mlp_bias"],
        "norm": "rms",
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "activation": "swiglu",
        "positions": "rotary",
        "tied": bool(config.get("tie_word_embeddings", False)),
    }
    for ours, theirs in {"key_value_heads": "num_key_value_heads", "head_size": "head_dim"}.items():
        options[ours] = None if config.get(theirs) is None else required_size(config, theirs)
    return TransformerConfig(**options | _rotary(config) | family)


def llama_weights(weights: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    r"""The weights of a Llama from ``transformers`` under the names of :class:`~.stacks.Decoder`.

    Those of queries, keys and values become one matrix. Another head, such as a classifier's, is left out; other
    weights that our decoder lacks keep their names, so that loading them fails.

    Arguments:
        weights: The ``state_dict`` of a ``LlamaForCausalLM``, or of the model of a family with the same names.
        config: What :func:`llama_config` returned.

    Raises:
        ValueError: If a part of an attention layer or an output layer is missing.

    Examples:
        >>> config = TransformerConfig(vocabulary=20, max_length=8)
        >>> list(llama_weights({"model.layers.0.mlp.up_proj.weight": torch.zeros(16, 4)}, config))
        ['blocks.0.mlp.up.weight']
    """
    names = {name: plain_name(name, _NAMES) for name in weights if not name.endswith("rotary_emb.inv_freq")}
    result = {ours: weights[name] for name, ours in names.items() if ours is not None}
    layers = {match.groups() for name in result if (match := re.fullmatch(r"(.*\.attention\.)[qkv](\.\w+)", name))}
    for layer, kind in sorted(layers):
        parts = [f"{layer}{part}{kind}" for part in "qkv"]
        if missing := [part for part in parts if part not in result]:
            raise ValueError(f"the weights of queries, keys and values are not complete: {missing[0]} is missing.")
        result[f"{layer}qkv{kind}"] = torch.cat([result.pop(part) for part in parts])
    if config.tied:
        result.pop("head.weight", None)
    elif "head.weight" not in result:
        raise ValueError(
            "it has no lm_head.weight, and is not tied: save the model with its head for language modeling."
        )
    elif config.bias:
        result.setdefault("head.bias", torch.zeros_like(result["head.weight"][:, 0]))
    return result


def required_size(config: Mapping[str, Any], name: str) -> int:
    """A positive whole number of a configuration."""
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value}, and a {config.get('model_type')} needs a positive whole number there.")
    return value


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of rotary positions, as ``transformers`` 4 or 5 writes them."""
    options = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    if any(isinstance(value, dict) for value in options.values()):
        raise ValueError("its layers have rotary positions of their own each, and only one kind for all can be loaded.")
    if options.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1:
        raise ValueError("only a part of each head has rotary positions, and only whole heads can be loaded.")
    kind = options.get("rope_type", options.get("type", "default"))
    names = {"rotary_base": "rope_theta"}
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"its rotary positions are scaled by {kind!r}, and only linear and llama3 can be loaded.")
    if kind != "default":
        names["rotary_factor"] = "factor"
    if kind == "llama3":
        names |= {"rotary_low": "low_freq_factor", "rotary_high": "high_freq_factor"}
        names["rotary_length"] = "original_max_position_embeddings"
    known = {"rope_theta": config.get("rope_theta", 10_000.0)} | options
    known.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    for theirs in names.values():
        if isinstance(known.get(theirs), bool) or not isinstance(known.get(theirs), int | float):
            raise ValueError(f"{theirs} of its rotary positions is {known.get(theirs)}: a number is needed there.")
    scaling = cast(Scaling, "none" if kind == "default" else kind)
    return {"rotary_scaling": scaling} | {ours: known[theirs] for ours, theirs in names.items()}
