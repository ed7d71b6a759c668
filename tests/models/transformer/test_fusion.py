"""Fusion: the low-rank product by brute force and as a tensor, the identity at the start, the cache, bad input."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyroformer.models.transformer.blocks import Block, compile_blocks
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.fusion import (
    FiLM,
    Fusion,
    FusionKind,
    LowRankProduct,
    MemorySlot,
    Shift,
    collapsed_product,
    layer_fusion,
    low_rank_product,
)
from pyroformer.models.transformer.memory import Context
from pyroformer.models.transformer.self_attention import SelfAttention
from pyroformer.models.transformer.stacks import Decoder

CONFIG = TransformerConfig(vocabulary=30, max_length=10, width=16, layers=3, heads=2, positions="learned", init_std=0.3)
SIZE = 4
KINDS = get_args(FusionKind)
ON_VALUES = ("product", "collapsed", "add", "film")
EACH = pytest.mark.parametrize("kind", KINDS)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def away(module: nn.Module, scale: float = 0.2) -> Any:
    """The module, somewhere else than where it starts."""
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return module


def build(kind: FusionKind, layers: tuple[int, ...] = (0, 2), single: bool = False, **options: Any) -> Decoder:
    fusion = Fusion(kind, latent=SIZE, layers=layers, rank=3, single=single)
    return Decoder(replace(CONFIG, **options), fusion=fusion).eval()


def latents(*batch: int, count: int = 2) -> Tensor:
    return torch.randn(*batch, count, SIZE)


def texts(batch: int, length: int = CONFIG.max_length) -> Tensor:
    return torch.randint(3, CONFIG.vocabulary, (batch, length))


def begun(tokens: Tensor) -> Tensor:
    return F.pad(tokens[:, :-1], (1, 0), value=CONFIG.bos)


# --- the product as mathematics ---------------------------------------------------------------------------------------


def factors(
    *batch: int, rank: int = 3, tokens: int = 4, width: int = 5, answer: int = 6, latent: int = 2
) -> list[Tensor]:
    shapes = [(*batch, tokens, width), (*batch, latent), (rank, answer, width), (rank, answer), (rank, answer, latent)]
    return [torch.randn(*shape, dtype=torch.double) for shape in [*shapes, (rank, answer)]]


def test_the_product_by_brute_force() -> None:
    parts = factors(2)
    values, latent, w, b, u, c = (part.tolist() for part in parts)
    expected = torch.zeros(2, 4, 6, dtype=torch.double)
    for text, token, j, q in product(range(2), range(4), range(3), range(6)):
        one = sum(w[j][q][p] * values[text][token][p] for p in range(5)) + b[j][q]
        other = sum(u[j][q][k] * latent[text][k] for k in range(2)) + c[j][q]
        expected[text, token, q] += one * other
    close(low_rank_product(*parts), expected, atol=1e-12)


def ones_appended(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1), value=1.0)


def tensor(w: Tensor, b: Tensor, u: Tensor, c: Tensor) -> Tensor:
    """The bilinear form of every output as one third-order tensor, ones appended to both sides."""
    return torch.einsum("jqp,jqk->qpk", torch.cat([w, b[..., None]], -1), torch.cat([u, c[..., None]], -1))


def test_the_product_is_a_tensor_of_rank_r_contracted_with_both() -> None:
    values, latent, *weights = parts = factors(2, latent=4)
    full = tensor(*weights)
    expected = torch.einsum("qpk,btp,bk->btq", full, ones_appended(values), ones_appended(latent))
    close(low_rank_product(*parts), expected, atol=1e-12)
    assert torch.linalg.matrix_rank(full).tolist() == [3] * 6


def test_the_published_product_has_rank_1_whatever_r_is() -> None:
    values, latent, *weights = parts = factors(2, latent=4)
    w, b, u, c = weights
    expected = torch.empty(2, 4, 6, dtype=torch.double)
    for text, token in product(range(2), range(4)):
        one = sum(w[j] @ values[text, token] + b[j] for j in range(3))
        other = sum(u[j] @ latent[text] + c[j] for j in range(3))
        expected[text, token] = one * other
    close(collapsed_product(*parts), expected, atol=1e-12)
    full = tensor(*(weight.sum(0, keepdim=True) for weight in weights))
    close(expected, torch.einsum("qpk,btp,bk->btq", full, ones_appended(values), ones_appended(latent)), atol=1e-12)
    assert torch.linalg.matrix_rank(full).tolist() == [1] * 6


def test_true_ranks_and_collapsed_ones_differ_as_soon_as_there_are_two() -> None:
    many, one = factors(2), factors(2, rank=1)
    close(collapsed_product(*one), low_rank_product(*one), atol=1e-12)
    assert (collapsed_product(*many) - low_rank_product(*many)).abs().mean() > 1


@pytest.mark.parametrize("fuse", [low_rank_product, collapsed_product])
def test_leading_dimensions_go_along(fuse: Callable[..., Tensor]) -> None:
    values, latent, *weights = factors(5, 3)
    together = fuse(values, latent, *weights)
    for s, text in product(range(5), range(3)):
        close(together[s, text], fuse(values[s, text], latent[s, text], *weights), atol=1e-12)


@pytest.mark.parametrize("fuse", [low_rank_product, collapsed_product])
def test_gradients(fuse: Callable[..., Tensor]) -> None:
    parts = [part.requires_grad_() for part in factors(2, rank=2, tokens=3, width=2, answer=3)]
    assert torch.autograd.gradcheck(fuse, parts)


def test_film_and_shift_by_hand() -> None:
    film, shift = away(FiLM(6, 3)).double(), away(Shift(6, 3)).double()
    v, z = torch.randn(2, 4, 6, dtype=torch.double), torch.randn(2, 3, dtype=torch.double)
    for text, token in product(range(2), range(4)):
        scale, moved = film.scale.weight @ z[text], film.shift.weight @ z[text]
        close(film(v, z)[text, token], v[text, token] * (1 + scale) + moved, atol=1e-12)
        close(shift(v, z)[text, token], v[text, token] + shift.shift.weight @ z[text], atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_memory_slot_is_one_more_key_and_value(causal: bool, padded: bool) -> None:
    """torch's own multi-head attention takes such a pair as ``bias_k`` and ``bias_v``, one text at a time."""
    layer = SelfAttention(8, 2).double()
    layer.fusion = slot = MemorySlot(8, SIZE).double()
    x, z = torch.randn(3, 5, 8, dtype=torch.double), torch.randn(3, SIZE, dtype=torch.double)
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None] if padded else torch.ones(3, 5, dtype=torch.bool)
    actual = layer(x, mask if padded else None, causal, latent=z)
    future = ~torch.ones(5, 5, dtype=torch.bool).tril() if causal else None
    oracle = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True, dtype=torch.double)
    for i in range(3):
        key, value = slot(z[i])
        state = {"in_proj_weight": layer.qkv.weight, "in_proj_bias": layer.qkv.bias, "bias_k": key[None]}
        state |= {"out_proj.weight": layer.out.weight, "out_proj.bias": layer.out.bias, "bias_v": value[None]}
        oracle.load_state_dict(state)
        row = x[i : i + 1]
        expected = oracle(row, row, row, key_padding_mask=~mask[i : i + 1], attn_mask=future, need_weights=False)[0]
        close(actual[i][mask[i]], expected[0][mask[i]], atol=1e-10)


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ON_VALUES)
def test_values_are_what_they_were_at_the_start(kind: FusionKind) -> None:
    part = layer_fusion(kind, width=16, latent=SIZE, rank=3)
    values = torch.randn(5, 3, 7, 16)
    assert part is not None and torch.equal(part(values, 10 * torch.randn(5, 3, SIZE)), values)
    assert not torch.allclose(away(part)(values, 10 * torch.randn(5, 3, SIZE)), values, atol=0.1)


def stepped(decoder: Decoder, tokens: Tensor, memory: Context | None) -> Tensor:
    cache = decoder.cache(tokens.shape[:1], tokens.shape[1], memory)
    parts = begun(tokens).split([4, 1, 1, tokens.shape[1] - 6], dim=1)
    return torch.cat([decoder.step(part, cache) for part in parts], dim=1)


@EACH
@pytest.mark.parametrize("single", [False, True])
def test_a_decoder_starts_as_if_there_were_no_latents(kind: FusionKind, single: bool) -> None:
    decoder, tokens = build(kind, single=single), texts(3)
    memory = Context(3 * latents(3, count=1 if single else 2))
    for read in (lambda memory: decoder(tokens, memory), lambda memory: stepped(decoder, tokens, memory)):
        without, given = read(None), read(memory)
        if kind == "memory":  # it takes attention from the tokens, however it starts
            assert (given - without).abs().amax(-1).min() > 1e-3
        else:
            close(given, without, atol=1e-6)


@EACH
def test_latents_matter_once_something_is_learned(kind: FusionKind) -> None:
    decoder, tokens, drawn = away(build(kind)), texts(3), latents(3)
    before = decoder(tokens, Context(drawn))
    for number in range(2):
        changed = drawn.clone()
        changed[:, number] += 1
        assert ((decoder(tokens, Context(changed)) - before).abs().amax(-1) > 1e-4).all(), number


def test_every_rank_learns() -> None:
    """U_j is zero at the start and W_j is not; were both, the gradient of either would stay zero."""
    part = LowRankProduct(width=6, latent=3, rank=4)
    values, latent, target = torch.randn(2, 5, 6), torch.randn(2, 3), torch.randn(2, 5, 6)
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        (part(values, latent) - target).square().sum().backward()
        for name, parameter in part.named_parameters():
            moved = parameter.grad.flatten(1).abs().amax(-1) > 0  # type: ignore[union-attr]
            assert moved.all() if step or name.startswith("latent") else moved[0], (name, moved.tolist())
        optimizer.step()


# --- where it enters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("kind", [*ON_VALUES, "memory"])
def test_a_latent_enters_its_own_layer_only(kind: FusionKind, single: bool) -> None:
    decoder, tokens = away(build(kind, layers=(1, 2), single=single)), texts(3)
    assert [block.attention.fusion is not None for block in decoder.blocks] == [False, True, True]
    inputs: dict[int, Tensor] = {}
    for layer, block in enumerate(decoder.blocks):
        block.register_forward_pre_hook(lambda _, args, layer=layer: inputs.update({layer: args[0]}))
    drawn = latents(3, count=1 if single else 2)
    decoder(tokens, Context(drawn))
    before = dict(inputs)
    for number in range(drawn.shape[1]):
        changed = drawn.clone()
        changed[:, number] += 1
        decoder(tokens, Context(changed))
        unmoved = [torch.equal(inputs[layer], before[layer]) for layer in range(3)]
        assert unmoved == [True, True, number == 1]  # the input of a block depends on the latents below it


@pytest.mark.parametrize("kind", ["embedding", "softmax"])
def test_all_latents_are_added_to_embeddings_or_to_the_last_hidden_states(kind: FusionKind) -> None:
    decoder, tokens, drawn = away(build(kind)), texts(3), latents(3)
    plain = Decoder(CONFIG).eval()
    plain.load_state_dict({name: value for name, value in decoder.state_dict().items() if "shift" not in name})
    assert decoder.shift is not None
    moved = decoder.shift.shift.weight @ torch.cat([drawn[:, 0], drawn[:, 1]], -1).mT  # [P, B]
    if kind == "softmax":
        expected = plain(tokens) + moved.mT[:, None]
    else:
        plain.embedding.register_forward_hook(lambda module, args, x: x + moved.mT[:, None])
        expected = plain(tokens)
    close(decoder(tokens, Context(drawn)), expected)


@EACH
def test_particles_and_texts_broadcast(kind: FusionKind) -> None:
    decoder, tokens, drawn = away(build(kind)), texts(3), latents(5, 3)
    together = decoder(tokens, Context(drawn))
    assert together.shape == (5, 3, 10, 16)
    for s, text in product(range(5), range(3)):
        close(together[s, text], decoder(tokens[text : text + 1], Context(drawn[s, text][None]))[0])
    close(decoder(tokens, Context(drawn[0, 0])), decoder(tokens, Context(drawn[0, :1].expand(3, -1, -1))))


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_positions_see_only_the_past(kind: FusionKind, training: bool) -> None:
    decoder, tokens, memory = away(build(kind)).train(training), texts(2), Context(latents(2))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % CONFIG.vocabulary
    moved = (decoder(changed, memory) - decoder(tokens, memory)).abs().amax(-1)
    assert (moved[:, :6] < 1e-6).all() and (moved[:, 6:] > 1e-5).all()


# --- the cache --------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("single", [False, True])
def test_steps_equal_teacher_forcing(kind: FusionKind, single: bool) -> None:
    decoder, tokens = away(build(kind, single=single)), texts(3)
    memory = Context(latents(3, count=1 if single else 2))
    close(stepped(decoder, tokens, memory), decoder(tokens, memory))


@EACH
def test_steps_of_particles_equal_teacher_forcing(kind: FusionKind) -> None:
    decoder, tokens, memory = away(build(kind)), texts(3), Context(latents(2, 3))
    cache = decoder.cache((2, 3), 10, memory)
    actual = torch.cat([decoder.step(part, cache) for part in begun(tokens).repeat(2, 1).split([5, 1, 4], 1)], 1)
    close(actual.unflatten(0, (2, 3)), decoder(tokens, memory))


CONDITIONS = torch.tensor([[5, 6, 7], [8, 0, 0], [0, 0, 0]])


@EACH
def test_left_padded_prompts_with_conditions_equal_each_text_alone(kind: FusionKind) -> None:
    decoder, drawn = away(build(kind, max_condition_length=3)), latents(3)
    lengths, tokens = [6, 2, 4], texts(3)
    rows = []
    for i, length in enumerate(lengths):
        condition = CONDITIONS[i][CONDITIONS[i] > 0]
        rows.append(torch.cat([condition, begun(tokens[i : i + 1])[0, :length]]))
    widest = max(map(len, rows))
    prompt = torch.stack([F.pad(row, (widest - len(row), 0), value=17) for row in rows])
    mask = torch.arange(widest) >= widest - torch.tensor([[len(row)] for row in rows])
    cache = decoder.cache((3,), widest + 2, Context(drawn, CONDITIONS, CONDITIONS > 0))
    hidden = [decoder.step(prompt, cache, mask)[:, -1]]
    for more in range(2):
        following = torch.stack([tokens[i, length - 1 + more] for i, length in enumerate(lengths)])
        hidden.append(decoder.step(following[:, None], cache)[:, -1])
    for i, length in enumerate(lengths):
        condition = CONDITIONS[i][CONDITIONS[i] > 0][None]
        alone = decoder(tokens[i : i + 1], Context(drawn[i : i + 1], condition))[0]
        for more in range(3):
            close(hidden[more][i], alone[length - 1 + more])


@pytest.mark.parametrize("kind", ON_VALUES)
def test_the_cache_holds_fused_values(kind: FusionKind) -> None:
    decoder, tokens, drawn = away(build(kind)), texts(3), latents(3)
    read: dict[int, list[Tensor]] = {layer: [] for layer in range(3)}
    for layer, block in enumerate(decoder.blocks):
        values = lambda module, args, y, layer=layer: read[layer].append(y[..., -CONFIG.width :])  # noqa: E731
        block.attention.qkv.register_forward_hook(values)
    cache = decoder.cache((3,), 10, Context(drawn))
    for part in begun(tokens).split([6, 4], 1):
        decoder.step(part, cache)
    for layer, number in {0: 0, 1: None, 2: 1}.items():
        values = torch.cat(read[layer], 1)
        fusion = decoder.blocks[layer].attention.fusion
        expected = values if number is None else fusion(values, drawn[:, number])
        held = cache.layers[layer].values
        assert held is not None
        close(held.transpose(1, 2).flatten(-2), expected, atol=1e-6)
        assert torch.allclose(expected, values, atol=1e-3) == (number is None)


def test_a_memory_slot_stands_once_before_the_tokens_in_a_cache() -> None:
    decoder, drawn = away(build("memory")), latents(3)
    cache = decoder.cache((3,), 10, Context(drawn))
    for part in begun(texts(3)).split([6, 1, 3], 1):
        decoder.step(part, cache)
    assert [layer.length for layer in cache.layers] == [11, 10, 11]
    key, value = decoder.blocks[2].attention.fusion(drawn[:, 1])
    held = cache.layers[2]
    assert held.keys is not None and held.values is not None
    close(held.keys[:, :, :1].transpose(1, 2).flatten(-2), key, atol=1e-6)
    close(held.values[:, :, :1].transpose(1, 2).flatten(-2), value, atol=1e-6)


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ON_VALUES)
def test_values_keep_their_type_under_autocast(kind: FusionKind) -> None:
    part = layer_fusion(kind, width=16, latent=SIZE)
    assert part is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert part(torch.randn(3, 7, 16).bfloat16(), torch.randn(3, SIZE)).dtype == torch.bfloat16


@EACH
def test_half_precision(kind: FusionKind) -> None:
    """Latents stay single where networks are not, under autocast as in a decoder of half precision itself."""
    decoder, tokens, memory = away(build(kind), 0.05), texts(2), Context(latents(2))
    expected = decoder(tokens, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = decoder(tokens, memory)
    torch.testing.assert_close(hidden.float(), expected, atol=0.15, rtol=0.1)
    decoder.bfloat16()
    hidden = decoder(tokens, memory)
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(hidden.float(), expected, atol=0.15, rtol=0.1)
    torch.testing.assert_close(stepped(decoder, tokens, memory).float(), expected, atol=0.15, rtol=0.1)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRankProduct(4, 2, rank=0), "rank is 0: give a whole number of at least 1"),
        (lambda: Fusion("tucker", latent=4, layers=(0,)), "fusion is 'tucker': choose one of product, collapsed, add,"),
        (lambda: Fusion("add", latent=0, layers=(0,)), "latent is 0: give a whole number of at least 1"),
        (lambda: Fusion("product", latent=4, layers=(0,), rank=0), "rank is 0: give a whole number of at least 1"),
        (lambda: build("add", layers=()), "latents enter layers none, but the decoder has layers 1 to 3"),
        (lambda: build("add", layers=(1, 3)), "latents enter layers 2, 4, but the decoder has layers 1 to 3"),
        (lambda: build("add", layers=(-1, 0)), "latents enter layers 0, 1, but the decoder has layers 1 to 3"),
        (lambda: build("add", layers=(1, 1)), "latents enter layers 2, 2: name each layer once, in ascending order"),
        (
            lambda: build("product", attention="probabilistic"),
            "fusion 'product' changes what softmax attention attends to, and attention is 'probabilistic'",
        ),
        (
            lambda: build("memory", attention="probabilistic"),
            "choose fusion 'embedding' or 'softmax', or attention 'softmax'",
        ),
    ],
)
def test_fusions_that_cannot_be(make: Callable[[], object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["embedding", "softmax"])
def test_probabilistic_attention_goes_with_latents_outside_of_it(kind: FusionKind) -> None:
    decoder, tokens, memory = away(build(kind, attention="probabilistic")), texts(3), Context(latents(3))
    close(stepped(decoder, tokens, memory), decoder(tokens, memory))


@pytest.mark.parametrize(
    ("make", "memory", "message"),
    [
        (lambda: build("add"), {"latents": latents(3, count=3)}, "last dimensions must be 2 latents of size 4"),
        (lambda: build("add"), {"latents": latents(3, count=1)}, r"the latents have shape \(3, 1, 4\)"),
        (lambda: build("embedding"), {"latents": torch.zeros(3, 2, 5)}, r"the latents have shape \(3, 2, 5\)"),
        (lambda: build("film", single=True), {"latents": latents(3)}, "last dimensions must be 1 latents of size 4"),
        (
            lambda: Decoder(CONFIG),
            {"latents": latents(3)},
            "this decoder takes no latents: build it with a fusion to give it some",
        ),
        (
            lambda: Decoder(CONFIG),
            {"condition_tokens": CONDITIONS},
            "a condition of 3 tokens does not fit max_condition_length = 0",
        ),
        (
            lambda: build("add", max_condition_length=2),
            {"latents": latents(3), "condition_tokens": CONDITIONS},
            "a condition of 3 tokens does not fit max_condition_length = 2: shorten it, or build the decoder with",
        ),
    ],
)
def test_memories_that_do_not_fit(make: Callable[[], Decoder], memory: dict[str, Tensor], message: str) -> None:
    decoder = make()
    with pytest.raises(ValueError, match=message):
        decoder(texts(3), Context(**memory))
    with pytest.raises(ValueError, match=message):
        decoder.cache((3,), 10, Context(**memory))


def test_a_layer_without_a_fusion_refuses_a_latent() -> None:
    with pytest.raises(ValueError, match="this layer takes no latent: give the decoder a fusion, or no latents"):
        Block(CONFIG)(torch.randn(3, 5, 16), latent=torch.randn(3, SIZE))


# --- compilation ------------------------------------------------------------------------------------------------------


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("kind", ["product", "memory"])
def test_compiled_blocks_with_latents_equal_eager(kind: FusionKind) -> None:
    decoder, (tokens, drawn) = away(build(kind, max_condition_length=3)), (texts(3), latents(3))
    cases = [(tokens[:, :length], Context(drawn, *given)) for length in (7, 9) for given in [(), (CONDITIONS,)]]

    def run() -> list[Tensor]:
        results = []
        for text, memory in cases:
            hidden = decoder(text, memory)
            results += [hidden, *torch.autograd.grad(hidden.square().mean(), list(decoder.parameters()))]
        return results

    eager = run()
    compile_blocks(decoder, backend="eager")
    for actual, expected in zip(run(), eager, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    close(stepped(decoder, tokens, Context(drawn)), decoder(tokens, Context(drawn)), atol=1e-4)
