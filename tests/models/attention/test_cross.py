"""Layers between two sequences: torch's own attention at their start, whatever the masks; what they refuse."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.attention.bayes_rule import evidence
from pyroformer.models.attention.layers.cross import ProbabilisticCrossAttention
from pyroformer.models.attention.layers.learned import ProbabilisticMemory, ProbabilisticPooling
from pyroformer.models.attention.log_space import normalized
from pyroformer.models.transformer.self_attention import SelfAttention

OPTIONS: list[dict[str, Any]] = [
    {"precision": "shared", "prior": "magnitude"},
    {"precision": "key"},
    {"precision": "diagonal", "prior": "learned", "components": 2},
]
each = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options["precision"]))


def softmax_layer(**options: Any) -> nn.MultiheadAttention:
    """Torch's layer with biases that are not zero, in double precision."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True, **options).double()
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.4)
    return layer.eval()


def sequences() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, 8).double(), torch.randn(3, 6, 8).double()


def masks() -> tuple[Tensor, Tensor]:
    """A mask of the memory's tokens, and one of pairs; every query sees one at least."""
    mask, attn_mask = torch.rand(3, 6) < 0.7, torch.rand(4, 6) < 0.7
    mask[:, 0] = attn_mask[:, 0] = True
    return mask, attn_mask


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-9)


@each
@pytest.mark.parametrize("bias", [True, False])
def test_cross_attention_starts_as_that_of_torch(options: dict[str, Any], bias: bool) -> None:
    softmax, (x, memory), (mask, attn_mask) = softmax_layer(bias=bias), sequences(), masks()
    layer = ProbabilisticCrossAttention.from_multihead_attention(softmax, **options)
    assert not layer.training and layer.out.weight.dtype == torch.double
    for of_memory, of_pairs in ((None, None), (mask, None), (None, attn_mask), (mask, attn_mask)):
        theirs = {
            "key_padding_mask": None if of_memory is None else ~of_memory,
            "attn_mask": None if of_pairs is None else ~of_pairs,
        }
        close(layer(x, memory, of_memory, of_pairs), softmax(x, memory, memory, **theirs)[0])
    own = attn_mask.expand(3, 4, 6)
    close(layer(x, memory, attn_mask=own), layer(x, memory, attn_mask=attn_mask))
    close(layer(x[None], memory[None], mask[None], own[None])[0], layer(x, memory, mask, own))


@pytest.mark.parametrize("kind", [pf.ProbabilisticAttention, SelfAttention])
@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_has_the_weights_of_torch(kind: Any, batch_first: bool) -> None:
    softmax, x = softmax_layer(), sequences()[0]
    expected = softmax(x, x, x)[0]
    softmax.batch_first = batch_first
    state = torch.get_rng_state()
    layer = kind.from_multihead_attention(softmax)
    assert torch.equal(torch.get_rng_state(), state)
    close(layer(x), expected)


def test_weights_are_copies_and_dropout_is_that_of_torch() -> None:
    softmax = nn.MultiheadAttention(8, 2, dropout=0.3)
    layer = pf.ProbabilisticAttention.from_multihead_attention(softmax)
    assert layer.dropout == 0.3 and layer.training
    layer.qkv.weight.data.zero_()
    assert softmax.in_proj_weight.abs().max() > 0


def test_a_null_component_is_the_zero_key_of_torch() -> None:
    softmax, (x, memory) = softmax_layer(add_zero_attn=True), sequences()
    layer = ProbabilisticCrossAttention.from_multihead_attention(softmax, null_component=True)
    close(layer(x, memory), softmax(x, memory, memory)[0])
    mask, attn_mask = masks()
    theirs = softmax(x, memory, memory, key_padding_mask=~mask, attn_mask=~attn_mask)[0]
    close(layer(x, memory, mask, attn_mask), theirs)


@each
def test_it_is_self_attention_where_both_sequences_are_one(options: dict[str, Any]) -> None:
    layer, x = ProbabilisticCrossAttention(8, 2, **options).double(), sequences()[0]
    for parameter in layer.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    alone = pf.ProbabilisticAttention(8, 2, **options).double()
    alone.load_state_dict(layer.state_dict())
    mask = torch.tensor([[True, True, True, False]] * 3)
    close(layer(x, x, mask), alone(x, mask))
    for one, other in zip(layer.posterior(x, x, mask), alone.posterior(x, mask), strict=True):
        close(one, other)
    adapting = ProbabilisticCrossAttention(8, 2, steps=2, **options).double()
    adapting.load_state_dict(layer.state_dict())
    alone = pf.ProbabilisticAttention(8, 2, steps=2, **options).double()
    alone.load_state_dict(layer.state_dict())
    close(adapting(x, x), alone(x))


def test_a_token_without_any_memory_and_hidden_tokens_do_not_matter() -> None:
    layer, (x, memory) = ProbabilisticCrossAttention(8, 2).double(), sequences()
    layer.out.bias.data.normal_()
    mask, attn_mask = masks()
    attn_mask[2] = False
    y = layer(x, memory, mask, attn_mask)
    close(y[:, 2], layer.out.bias.expand(3, 8))
    changed = torch.where(mask[..., None], memory, 1e3)
    close(layer(x, changed, mask, attn_mask), y)
    queries, mixture = layer._pair(x, memory, mask, tilted=False)
    mixture = replace(mixture, log_weights=normalized(mixture.log_weights, mixture.mask))
    close(layer.posterior(x, memory, mask).evidence, evidence(queries, mixture))


def test_gradients_reach_every_parameter() -> None:
    x = torch.randn(2, 5, 8)
    for layer in (ProbabilisticPooling(8, 2, queries=3), ProbabilisticMemory(8, 2, tokens=7)):
        layer(x).square().sum().backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())


@each
def test_pooling_and_memory_start_as_softmax_attention(options: dict[str, Any]) -> None:
    softmax, x = softmax_layer(), sequences()[0]
    mask = torch.tensor([[True, True, False, True]] * 3)
    pooling, memory = ProbabilisticPooling(8, 2, 3, **options), ProbabilisticMemory(8, 2, 5, **options)
    for module in (pooling, memory):
        module.double().attention.load_state_dict(softmax.state_dict(), strict=False)
    queries, tokens = pooling.queries.expand(3, -1, -1), memory.memory.expand(3, -1, -1)
    close(pooling(x, mask), softmax(queries, x, x, key_padding_mask=~mask)[0])
    close(memory(x), softmax(x, tokens, tokens)[0])
    close(pooling(x[0]), pooling(x)[0])


def loading(layer: nn.Module, **options: Any) -> Callable[[], object]:
    return lambda: ProbabilisticCrossAttention.from_multihead_attention(layer, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call, message",
    [
        (loading(nn.MultiheadAttention(8, 2, kdim=4)), "embed_dim=8, kdim=4, vdim=8; .* project keys and values"),
        (loading(nn.MultiheadAttention(8, 2, vdim=4)), "embed_dim=8, kdim=8, vdim=4"),
        (loading(nn.MultiheadAttention(8, 2, add_bias_kv=True)), "add_bias_kv=True, .* retrain without it"),
        (loading(nn.MultiheadAttention(8, 2, add_zero_attn=True)), "add_zero_attn=True: give null_component=True"),
        (loading(nn.MultiheadAttention(8, 2, dropout=0.1), steps=2), "dropout is 0.1 and steps is 2"),
        (lambda: ProbabilisticPooling(8, 2, queries=0), "queries is 0: give a whole number of at least 1"),
        (lambda: ProbabilisticMemory(8, 2, tokens=-1), "tokens is -1: give a whole number of at least 1"),
        (loading(nn.MultiheadAttention(8, 2), width=9), "an option is 'width': choose one of dropout, precision"),
        (lambda: ProbabilisticCrossAttention(8, 3), "8.*3"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((3, 4, 6), (3, 6, 8)), "x has width 6 and the layer 8: project x"),
        (((3, 4, 8), (3, 6, 5)), "memory has width 5 and the layer 8: project memory"),
        (((3, 4, 8), (2, 6, 8)), r"x has batch shape \(3,\) and memory \(2,\): expand one"),
        (((3, 4, 8), (3, 0, 8)), "memory has 0 tokens"),
        (((3, 4, 8), (3, 6, 8), (3, 4)), r"mask has shape \(3, 4\): give that of the memory's tokens, \(3, 6\)"),
        (((3, 4, 8), (3, 6, 8), (3, 6), (5, 4, 6)), r"attn_mask has batch shape \(5,\) and x \(3,\): give one mask"),
        (((8,), (3, 6, 8)), r"x has shape \(8,\): give a row for each token"),
        (((3, 4, 8), (3, 6, 8), (3, 6), (6, 6)), r"attn_mask has shape \(6, 6\): end it .* \(4, 6\)"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_shapes_that_do_not_fit_are_refused_in_one_line(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    layer = ProbabilisticCrossAttention(8, 2)
    x, memory, *rest = (torch.zeros(shape) for shape in shapes)
    forward = getattr(layer.forward, "__wrapped__", layer.forward)  # without the check of annotated shapes
    with pytest.raises(ValueError, match=message):
        forward(*((layer,) if forward is not layer.forward else ()), x, memory, *(part.bool() for part in rest))
