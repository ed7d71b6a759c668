"""Self-attention against torch's multi-head attention, and the cache against reading everything at once."""

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from pyroformer.models.attention.kv_cache import KeyValueCache
from pyroformer.models.transformer.self_attention import SelfAttention

BATCH, TOKENS, HEADS, WIDTH = 3, 6, 2, 8


def draw_layer(bias: bool = True) -> SelfAttention:
    return SelfAttention(WIDTH, HEADS, bias=bias).double()


def draw(*batch: int) -> Tensor:
    return torch.randn(*(batch or (BATCH,)), TOKENS, WIDTH, dtype=torch.double)


def padding(side: str) -> Tensor:
    """Texts of 6, 4 and 1 tokens."""
    mask = torch.arange(TOKENS) < torch.tensor([6, 4, 1])[:, None]
    return mask if side == "right" else mask.flip(-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("bias", [False, True])
def test_torch_agrees(bias: bool, side: str | None, causal: bool) -> None:
    layer, x = draw_layer(bias), draw()
    oracle = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=True, dtype=torch.double)
    state = {"in_proj_weight": layer.qkv.weight, "out_proj.weight": layer.out.weight}
    if bias:
        state |= {"in_proj_bias": layer.qkv.bias, "out_proj.bias": layer.out.bias}
    oracle.load_state_dict(state)
    mask = None if side is None else padding(side)
    absent = None if mask is None else ~mask
    future = ~torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril() if causal else None
    expected = oracle(x, x, x, key_padding_mask=absent, attn_mask=future, need_weights=False)[0]
    actual = layer(x, mask, causal=causal)
    known = torch.ones(BATCH, TOKENS, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(actual[known], expected[known], rtol=1e-10, atol=1e-10)
    parameters = list(layer.parameters())
    one = torch.autograd.grad(actual[known].square().sum(), parameters)
    other = torch.autograd.grad(expected[known].square().sum(), list(oracle.parameters()))
    for gradient, reference in zip(sorted(one, key=_size), sorted(other, key=_size), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


def _size(x: Tensor) -> int:
    return x.numel()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16, torch.float16])
def test_nothing_gives_zero(dtype: torch.dtype, causal: bool) -> None:
    """A row of padding only, and queries that come before a text that is padded on the left."""
    layer, x = SelfAttention(WIDTH, HEADS).to(dtype), draw().to(dtype).requires_grad_()
    mask = padding("left")
    mask[1] = False
    output = layer(x, mask, causal=causal)
    blind = ~mask if causal else torch.arange(BATCH)[:, None].expand(BATCH, TOKENS) == 1
    assert torch.equal(output[blind], layer.out.bias.expand_as(output[blind]))
    for gradient in torch.autograd.grad(output.float().sum(), [x, *layer.parameters()]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(causal: bool) -> None:
    layer, x = draw_layer(), draw()
    mask = padding("right")
    changed = torch.where(mask[..., None], x, 1e3)
    expected = layer(x, mask, causal=causal)[mask]
    assert torch.equal(layer(changed, mask, causal=causal)[mask], expected)
    alone = layer(x[1:2, :4], causal=causal)
    torch.testing.assert_close(layer(x, mask, causal=causal)[1:2, :4], alone, rtol=1e-10, atol=1e-10)


def test_causal_attention_sees_no_future() -> None:
    layer, x = draw_layer(), draw()
    changed = torch.cat([x[:, :3], draw()[:, 3:]], 1)
    for mask in (None, padding("left")):
        assert torch.equal(layer(x, mask, causal=True)[:, :3], layer(changed, mask, causal=True)[:, :3])


def test_leading_dimensions() -> None:
    layer, x = draw_layer(), draw(4, BATCH)
    mask = padding("right").expand(4, -1, -1)
    torch.testing.assert_close(layer(x, mask)[2], layer(x[2], mask[2]))  # the order of sums depends on the machine
    torch.testing.assert_close(layer(x[0, 0]), layer(x[0])[0])


@pytest.mark.parametrize("steps", [[6], [1] * 6, [3, 1, 1, 1], [2, 3, 1]])
@pytest.mark.parametrize("side", [None, "left"])
def test_the_cache_gives_the_same_as_the_whole_sequence(side: str | None, steps: list[int]) -> None:
    layer, x = draw_layer(), draw()
    mask = None if side is None else padding(side)
    cache, outputs, start = KeyValueCache(capacity=10), [], 0
    with torch.no_grad():
        expected = layer(x, mask, causal=True)
        for step in steps:
            here = slice(start, start + step)
            outputs.append(layer(x[:, here], None if mask is None else mask[:, here], causal=True, cache=cache))
            start += step
    assert cache.length == TOKENS
    torch.testing.assert_close(torch.cat(outputs, 1), expected, rtol=1e-10, atol=1e-10)


def test_a_mask_is_needed_for_the_prompt_only() -> None:
    """Tokens that come without a mask are present; a finished row may go on with anything."""
    layer, x = draw_layer(), draw()
    mask = padding("left")
    cache = KeyValueCache(TOKENS + 1)
    new, padded = draw()[:, :1], torch.cat([mask, mask.new_ones(BATCH, 1)], 1)
    with torch.no_grad():
        layer(x, mask, causal=True, cache=cache)
        output = layer(new, causal=True, cache=cache)
        expected = layer(torch.cat([x, new], 1), padded, causal=True)[:, -1:]
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)


def test_nothing_is_changed_in_place() -> None:
    layer, x, mask = draw_layer(), draw(), padding("left")
    before, mask_before = x.clone(), mask.clone()
    layer(x, mask, causal=True)
    assert torch.equal(x, before) and torch.equal(mask, mask_before)


def test_dropout_is_for_training_only() -> None:
    layer, x = SelfAttention(WIDTH, HEADS, dropout=0.5).double(), draw()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match="width is 10, which is no multiple of heads = 4"):
        SelfAttention(10, 4)
    cache = KeyValueCache(capacity=4)
    with pytest.raises(ValueError, match="6 tokens do not fit a cache of 4: make it larger"):
        draw_layer()(draw(), causal=True, cache=cache)


@pytest.mark.compile
def test_one_graph() -> None:
    layer, x = SelfAttention(64, 4), torch.randn(BATCH, TOKENS, 64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for mask in (None, padding("left")):
        for causal in (False, True):
            torch.testing.assert_close(compiled(x, mask, causal), layer(x, mask, causal), rtol=1e-6, atol=1e-6)
    cache, again = KeyValueCache(8), KeyValueCache(8)
    with torch.no_grad():
        for step in range(3):
            token = x[:, step : step + 1]
            expected = layer(token, causal=True, cache=again)
            torch.testing.assert_close(compiled(token, causal=True, cache=cache), expected, rtol=1e-6, atol=1e-6)
