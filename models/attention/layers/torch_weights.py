"""Weights of torch's own attention layer, under the names that they have here."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from ...utils.choices import check_choice
from ...utils.seeding import forked_rng

__all__ = ["TorchWeights"]

Layer = TypeVar("Layer", bound="TorchWeights")

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

    @classmethod
    def from_multihead_attention(cls: type[Layer], layer: nn.MultiheadAttention, **options: Any) -> Layer:
        """A layer of this class with the weights of torch's own: at its start it gives the same outputs.

        It takes batches first, whatever ``batch_first`` is there, and its masks are True where something is present.

        Arguments:
            layer: Torch's layer, whose width, heads, biases, dropout, dtype, device and mode the new one has.
            options: Further arguments of the class. ``null_component=True`` is torch's ``add_zero_attn``.

        Raises:
            ValueError: If there is no place for some of its weights.

        Examples:
            >>> softmax, x = torch.nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(3, 5, 16)
            >>> layer = pf.ProbabilisticAttention.from_multihead_attention(softmax, precision="diagonal")
            >>> torch.allclose(layer(x), softmax(x, x, x)[0], atol=1e-6)
            True
        """
        _check_loadable(layer, options)
        for name in options:
            taken = ("width", "heads", "bias")
            check_choice(
                "an option", name, [known for known in inspect.signature(cls).parameters if known not in taken]
            )
        options = {"dropout": layer.dropout, **options}
        with forked_rng():  # weights that are replaced at once
            new = cls(layer.embed_dim, layer.num_heads, bias=layer.in_proj_bias is not None, **options)
        new = new.to(layer.out_proj.weight)  # before weights are copied, which float32 would round
        new.load_state_dict({name: value for name, value in layer.state_dict().items() if name in NAMES}, strict=False)
        return new.train(layer.training)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _rename(state_dict, {prefix + old: prefix + new for old, new in NAMES.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rename(state: dict[str, Any], names: Mapping[str, str]) -> None:
    """Renames entries in place unless the new name is taken; ``load_state_dict`` passes a copy."""
    for old, new in names.items():
        if old in state and new not in state:
            state[new] = state.pop(old)


def _check_loadable(layer: nn.Module, options: Mapping[str, Any]) -> None:
    """Raises unless torch's layer has the weights that this layer loads, and no others."""
    if not isinstance(layer, nn.MultiheadAttention):
        raise ValueError(f"the layer has type {type(layer).__name__}: give an nn.MultiheadAttention.")
    if layer.kdim != layer.embed_dim or layer.vdim != layer.embed_dim:
        raise ValueError(
            f"the layer has embed_dim={layer.embed_dim}, kdim={layer.kdim}, vdim={layer.vdim}; here all are one width: "
            "project keys and values to embed_dim before the layer."
        )
    if layer.bias_k is not None:
        raise ValueError("the layer has add_bias_kv=True, a key and value that have no place here: retrain without it.")
    if layer.add_zero_attn and not options.get("null_component"):
        raise ValueError("the layer has add_zero_attn=True: give null_component=True, which is the same at the start.")
    names = [name for name in NAMES if layer.in_proj_bias is not None or not name.endswith("bias")]
    missing = [name for name in names if name not in layer.state_dict()]
    if missing:
        raise ValueError(f"the layer has no parameter {missing[0]}: remove its parametrizations or quantization first.")
