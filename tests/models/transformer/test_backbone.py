"""A backbone gives a decoder all its weights; parameters that it lacks stay unchanged."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE
from pyroformer.models.transformer.backbone import Backbone
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder

CONFIG = TransformerConfig(vocabulary=40, max_length=16, width=16, layers=2, heads=2, positions="learned", init_std=0.3)


@pytest.fixture
def trained() -> Decoder:
    return Decoder(CONFIG).eval()


@pytest.fixture
def backbone(trained: Decoder) -> Backbone:
    return Backbone("old", CONFIG, trained.state_dict())


@pytest.mark.parametrize(
    "change",
    [{}, {"tied": False}, {"bias": False, "tied": False}, {"positions": "sinusoidal"}, {"hidden": 24, "layers": 1}],
    ids=str,
)
def test_it_holds_all_parameters_of_a_decoder(change: dict[str, Any]) -> None:
    config = replace(CONFIG, **change)
    backbone = Backbone("old", config, dict(Decoder(config).named_parameters()))
    decoder = Decoder(config)
    assert backbone.load_into(decoder) == []
    assert all(torch.equal(value, backbone.weights[name]) for name, value in decoder.named_parameters())


def test_a_decoder_of_its_sizes_computes_the_same(trained: Decoder, backbone: Backbone) -> None:
    decoder = Decoder(TransformerConfig(vocabulary=40, max_length=9, **backbone.sizes)).eval()
    assert backbone.load_into(decoder) == []
    tokens = torch.randint(3, 40, (3, 9))
    torch.testing.assert_close(decoder(tokens), trained(tokens))
    assert torch.equal(decoder.embedding.positions, trained.embedding.positions[:9])


@pytest.mark.parametrize("tied", [True, False])
def test_labels_and_a_condition_have_places_of_their_own(tied: bool) -> None:
    config = replace(CONFIG, tied=tied)
    trained = Decoder(config).eval()
    decoder = Decoder(replace(config, vocabulary=43, max_length=10, max_condition_length=6)).eval()
    before = decoder.embedding.tokens.weight[40:].clone()
    assert Backbone("old", config, trained.state_dict()).load_into(decoder, labels=3) == []
    assert torch.equal(decoder.embedding.tokens.weight[40:], before)
    tokens = torch.randint(3, 40, (3, 9))
    torch.testing.assert_close(decoder(tokens), trained(tokens))
    assert decoder.head is None or torch.equal(decoder.head.weight[:40], trained.head.weight)


def test_probabilistic_attention_starts_as_the_softmax_attention_of_the_backbone(
    trained: Decoder, backbone: Backbone
) -> None:
    model = LanguageModel(replace(CONFIG, attention="probabilistic", key_precision="diagonal")).eval()
    assert all(".attention." in name for name in backbone.load_into(model))
    tokens = torch.randint(3, 40, (3, 9))
    torch.testing.assert_close(model.decoder(tokens), trained(tokens), atol=1e-5, rtol=0)


def test_parameters_that_the_backbone_lacks_keep_their_values(backbone: Backbone) -> None:
    model = NVAE(CONFIG)
    before = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    kept = backbone.load_into(model)
    assert kept and all(".cross" in name for name in kept)
    after = model.decoder.state_dict()
    assert {name for name in after if torch.equal(after[name], before[name])} >= set(kept)
    assert all(torch.equal(after[name], value) for name, value in backbone.weights.items())


def test_parameters_that_a_block_adds_keep_their_values(backbone: Backbone) -> None:
    decoder = Decoder(CONFIG)
    for block in decoder.blocks:
        block.attention.fusion = nn.Linear(4, 16)
    before = decoder.blocks[1].attention.fusion.weight.clone()
    assert backbone.load_into(decoder) == [
        f"blocks.{i}.attention.fusion.{part}" for i in (0, 1) for part in ("weight", "bias")
    ]
    assert torch.equal(decoder.blocks[1].attention.fusion.weight, before)


def test_loading_copies(trained: Decoder, backbone: Backbone) -> None:
    decoder = Decoder(CONFIG)
    backbone.load_into(decoder)
    nn.init.zeros_(decoder.norm.weight)
    assert trained.norm.weight.eq(1).all()


def test_dropout_is_free(backbone: Backbone) -> None:
    assert backbone.load_into(Decoder(replace(CONFIG, dropout=0.5))) == []
    backbone.check(dropout=0.5, width=16, max_length=16, attention="probabilistic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 32}, "width is 32, but old has 16: leave it out"),
        ({"hidden": 17}, "hidden is 17, but old has 64: leave it out"),
        ({"activation": "relu"}, "activation is relu, but old has gelu_tanh: leave it out"),
        ({"norm_eps": 1e-3}, r"norm_eps is 0\.001, but old has 1e-05: leave it out"),
        ({"positions": "sinusoidal"}, "positions is sinusoidal, but old has learned: leave it out"),
        ({"tied": False}, "tied is False, but old has True: leave it out"),
        ({"max_length": 17}, "a max_length of 17 exceeds the 16 positions of old: give at most 16"),
        (
            {"max_length": 12, "max_condition_length": 12},
            "a max_condition_length of 12 and a max_length of 12 exceed the 16 positions of old: give .* for both",
        ),
        ({"vocabulary": 41}, "vocabulary is 41, but old has 40: read the texts with its tokenizer"),
    ],
)
def test_a_decoder_that_computes_something_else(backbone: Backbone, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone.load_into(Decoder(replace(CONFIG, **change)))


def test_no_decoder(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="a Linear has no decoder: give one, or a model with one"):
        backbone.load_into(nn.Linear(2, 2))


def test_a_decoder_without_a_place_for_a_weight(backbone: Backbone) -> None:
    decoder = Decoder(CONFIG)
    decoder.blocks[1].mlp.up = nn.Identity()
    with pytest.raises(ValueError, match=r"the decoder has no place for the weight blocks\.1\.mlp\.up\.weight"):
        backbone.load_into(decoder)


def test_weights_that_are_not_those_of_its_sizes(trained: Decoder) -> None:
    weights = trained.state_dict()
    for change, message in (
        ({"norm.weight": torch.ones(15)}, r"norm\.weight has shape \(15,\), but the decoder needs \(16,\)"),
        ({"norm.scale": torch.ones(16)}, r"the decoder has no place for the weight norm\.scale"),
    ):
        with pytest.raises(ValueError, match=message):
            Backbone("old", CONFIG, weights | change)
    del weights["norm.bias"], weights["embedding.positions"]
    with pytest.raises(ValueError, match=r"2 of the decoder's weights are missing, such as embedding\.positions"):
        Backbone("old", CONFIG, weights)


def test_it_says_how_large_it_is(backbone: Backbone) -> None:
    assert repr(backbone) == "Backbone(old: width 16, 2 layers, 2 heads, 40 tokens, max_length up to 16)"
