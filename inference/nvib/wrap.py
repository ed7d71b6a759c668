"""NVIB attention in place of the attention layers of a trained model."""

import sys
from typing import Any, TypeVar, get_args

import torch
from torch import nn

from ...models.attention.kernel.natural_parameters import Form
from ...models.nvib.bottleneck import Bottleneck
from ...models.utils.choices import check_choice
from .hub_attention import BartAttention, BertCrossAttention, BertSelfAttention, GPT2Attention
from .torch_attention import TorchAttention, check_torch_attention
from .wrapped import WrappedAttention, wrapped_class

__all__ = ["unwrap", "wrap"]

Module = TypeVar("Module", bound=nn.Module)

WRAPPERS: dict[str, type[WrappedAttention]] = {
    "torch.nn.modules.activation.MultiheadAttention": TorchAttention,
    "transformers.models.bert.modeling_bert.BertSelfAttention": BertSelfAttention,
    "transformers.models.bert.modeling_bert.BertCrossAttention": BertCrossAttention,
    "transformers.models.gpt2.modeling_gpt2.GPT2Attention": GPT2Attention,
    "transformers.models.bart.modeling_bart.BartAttention": BartAttention,
}
SUPPORTED = "torch.nn.MultiheadAttention and the BERT, GPT-2 and BART of transformers 5"


def wrap(model: Module, *, form: Form = "exact", learn: bool = False, variance: str = "shared") -> Module:
    r"""Turns every attention layer of a model into NVIB attention, which computes the same at first.

    The vectors that a layer attends to become the components of a posterior over mixtures, beside one component of a
    prior; a head returns the posterior mean of the vector behind its query. With :math:`\tau = (1, 0, \infty)`, where
    it starts, that is softmax attention. :func:`~pyroformer.nvib.fit_priors` gives the layers their priors, and
    :func:`~pyroformer.nvib.regularize` turns the dial.

    Arguments:
        model: A model with layers of ``torch.nn.MultiheadAttention``, or a BERT, GPT-2 or BART of transformers, in
            float32 or float64. It is changed in place; its own parameters keep their names, and
            :func:`~pyroformer.nvib.unwrap` undoes it.
        form: ``"exact"``, the posterior mean, or ``"published"``, the evaluation of the papers' code: without the
            query's squared norm, so that the result is not the posterior mean where variances differ.
        learn: Whether each layer gets :class:`~pyroformer.models.nvib.bottleneck.Heads` to be trained, zero at first:
            changes of means, variances and concentrations.
        variance: With ``learn``: ``"shared"``, one vector of variances for a layer, or ``"diagonal"``, one for each of
            its vectors, at several times the cost.

    Returns:
        The model itself.

    Raises:
        ValueError: If the model has no attention that can be turned, is wrapped already, or is in half precision.

    References:
        Nonparametric Variational Regularisation of Pretrained Transformers (Fehr & Henderson, 2024),
        https://arxiv.org/abs/2312.00662

    Examples:
        >>> attention, x = torch.nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(3, 5, 16)
        >>> before = attention(x, x, x)[0]
        >>> torch.allclose(pf.nvib.wrap(attention)(x, x, x)[0], before, atol=1e-5)
        True
    """
    check_choice("form", form, get_args(Form))
    check_choice("variance", variance, ("shared", "diagonal"))
    if variance == "diagonal" and not learn:
        raise ValueError("variance='diagonal' is what heads learn: give learn=True as well")
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model has type {type(model).__name__}: give a torch.nn.Module")
    if any(isinstance(module, WrappedAttention) for module in model.modules()):
        raise ValueError(f"the {type(model).__name__} is wrapped already: pf.nvib.unwrap(model) undoes it")
    attention_layers = {name: module for name, module in model.named_modules() if type(module) in _known()}
    if not attention_layers:
        others = sorted({type(module).__name__ for module in model.modules() if _looks_like_attention(module)})
        kinds = f" (it has {', '.join(others)})" if others else ""
        raise ValueError(
            f"the {type(model).__name__} has no attention that can be turned into NVIB attention{kinds}: "
            f"supported are {SUPPORTED}"
        )
    for name, module in attention_layers.items():
        _check(name, module)
    for name, module in attention_layers.items():
        _turn(module, _group(model, name, module), form, learn, variance == "diagonal")
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):  # it packs padded batches for fused layers, see _turn
            vars(module)["_use_nested_tensor"] = module.use_nested_tensor
            module.use_nested_tensor = False
    return model


def unwrap(model: Module) -> Module:
    """Gives every attention layer of a wrapped model back its own class; the bottlenecks are lost.

    Raises:
        ValueError: If the model is not wrapped.

    Examples:
        >>> attention = pf.nvib.wrap(torch.nn.MultiheadAttention(16, 2))
        >>> type(pf.nvib.unwrap(attention)).__name__
        'MultiheadAttention'
    """
    wrapped = [module for module in model.modules() if isinstance(module, WrappedAttention)]
    if not wrapped:
        raise ValueError(f"the {type(model).__name__} is not wrapped")
    for layer in wrapped:
        _return(layer)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = vars(module).pop("_use_nested_tensor", module.use_nested_tensor)
    return model


def _known() -> dict[type, type[WrappedAttention]]:
    """The wrapper of each attention class whose module is already imported, as a model's own is."""
    known = {}
    for path, wrapper in WRAPPERS.items():
        module, _, name = path.rpartition(".")
        original = getattr(sys.modules.get(module), name, None)
        if original is not None:
            known[original] = wrapper
    return known


def _looks_like_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    return name.endswith("Attention") and any(True for _ in module.parameters(recurse=True))


def _check(name: str, module: nn.Module) -> None:
    """Raises a ValueError unless a layer has the weights and options that its wrapper assumes."""
    where = f"cannot wrap {name or type(module).__name__!r}"
    for parameter in module.parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"{where}: its weights are {dtype}, and distributions need float32: call model.float() first, and run "
                "it under torch.autocast"
            )
    for kind, part in module.named_children():
        if not isinstance(part, nn.Linear | nn.Dropout) and type(part).__name__ != "Conv1D":
            raise ValueError(
                f"{where}: {kind} is a {type(part).__name__}, not a plain projection: wrap the model first"
            )
    if isinstance(module, nn.MultiheadAttention):
        try:
            check_torch_attention(module)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return
    implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"{where}: attn_implementation is {implementation!r}: load the model with attn_implementation='sdpa' or "
            "'eager'"
        )


def _turn(module: nn.Module, group: str, form: Form, learn: bool, diagonal: bool) -> None:
    original = type(module)
    layer: Any = module
    layer.__class__ = wrapped_class(_known()[original], original)
    key = layer.projections().key
    bottleneck = Bottleneck(key.shape[1], layer.noise_variance(), group, learn, diagonal)
    bottleneck.form = form
    layer.nvib = bottleneck.to(device=key.device, dtype=key.dtype).train(module.training)
    if isinstance(module, nn.MultiheadAttention):
        layer._qkv_same_embed_dim = False  # or torch's fused layers would go past this one


def _return(layer: Any) -> None:
    """Give a wrapped layer its own class back and delete its bottleneck."""
    layer.__class__ = type(layer).__bases__[1]
    del layer.nvib
    if isinstance(layer, nn.MultiheadAttention):
        layer._qkv_same_embed_dim = layer.in_proj_weight is not None


def _group(model: nn.Module, name: str, module: nn.Module) -> str:
    """The kind of a layer, by its name, its class and ``is_causal``, or by the torch layer that contains it."""
    parent, _, own = name.rpartition(".")
    if own in ("multihead_attn", "encoder_attn", "crossattention") or type(module).__name__ == "BertCrossAttention":
        return "cross"
    if isinstance(model.get_submodule(parent), nn.TransformerDecoderLayer) or getattr(module, "is_causal", False):
        return "decoder"
    return "encoder"
