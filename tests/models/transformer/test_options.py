"""Norms, positions, grouped heads and adapters: torch and transformers as oracles, then what must not matter."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyroformer as pf
from pyroformer.models.attention.kv_cache import KeyValueCache
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import PAD
from pyroformer.models.transformer.blocks import MLP, Block, compile_blocks, norm_layer
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.fusion import Fusion
from pyroformer.models.transformer.layer_encoder import LayerEncoder
from pyroformer.models.transformer.linear import AdaptedLinear
from pyroformer.models.transformer.memory import Context
from pyroformer.models.transformer.rotary import rotary_rates, rotate, rotation
from pyroformer.models.transformer.self_attention import SelfAttention
from pyroformer.models.transformer.stacks import Decoder, Encoder
from pyroformer.models.transformer.text_distribution import AutoregressiveText

CONFIG = TransformerConfig(vocabulary=40, max_length=12, width=32, layers=2, heads=4, positions="rotary", init_std=0.2)
LLAMA: dict[str, Any] = {"norm": "rms", "activation": "swiglu", "key_value_heads": 2, "bias": False}
STYLES = {
    "rotary": CONFIG,
    "llama": replace(CONFIG, **LLAMA, tied=False),
    "qwen2": replace(CONFIG, **LLAMA, qkv_bias=True),
    "qwen3": replace(CONFIG, **LLAMA, query_key_norm=True, head_size=12),
    "one head of keys": replace(CONFIG, key_value_heads=1, positions="learned"),
    "llama3 scaling": replace(CONFIG, rotary_scaling="llama3", rotary_factor=4.0, rotary_length=40, norm="rms"),
    "adapters": replace(CONFIG, **LLAMA, adapter_rank=2),
}
KINDS = ("product", "collapsed", "add", "film", "memory", "embedding", "softmax")


@pytest.fixture(params=["llama", "qwen3"])
def grouped(request: pytest.FixtureRequest) -> TransformerConfig:
    return STYLES[request.param]


@pytest.fixture(params=STYLES)
def config(request: pytest.FixtureRequest) -> TransformerConfig:
    return STYLES[request.param]


def tokens_like(batch: int, length: int) -> Tensor:
    return torch.randint(3, CONFIG.vocabulary, (batch, length))


def unequal(module: nn.Module) -> Any:
    """The module with every parameter moved, so that none is at a start that hides it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


# against torch and transformers


def test_rms_norm_is_that_of_its_formula() -> None:
    norm = unequal(norm_layer(replace(CONFIG, norm="rms", norm_eps=0.5)))
    x = torch.randn(3, 32)
    expected = norm.weight * x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt()
    torch.testing.assert_close(norm(x), expected)
    assert not isinstance(norm, nn.LayerNorm)


@pytest.mark.parametrize("scaling", ["none", "linear", "llama3"])
def test_rates_and_rotation_are_those_of_transformers(scaling: Any) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama", reason="it is the oracle")
    config = replace(
        CONFIG, width=128, heads=2, rotary_base=5e5, rotary_scaling=scaling, rotary_factor=8.0, rotary_length=64
    )
    names = {"none": "default"}
    theirs = llama.LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=512,
        rope_parameters={
            "rope_type": names.get(scaling, scaling),
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    oracle = llama.LlamaRotaryEmbedding(theirs)
    torch.testing.assert_close(rotary_rates(config), oracle.inv_freq, rtol=1e-6, atol=0)
    assert scaling == "none" or not torch.allclose(
        rotary_rates(config), rotary_rates(replace(config, rotary_scaling="none"))
    )
    queries, keys = torch.randn(2, 3, 2, 7, 64)
    position = torch.randint(500, (3, 7))
    expected = llama.apply_rotary_pos_emb(queries, keys, *oracle(queries, position))
    ours = [rotate(x, rotation(position, config)) for x in (queries, keys)]
    torch.testing.assert_close(ours, list(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads_are_repeated_heads(groups: int, causal: bool) -> None:
    layer = SelfAttention(32, 4, key_value_heads=groups).double()
    full = SelfAttention(32, 4).double()
    q, k, v = layer.qkv.weight.split([32, 8 * groups, 8 * groups])
    repeated = [w.unflatten(0, (groups, 8)).repeat_interleave(4 // groups, 0).flatten(0, 1) for w in (k, v)]
    bq, bk, bv = layer.qkv.bias.split([32, 8 * groups, 8 * groups])
    biases = [b.unflatten(0, (groups, 8)).repeat_interleave(4 // groups, 0).flatten(0, 1) for b in (bk, bv)]
    full.load_state_dict(
        {"qkv.weight": torch.cat([q, *repeated]), "qkv.bias": torch.cat([bq, *biases])}
        | {name: value for name, value in layer.state_dict().items() if name.startswith("out")}
    )
    x, mask = torch.randn(3, 6, 32, dtype=torch.double), torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    for given in (None, mask):
        torch.testing.assert_close(layer(x, given, causal), full(x, given, causal), atol=1e-12, rtol=0)


def test_a_layer_is_llamas_attention() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama", reason="it is the oracle")
    options = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    theirs = llama.LlamaAttention(llama.LlamaConfig(**options, attn_implementation="eager"), layer_idx=0).double()
    ours = SelfAttention(32, 4, bias=False, key_value_heads=2).double()
    parts = [getattr(theirs, f"{part}_proj").weight for part in "qkv"]
    ours.load_state_dict({"qkv.weight": torch.cat(parts), "out.weight": theirs.o_proj.weight})
    x, position = torch.randn(3, 7, 32, dtype=torch.double), torch.arange(7)[None]
    angles = llama.LlamaRotaryEmbedding(theirs.config)(x, position)
    future = torch.full((7, 7), -math.inf, dtype=torch.double).triu(1)[None, None]
    expected = theirs(x, angles, future)[0]
    actual = ours(x, causal=True, rotation=rotation(torch.arange(7), CONFIG))
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_query_and_key_norms_are_those_of_qwen3() -> None:
    qwen = pytest.importorskip("transformers.models.qwen3.modeling_qwen3", reason="it is the oracle")
    options = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "rms_norm_eps": 0.1,
    }
    theirs = unequal(qwen.Qwen3Attention(qwen.Qwen3Config(**options, attn_implementation="eager"), layer_idx=0))
    ours = SelfAttention(32, 4, bias=False, key_value_heads=2, head_size=12, norm_eps=0.1)
    parts = [getattr(theirs, f"{part}_proj").weight for part in "qkv"]
    norms = {"query_norm.weight": theirs.q_norm.weight, "key_norm.weight": theirs.k_norm.weight}
    ours.load_state_dict({"qkv.weight": torch.cat(parts), "out.weight": theirs.o_proj.weight, **norms})
    x = torch.randn(3, 7, 32)
    still = torch.ones(1, 7, 12), torch.zeros(1, 7, 12)
    future = torch.full((7, 7), -math.inf).triu(1)[None, None]
    torch.testing.assert_close(ours(x, causal=True), theirs(x, still, future)[0], atol=1e-5, rtol=0)


def test_swiglu_is_llamas_feed_forward_layer() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama", reason="it is the oracle")
    ours = MLP(replace(CONFIG, **LLAMA))
    theirs = llama.LlamaMLP(llama.LlamaConfig(hidden_size=32, intermediate_size=88))
    theirs.load_state_dict(
        {f"{name.partition('.')[0]}_proj.weight": value for name, value in ours.state_dict().items()}
    )
    x = torch.randn(3, 32)
    torch.testing.assert_close(ours(x), theirs(x))


def test_swiglu_has_about_as_many_weights() -> None:
    count = {
        name: sum(p.numel() for p in MLP(replace(CONFIG, width=384, activation=name, bias=False)).parameters())
        for name in ("gelu", "swiglu")
    }
    assert count["swiglu"] == count["gelu"]


def test_an_adapter_is_a_matrix_of_its_rank() -> None:
    layer, x = unequal(AdaptedLinear(8, 6, bias=True, rank=2)), torch.randn(5, 8)
    merged = layer.weight + layer.adapter_up @ layer.adapter_down
    torch.testing.assert_close(layer(x), F.linear(x, merged, layer.bias))
    decoder, plain = Decoder(STYLES["adapters"]), Decoder(replace(STYLES["adapters"], adapter_rank=0))
    plain.load_state_dict({name: value for name, value in decoder.state_dict().items() if "adapter" not in name})
    tokens = tokens_like(2, 6)
    assert torch.equal(decoder.eval()(tokens), plain.eval()(tokens))  # at the start


# what must not matter


def test_hidden_states_depend_on_distances_only() -> None:
    block = unequal(Block(replace(CONFIG, **LLAMA))).double()
    x = torch.randn(2, 6, 32, dtype=torch.double)
    at = [block(x, causal=True, rotation=rotation(torch.arange(6) + start, CONFIG)) for start in (0, 100)]
    torch.testing.assert_close(at[0], at[1], atol=1e-4, rtol=0)
    spread = block(x, causal=True, rotation=rotation(2 * torch.arange(6), CONFIG))
    assert (spread - at[0]).abs().max() > 1e-2


@pytest.mark.parametrize("cross", [False, True])
def test_steps_equal_teacher_forcing(config: TransformerConfig, cross: bool) -> None:
    decoder = unequal(Decoder(config, cross_attention=cross))
    tokens, memory = tokens_like(3, 8), Mixture(torch.randn(3, 5), torch.randn(3, 5, 32)) if cross else None
    expected = decoder(tokens, memory)
    before = F.pad(tokens[:, :-1], (1, 0), value=config.bos)
    cache = decoder.cache([3], 8, memory)
    parts = [decoder.step(before[:, start:end], cache) for start, end in ((0, 3), (3, 4), (4, 8))]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=0)


def test_prompts_of_unequal_length_continue_as_each_alone(config: TransformerConfig) -> None:
    decoder = unequal(Decoder(config))
    prompts = torch.tensor([[5, 6, 7, 8], [9, PAD, PAD, PAD], [11, 12, PAD, PAD]])
    greedy: Callable[[Tensor], Tensor] = lambda logits: logits[:, 3:].argmax(-1) + 3  # noqa: E731
    together = AutoregressiveText(decoder).decode(greedy, (3,), prompt=prompts)
    for row, length in enumerate((4, 1, 2)):
        alone = AutoregressiveText(decoder).decode(greedy, (1,), prompt=prompts[row : row + 1, :length])
        assert torch.equal(together[row], alone[0])


def test_padding_changes_nothing_on_either_side(config: TransformerConfig) -> None:
    encoder = unequal(Encoder(config))
    tokens = tokens_like(3, 9)
    mask = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    right = encoder(torch.where(mask, tokens, 7), mask)
    for row, length in enumerate((9, 4, 1)):
        alone = encoder(tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(right[row, :length], alone, atol=1e-5, rtol=0)
        if config.positions == "rotary":  # which are distances
            left = encoder(torch.where(mask, tokens, 7).roll(9 - length, 1), mask.roll(9 - length, 1))
            torch.testing.assert_close(left[row, 9 - length :], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_enter_steps_as_they_enter_whole_texts(grouped: TransformerConfig, kind: Any) -> None:
    """With a prompt padded on the left and a condition before the text."""
    config = replace(grouped, max_condition_length=3)
    decoder = unequal(Decoder(config, fusion=Fusion(kind, latent=4, layers=(0, 1), rank=2)))
    tokens, latents = tokens_like(2, 7), torch.randn(2, 2, 4)
    condition, present = tokens_like(2, 3), torch.tensor([[True, True, True], [True, False, False]])
    memory = Context(latents, condition, present)
    expected = decoder(tokens, memory)
    rows = [
        torch.cat([c[m], torch.tensor([config.bos]), t[:-1]])
        for c, m, t in zip(condition, present, tokens, strict=True)
    ]
    padded = torch.stack([F.pad(row, (10 - len(row), 0), value=7) for row in rows])
    mask = torch.stack([torch.arange(10) >= 10 - len(row) for row in rows])
    cache = decoder.cache([2], 10, memory)
    first = decoder.step(padded[:, :5], cache, mask[:, :5])
    steps = torch.cat([first, *[decoder.step(padded[:, i : i + 1], cache) for i in range(5, 10)]], 1)
    torch.testing.assert_close(steps[:, 3:], expected, atol=1e-5, rtol=0)
    other = decoder(tokens, Context(latents + 1, condition, present))
    assert (other - expected).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("kind", ["product", "collapsed", "add", "film"])
def test_fusion_changes_the_values_of_grouped_heads(kind: Any) -> None:
    """A grouped layer with fused values is the layer of repeated heads with those values repeated."""
    fusion = Fusion(kind, latent=4, layers=(0,), rank=2)
    block = unequal(Decoder(STYLES["llama"], fusion=fusion)).blocks[0].attention
    x, latent = torch.randn(3, 6, 32), torch.randn(3, 4)
    q, k, v = block.qkv(x).split(block.sizes, -1)
    v = block.fusion(v, latent)
    assert v.shape == (3, 6, 16)
    heads = [y.unflatten(-1, (-1, 8)).transpose(1, 2) for y in (q, k, v)]
    keys, values = (y.repeat_interleave(2, 1) for y in heads[1:])
    expected = F.scaled_dot_product_attention(heads[0], keys, values).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(block(x, latent=latent), block.out(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "memory"])
def test_a_decoder_with_latents_starts_as_the_language_model(grouped: TransformerConfig, kind: Any) -> None:
    plain = Decoder(grouped).eval()
    decoder = Decoder(grouped, fusion=Fusion(kind, latent=4, layers=(0, 1))).eval()
    decoder.load_state_dict(plain.state_dict(), strict=False)
    tokens = tokens_like(2, 7)
    torch.testing.assert_close(decoder(tokens, Context(torch.randn(2, 2, 4))), plain(tokens), atol=1e-5, rtol=0)


def test_an_encoder_shares_the_blocks_of_a_decoder(config: TransformerConfig) -> None:
    decoder = unequal(Decoder(config))
    encoder, tokens = LayerEncoder(decoder, layers=(0, 1)), tokens_like(2, 6)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    together = encoder(tokens, mask)
    alone = encoder(tokens[1:, :3], mask[1:, :3])
    for layer, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(layer[1:], expected, atol=1e-5, rtol=0)
    moved = encoder(tokens, mask, torch.arange(6).expand(2, 6) + 3)[1]
    if config.positions == "rotary":
        torch.testing.assert_close(moved, together[1], atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter(config: TransformerConfig) -> None:
    decoder = unequal(Decoder(config))
    F.linear(decoder(tokens_like(3, 12)), *decoder.readout).logsumexp(-1).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_no_rotation_rates(dtype: torch.dtype) -> None:
    decoder = Decoder(replace(STYLES["qwen3"], max_length=400)).eval()
    tokens = tokens_like(1, 400)
    exact, rounded = decoder(tokens), decoder.to(dtype)(tokens).float()
    assert rounded.isfinite().all()
    assert (exact - rounded).square().mean() < 1e-2 * exact.square().mean()


def test_autocast_agrees(config: TransformerConfig) -> None:
    decoder, tokens = Decoder(config).eval(), tokens_like(2, 8)
    exact = decoder(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = decoder(tokens)
    assert (exact - rounded).square().mean() < 1e-2 * exact.square().mean()


@pytest.mark.compile
def test_blocks_compile_without_graph_breaks() -> None:
    decoder = unequal(
        Decoder(replace(STYLES["qwen3"], qkv_bias=True), fusion=Fusion("product", latent=4, layers=(0, 1), rank=2))
    )
    memory, tokens = Context(torch.randn(2, 2, 4)), tokens_like(2, 8)
    expected = decoder(tokens, memory)
    compile_blocks(decoder, backend="eager")
    torch.testing.assert_close(decoder(tokens, memory), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(decoder(tokens[:, :5], memory), expected[:, :5], atol=1e-5, rtol=0)


def test_a_cache_holds_the_heads_of_keys_only() -> None:
    cache = KeyValueCache(8)
    SelfAttention(32, 4, key_value_heads=1)(torch.randn(2, 3, 32), causal=True, cache=cache)
    assert cache.keys is not None and cache.keys.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"positions": "learned", "rotary_base": 5.0},
            r"rotary_base is 5\.0, .* positions rotary, and positions is learned",
        ),
        (
            {"rotary_factor": 2.0},
            "rotary_factor is 2.0, .* rotary_scaling linear or llama3, and rotary_scaling is none",
        ),
        ({"rotary_scaling": "linear"}, "rotary_scaling is linear, and its rotary_factor is 1, which scales nothing"),
        (
            {"rotary_scaling": "linear", "rotary_factor": 2.0, "rotary_low": 2.0},
            "rotary_low is 2.0, .* only with .* llama3",
        ),
        (
            {"attention": "probabilistic", "key_pseudo_counts": 2.0},
            "key_pseudo_counts is 2.0, .* key_steps above 0, and",
        ),
        (
            {"attention": "probabilistic", "key_tolerance": 0.1},
            "key_tolerance is 0.1, .* key_steps above 0, and key_ste",
        ),
    ],
)
def test_options_without_effect_are_refused_of_new_models_alone(options: dict[str, Any], message: str) -> None:
    corpus = pf.Corpus.from_texts([f"text {n}" for n in range(40)], vocabulary=270, max_length=12)
    with pytest.raises(ValueError, match=message):
        pf.LanguageModel.for_corpus(corpus, width=16, layers=1, heads=2, **options)
    positions = {"positions": "learned"} if "attention" in options else {}
    pf.LanguageModel(TransformerConfig(vocabulary=20, max_length=8, **{"positions": "rotary"} | positions | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_value_heads": 3}, "key_value_heads is 3, which does not divide heads = 4: choose a divisor"),
        ({"key_value_heads": 0}, "key_value_heads is 0: give a whole number of at least 1"),
        ({"head_size": 7}, "a head has 7 dimensions, and rotary positions need an even number"),
        ({"rotary_base": 0.0}, r"rotary_base is 0\.0: give a positive, finite number"),
        ({"rotary_factor": -1.0}, r"rotary_factor is -1\.0: give a positive, finite number"),
        ({"init_std": float("nan")}, "init_std is nan: give a positive, finite number"),
        ({"norm_eps": float("inf")}, "norm_eps is inf: give a positive, finite number"),
        (
            {"rotary_scaling": "llama3", "rotary_low": 4.0},
            r"rotary_low is 4\.0 and rotary_high 4\.0: give a larger second",
        ),
        ({"positions": "learned", "rotary_scaling": "linear"}, "rotary_scaling is linear, but positions are learned"),
        ({"adapter_rank": -1}, "adapter_rank is -1: give a whole number of at least 0"),
        (
            {"attention": "probabilistic"},
            "positions is rotary, which only softmax attention has, and attention is prob",
        ),
        (
            {"attention": "probabilistic", "positions": "learned", "key_value_heads": 2},
            "key_value_heads is 2, which only softmax attention has, .*: leave it out, or choose attention softmax",
        ),
        (
            {"attention": "probabilistic", "positions": "learned", "key_steps": 2, "dropout": 0.1},
            "key_steps is 2 and dropout is 0.1, but keys that adapt need dropout 0: leave one of them out",
        ),
    ],
)
def test_options_that_do_not_go(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        replace(CONFIG, **options)
    assert "\n" not in str(caught.value)
