"""Models of a corpus: what for_corpus refuses, and options that are left out."""

from typing import Any

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroSample

import pyroformer as pf
from pyroformer.models.base import Model
from pyroformer.models.transformer.backbone import Backbone
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.stacks import Decoder

CORPUS = pf.Corpus.from_texts([f"Number {n}" for n in range(40)], tokenizer="bytes", max_length=16)
CONFIG = TransformerConfig(
    vocabulary=CORPUS.vocabulary, max_length=16, width=16, layers=1, heads=2, hidden=24, key_value_heads=1, norm="rms"
)
BACKBONE = Backbone("old", CONFIG, Decoder(CONFIG).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corpus": ["a", "b"]}, "corpus has type list: give a pf.Corpus"),
        ({"size": "huge"}, "size is 'huge': choose one of tiny, small, base"),
        ({"train": "heads", "backbone": BACKBONE}, "train is 'heads': choose one of all, latents, lora"),
        ({"config": CONFIG}, "DELLA.for_corpus has no option config"),
        ({"prior": "flat"}, "DELLA.for_corpus has no option prior: did you mean latent_prior"),
    ],
)
def test_models_that_cannot_be(arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        pf.DELLA.for_corpus(**{"corpus": CORPUS} | arguments)


def test_options_of_none_are_those_of_the_backbone() -> None:
    config = pf.LanguageModel.for_corpus(CORPUS, backbone=BACKBONE, hidden=None, key_value_heads=None).config
    assert (config.hidden, config.key_value_heads) == (24, 1)


def test_probabilistic_attention_has_learned_positions_in_place_of_rotary_ones() -> None:
    of_each = {name: pf.DELLA.network_defaults({"attention": name}) for name in ("softmax", "probabilistic")}
    assert of_each["softmax"] == of_each["probabilistic"] | {"positions": "rotary"}
    assert of_each["probabilistic"]["positions"] == "learned"


def test_a_hyperprior_of_a_parameter_leaves_the_parameter_store_empty() -> None:
    class Scaled(Model):
        latents = ("z",)

        def __init__(self) -> None:
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(2.0))
            self.scale = PyroSample(lambda self: dist.Exponential(self.rate))

        def forward(self, batch: pf.Batch) -> None:
            with self.texts(batch):
                pyro.sample("z", dist.Normal(torch.zeros(()), self.scale))

    trace = pyro.poutine.trace(Scaled()).get_trace(pf.Batch.unobserved(3))
    assert trace.nodes["scale"]["value"] > 0 and len(pyro.get_param_store()) == 0
