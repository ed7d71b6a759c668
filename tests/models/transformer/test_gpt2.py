"""A GPT-2's configuration as ours; that its weights then compute the same is tested where they are read."""

from typing import Any

import pytest
import torch

from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.gpt2 import gpt2_config, gpt2_weights

SMALL = {"model_type": "gpt2", "vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}


def test_sizes_and_options_are_taken_over() -> None:
    given = SMALL | {
        "n_inner": 48,
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-3,
        "tie_word_embeddings": False,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.25),
    }
    assert gpt2_config(given) == TransformerConfig(
        vocabulary=300, max_length=64, width=32, layers=2, heads=4, hidden=48, dropout=0.25, norm_eps=1e-3,
        activation="relu", positions="learned", tied=False,
    )  # fmt: skip


def test_defaults_are_those_of_gpt2() -> None:
    config = gpt2_config(SMALL)
    assert (config.feed_forward, config.activation, config.norm_eps) == (128, "gelu_tanh", 1e-5)
    assert (config.dropout, config.tied) == (0.1, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', and only 'gpt2' can be loaded"),
        ({"model_type": None}, "model_type is None, and only 'gpt2'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, and only .* with False"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, and only a GPT-2 with True can be loaded"),
        ({"add_cross_attention": True}, "add_cross_attention is True, and only a GPT-2 with False"),
        ({"activation_function": "silu"}, "activation_function is 'silu', and only gelu_new, .* can be loaded"),
        ({"n_embd": None}, "n_embd is None, and a GPT-2 needs a positive whole number there"),
        ({"n_layer": 0}, "n_layer is 0, and a GPT-2 needs a positive whole number"),
        ({"n_positions": "64"}, "n_positions is 64, and a GPT-2 needs a positive whole number"),
        ({"n_head": 3}, "width is 32, which is no multiple of heads = 3"),
    ],
)
def test_options_that_our_decoder_lacks(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gpt2_config(SMALL | change)


def test_names_are_the_same_with_and_without_a_head_on_top() -> None:
    names = ["wte.weight", "wpe.weight", "h.11.ln_1.bias", "h.11.attn.c_proj.bias", "ln_f.weight"]
    ours = [
        "embedding.tokens.weight",
        "embedding.positions",
        "blocks.11.attention_norm.bias",
        "blocks.11.attention.out.bias",
        "norm.weight",
    ]
    assert list(gpt2_weights({name: torch.zeros(2, 2) for name in names})) == ours
    assert list(gpt2_weights({f"transformer.{name}": torch.zeros(2, 2) for name in names})) == ours


def test_buffers_are_left_out_and_the_unknown_stays() -> None:
    names = ("h.0.attn.bias", "h.0.attn.masked_bias", "score.weight", "adapter.weight")  # score: of a classifier
    assert list(gpt2_weights({name: torch.zeros(3, 2) for name in names})) == ["adapter.weight"]


def test_the_head_counts_only_where_it_is_not_the_embedding() -> None:
    weights = {"lm_head.weight": torch.ones(3, 2)}
    assert gpt2_weights(weights, tied=True) == {}
    untied = gpt2_weights(weights, tied=False)
    assert untied["head.weight"].shape == (3, 2) and untied["head.bias"].tolist() == [0, 0, 0]
