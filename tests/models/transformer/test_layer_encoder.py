"""Pooled hidden states of each layer: padding is masked, attention is bidirectional and without latents."""

import math
from itertools import product
from typing import Any, get_args

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.fusion import Fusion, FusionKind
from pyroformer.models.transformer.layer_encoder import LayerEncoder, Pool, PoolKind
from pyroformer.models.transformer.stacks import Decoder

CONFIG = TransformerConfig(vocabulary=30, max_length=10, width=16, layers=3, heads=2, positions="learned", init_std=0.3)
KINDS = get_args(PoolKind)
LENGTHS = torch.tensor([7, 3, 1])
MASK = torch.arange(7) < LENGTHS[:, None]


def away(module: nn.Module, scale: float = 0.3) -> Any:
    """The module, somewhere else than where it starts."""
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return module


def decoder(kind: FusionKind = "product", config: TransformerConfig = CONFIG) -> Decoder:
    return away(Decoder(config, fusion=Fusion(kind, latent=4, layers=(0, 1, 2), rank=2))).eval()


def encoder(
    layers: tuple[int, ...] = (0, 1, 2), shared: bool = True, pool: PoolKind = "attention", causal: bool = False
) -> LayerEncoder:
    made = LayerEncoder(decoder(), layers, shared, pool, causal).eval()
    away(made.pools)
    return made


def tokens(*shape: int) -> Tensor:
    return torch.randint(3, CONFIG.vocabulary, shape or (3, 7))


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


# --- pooling ----------------------------------------------------------------------------------------------------------


def test_attention_by_hand() -> None:
    pool, states = away(Pool(6)).double(), torch.randn(3, 7, 6, dtype=torch.double)
    actual = pool(states, MASK)
    for text in range(3):
        present = states[text, : LENGTHS[text]]
        weights = [math.exp((pool.weight @ state).item()) for state in present]
        expected = sum(weight * state for weight, state in zip(weights, present, strict=True)) / sum(weights)
        close(actual[text], expected, atol=1e-12)
    assert (actual[0] - states[0].mean(0)).abs().max() > 0.01


def test_attention_starts_as_the_mean() -> None:
    states = torch.randn(3, 7, 6)
    mean = torch.stack([states[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    close(Pool(6, "mean")(states, MASK), mean, atol=1e-6)
    close(Pool(6, "attention")(states, MASK), mean, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", [1e4, math.inf, math.nan])
def test_padding_changes_nothing(kind: PoolKind, junk: float) -> None:
    """Neither vectors nor gradients, whatever stands there."""
    pool, states = away(Pool(6, kind)), torch.randn(3, 7, 6)
    results = []
    for rows in (states, states.masked_fill(~MASK[..., None], junk)):
        rows.requires_grad_()
        vectors = pool(rows, MASK)
        gradients = torch.autograd.grad(vectors.square().sum(), [rows, *pool.parameters()])
        results.append([vectors, *gradients])
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)
    for text, length in enumerate(LENGTHS):
        close(results[0][0][text], pool(states[text, :length], MASK[text, :length]), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_tokens_changes_nothing_but_which_is_the_first_or_last(kind: PoolKind) -> None:
    pool, states = away(Pool(6, kind)), torch.randn(2, 7, 6)
    everywhere = torch.ones(2, 7, dtype=torch.bool)
    vectors = pool(states, everywhere)
    rest = torch.cat([states[:, :1], states[:, 1:-1].flip(1), states[:, -1:]], 1)
    close(pool(rest, everywhere), vectors, atol=1e-6)
    if kind in ("first", "last"):
        assert torch.equal(vectors, states[:, 0 if kind == "first" else -1])
    else:
        close(pool(states.flip(1), everywhere), vectors, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_any_leading_dimensions(kind: PoolKind) -> None:
    pool, states, mask = away(Pool(6, kind)), torch.randn(5, 3, 7, 6), MASK.expand(5, 3, 7)
    together = pool(states, mask)
    for s, text in product(range(5), range(3)):
        close(together[s, text], pool(states[s, text], mask[s, text]), atol=1e-6)


def test_only_attention_has_weights() -> None:
    assert [len(list(Pool(6, kind).parameters())) for kind in KINDS] == [1, 0, 0, 0]


def test_unknown_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match="pool is 'max': choose one of attention, mean, first, last"):
        Pool(6, "max")  # type: ignore[arg-type]


# --- the stack --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_shared_and_own_blocks(shared: bool) -> None:
    whole = decoder()
    read = LayerEncoder(whole, (0, 1, 2), shared)
    theirs = {id(parameter) for parameter in whole.parameters()}
    assert read.embedding is whole.embedding
    for name, parameter in read.named_parameters():
        assert (id(parameter) in theirs) == (name.startswith("embedding") or (shared and "blocks" in name)), name
    assert {id(parameter) for parameter in read.blocks.parameters()} <= theirs or not shared


def test_separate_blocks_start_as_those_of_a_decoder() -> None:
    whole = Decoder(TransformerConfig(vocabulary=30, max_length=4, width=128, layers=4, heads=2, init_std=0.02))
    read = LayerEncoder(whole, (0, 1, 2, 3), shared=False)
    assert read.blocks.state_dict().keys() == whole.blocks.state_dict().keys()
    for name, parameter in read.blocks.named_parameters():
        start = whole.blocks.get_parameter(name)
        assert abs(parameter.std() - start.std()) < 0.1 * start.std() + 1e-8, name
        assert not parameter.std() or not torch.equal(parameter, start), name


def test_only_blocks_up_to_the_highest_layer_are_used() -> None:
    assert len(encoder((0,)).blocks) == 1 and len(encoder((1,), shared=False).blocks) == 2


def test_the_last_state_of_a_causal_encoder_is_the_decoder_s_own() -> None:
    """Which has read the whole text; the readout is a norm with weights of those states."""
    whole = away(Decoder(CONFIG)).eval()
    read = LayerEncoder(whole, (2,), pool="last", causal=True).eval()
    ids = tokens()
    states = whole.step(ids, whole.cache([len(ids)], capacity=ids.shape[1]))
    for text, length in enumerate(LENGTHS):
        expected = states[text, length - 1]
        close(whole.norm(read(ids, MASK)[0])[text], expected, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("layers", [(0, 1, 2), (2,), (0, 2)])
def test_vectors_by_hand(shared: bool, layers: tuple[int, ...], causal: bool) -> None:
    """Blocks, one text at a time; states normalized; then a mean over the tokens."""
    read, ids = encoder(layers, shared, "mean", causal), tokens()
    vectors = read(ids, MASK)
    assert len(vectors) == len(layers)
    for text, length in enumerate(LENGTHS):
        x, expected = read.embedding(ids[text : text + 1, :length]), []
        for block in read.blocks:
            x = block(x, causal=causal)
            expected.append(((x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)).mean(1)[0])
        for vector, layer in zip(vectors, layers, strict=True):
            close(vector[text], expected[layer], atol=1e-4)


@pytest.mark.parametrize("pool", KINDS)
def test_states_are_normalized_before_they_are_pooled(pool: PoolKind) -> None:
    read, ids = encoder(pool=pool), tokens()
    seen: list[Tensor] = []
    for each in read.pools:
        each.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    vectors = read(ids, MASK)
    for states in seen:
        close(states.mean(-1), torch.zeros(3, 7))
        close(states.var(-1, correction=0), torch.ones(3, 7), atol=1e-3)
    read.embedding.tokens.weight.data.mul_(100)  # the residual stream grows, and what is pooled does not
    assert all(vector.square().mean(-1).max() < 1.01 for vector in [*vectors, *read(ids, MASK)])


@pytest.mark.parametrize("pool", KINDS)
@pytest.mark.parametrize("junk", [0, 17])
def test_padding_and_other_texts_change_nothing(pool: PoolKind, junk: int) -> None:
    read, ids = encoder(pool=pool), tokens()
    vectors = read(ids, MASK)
    wide = F.pad(torch.where(MASK, ids, junk), (0, 3), value=junk)
    for actual, expected in zip(read(wide, F.pad(MASK, (0, 3))), vectors, strict=True):
        close(actual, expected)
    for text, length in enumerate(LENGTHS):
        alone = read(ids[text : text + 1, :length], MASK[text : text + 1, :length])
        for layer in range(3):
            close(alone[layer][0], vectors[layer][text])


@pytest.mark.parametrize("pool", KINDS)
def test_every_layer_sees_the_whole_text(pool: PoolKind) -> None:
    """Even where the first token alone is read off: a later one changes it, as there is no causal mask."""
    read, ids = encoder(pool=pool), tokens(2, 7)
    everywhere = torch.ones(2, 7, dtype=torch.bool)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % CONFIG.vocabulary
    for before, after in zip(read(ids, everywhere), read(changed, everywhere), strict=True):
        assert ((after - before).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("kind", get_args(FusionKind))
def test_no_latent_enters(kind: FusionKind) -> None:
    """What a fusion has learned is not for the encoder, which has the same blocks."""
    whole, ids = decoder(kind), tokens()
    read = LayerEncoder(whole, (0, 1, 2))
    before = read(ids, MASK)
    learned = [part for name, part in whole.named_parameters() if "fusion" in name or "shift" in name]
    assert learned
    for parameter in learned:
        parameter.data.add_(10.0)
    for actual, expected in zip(read(ids, MASK), before, strict=True):
        assert torch.equal(actual, expected)


def test_no_word_is_dropped_in_training() -> None:
    config = TransformerConfig(vocabulary=30, max_length=10, width=16, word_dropout=0.9)
    read = LayerEncoder(Decoder(config), (0, 1)).train()
    ids = tokens()
    seen: list[Tensor] = []
    read.embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    read(ids, MASK)
    assert torch.equal(seen[0], ids)
