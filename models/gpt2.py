r"""Pretrained GPT-2: its weights under the names of our decoder, which computes the same with its default options."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["gpt2_weights"]

_NAMES = {
    "transformer.wte.": "embedding.tokens.",
    "transformer.wpe.weight": "embedding.positions",
    "transformer.h.": "blocks.",
    "transformer.ln_f.": "norm.",
    ".ln_1.": ".attention_norm.",
    ".ln_2.": ".mlp_norm.",
    ".attn.c_attn.": ".attention.qkv.",
    ".attn.c_proj.": ".attention.out.",
    ".mlp.c_fc.": ".mlp.up.",
    ".mlp.c_proj.": ".mlp.down.",
}


def gpt2_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""The weights of a GPT-2 from ``transformers`` under the names that :class:`~.transformer.Decoder` has for them.

    Arguments:
        weights: The ``state_dict`` of a ``GPT2LMHeadModel``.

    Examples:
        >>> list(gpt2_weights({"transformer.h.0.mlp.c_fc.weight": torch.zeros(4, 16)}).items())[0][0]
        'blocks.0.mlp.up.weight'
    """
    result = {}
    for name, value in weights.items():
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        if name.startswith(("lm_head", "transformer.")) or name.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # the tied readout, and buffers of old versions
        # GPT-2 stores the matrices of linear layers as [in, out]
        linear = name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
        result[name] = value.T.contiguous() if linear else value
    return result
