"""Weights of torch's own attention layer, under the names that they have here."""

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["TorchWeights"]

NAMES = {
    "in_proj_weight": "qkv.weight",
    "in_proj_bias": "qkv.bias",
    "out_proj.weight": "out.weight",
    "out_proj.bias": "out.bias",
}


class TorchWeights(nn.Module):
    """A layer with the projections ``qkv`` and ``out`` that also loads the weights of ``nn.MultiheadAttention``.

    Their shapes and the order of their rows are the same. What has no place here, such as ``bias_k``, stays unexpected.

    Examples:
        >>> from pyroformer.models.transformer.self_attention import SelfAttention
        >>> weights = torch.nn.MultiheadAttention(16, 2).state_dict()
        >>> SelfAttention(16, heads=2).load_state_dict(weights)
        <All keys matched successfully>
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _rename(state_dict, {prefix + old: prefix + new for old, new in NAMES.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rename(state: dict[str, Any], names: Mapping[str, str]) -> None:
    """Renames entries, unless there is one of the new name; ``load_state_dict`` reads from a copy."""
    for old, new in names.items():
        if old in state and new not in state:
            state[new] = state.pop(old)
