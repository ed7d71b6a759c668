"""Blocks: which options reach their parts, where dropout acts, and what is computed again in the backward pass."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyroformer.models.attention.layers.denoising import DenoisingAttention
from pyroformer.models.attention.layers.probabilistic import ProbabilisticAttention
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.transformer import blocks
from pyroformer.models.transformer.blocks import MLP, Block, applied, initialize, norm_layer, recompute_blocks
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.self_attention import SelfAttention

SIZES = {"vocabulary": 20, "max_length": 8, "width": 16, "heads": 2, "layers": 2}


def config(**options: Any) -> TransformerConfig:
    return TransformerConfig(**SIZES, **options)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 5, 16)


@pytest.mark.parametrize("cross", [False, True])
def test_what_every_part_adds_can_be_dropped(x: Tensor, cross: bool) -> None:
    block = Block(config(), cross_attention=cross)
    memory = Mixture(torch.zeros(4), torch.randn(4, 16), variances=torch.ones(4, 16)) if cross else None
    assert not torch.equal(block(x, memory=memory), x)
    block.dropout = nn.Dropout(1.0)
    assert torch.equal(block(x, memory=memory), x)


@pytest.mark.parametrize("bias", [False, True])
def test_cross_attention_has_the_options_of_the_block(bias: bool) -> None:
    cross = Block(config(bias=bias, dropout=0.3), cross_attention=True).cross
    assert isinstance(cross, DenoisingAttention) and cross.dropout == 0.3
    assert any(name.endswith("bias") for name, _ in cross.named_parameters()) == bias


@pytest.mark.parametrize("bias, qkv_bias", [(False, True), (True, False), (True, None), (False, None)])
def test_softmax_attention_has_the_options_of_the_configuration(bias: bool, qkv_bias: bool | None) -> None:
    attention = Block(config(bias=bias, qkv_bias=qkv_bias, dropout=0.3)).attention
    assert isinstance(attention, SelfAttention) and attention.dropout == 0.3
    assert (attention.qkv.bias is not None) == (bias if qkv_bias is None else qkv_bias)
    assert (attention.out.bias is not None) == bias


@pytest.mark.parametrize(
    "name, value",
    [
        ("key_prior", "learned"),
        ("key_precision", "full"),
        ("key_components", 2),
        ("null_component", True),
        ("key_steps", 2),
        ("key_pseudo_counts", 3.0),
        ("key_tolerance", 0.1),
        ("key_density", "student"),
        ("key_assignment", "hard"),
        ("key_distance", 4),
    ],
)
def test_probabilistic_attention_has_the_options_of_the_configuration(name: str, value: Any) -> None:
    adapting = {"key_steps": 2} if name in ("key_pseudo_counts", "key_tolerance") else {}
    own = {"key_distance": "positions"}.get(name, name.removeprefix("key_"))

    def layer(**options: Any) -> ProbabilisticAttention:
        return ProbabilisticAttention(16, heads=2, **{key.removeprefix("key_"): options[key] for key in options})

    made = Block(config(attention="probabilistic", **{name: value}, **adapting)).attention
    assert repr(made) == repr(layer(**{own: value}, **adapting)) != repr(layer(**adapting))


def test_dropout_and_biases_of_probabilistic_attention() -> None:
    made = Block(config(attention="probabilistic", dropout=0.3, bias=False)).attention
    assert isinstance(made, ProbabilisticAttention) and made.dropout == 0.3 and made.out.bias is None


def test_norms_have_the_options_of_the_configuration() -> None:
    norm = norm_layer(config(bias=False, norm_eps=0.25))
    assert isinstance(norm, nn.LayerNorm) and norm.bias is None and norm.eps == 0.25
    norm = norm_layer(config(norm_eps=0.25))
    assert isinstance(norm, nn.LayerNorm) and norm.bias is not None


def test_the_activation_of_gpt2_is_the_gelu_of_a_tanh() -> None:
    x = torch.linspace(-3, 3, 50)
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(MLP(config(activation="gelu_tanh")).activation(x), expected)
    assert not torch.allclose(MLP(config(activation="gelu")).activation(x), expected, atol=1e-5)


def test_adapters_start_with_the_scale_of_their_inputs() -> None:
    mlp = MLP(TransformerConfig(vocabulary=20, max_length=8, width=64, hidden=256, heads=2, adapter_rank=16))
    initialize(mlp, config())
    for name, size in {"up": 64, "down": 256}.items():
        down = mlp.get_submodule(name).adapter_down
        assert isinstance(down, Tensor)
        assert float(down.detach().std()) == pytest.approx(size**-0.5, rel=0.1)
        assert not mlp.get_submodule(name).adapter_up.any()  # type: ignore[operator]


class Kept:
    """The number of values that are kept for the backward pass."""

    def __init__(self) -> None:
        self.values = 0

    def add(self, tensor: Tensor) -> Tensor:
        self.values += tensor.numel()
        return tensor


def test_a_recomputed_block_keeps_its_inputs_alone(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    block, kept, found = Block(config()), {}, []
    x.requires_grad_()
    for on in (False, True):
        recompute_blocks(block, on)
        count = Kept()
        with torch.autograd.graph.saved_tensors_hooks(count.add, lambda tensor: tensor):
            y = applied(block, x)
        kept[on] = count.values
        gradients = torch.autograd.grad(y.square().sum(), [x, *block.parameters()])
        if on:
            assert all(torch.equal(one, other) for one, other in zip(gradients, found.pop(), strict=True))
        found.append(gradients)
    assert kept[True] <= 2 * x.numel() < kept[False] / 5
    monkeypatch.setattr(blocks, "checkpoint", None)
    with torch.no_grad():
        assert torch.equal(applied(block, x), y)  # which keeps nothing as it is


def test_blocks_of_every_kind_are_recomputed() -> None:
    class Other(blocks.PreNormBlock):
        pass

    module = nn.ModuleList([Block(config()), Other(config(), nn.Identity())])
    recompute_blocks(module, True)
    assert all(block.recomputed for block in module)
    recompute_blocks(module, False)
    assert not any(block.recomputed for block in module)
