"""The constructor of the NVAE: defaults of its priors, and priors that do not go together."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from pyro import poutine

from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.batch import Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.priors.lengths import LengthPrior
from pyroformer.models.priors.sequence.autoregressive import AutoregressiveVectorPrior
from pyroformer.models.priors.sequence.language_model import LanguageModelVectorPrior
from pyroformer.models.priors.weights import SymmetricDirichlet
from pyroformer.models.transformer.blocks import cross_attention_of
from pyroformer.models.transformer.config import TransformerConfig
from pyroformer.models.transformer.memory import Context
from pyroformer.models.vae import VAE

CONFIG = TransformerConfig(vocabulary=30, max_length=8, width=16, layers=2, heads=2)


@pytest.mark.parametrize(
    ("options", "concentration", "delta"),
    [
        ({}, 1.0, 0.3),
        ({"delta": 0.0}, 1.0, 0.0),
        ({"base_measure": "mixture", "delta": 0.5}, 1.0, 0.5),
        ({"base_measure": "tokens"}, 3.0, 3.0),
        ({"base_measure": "language_model", "delta": 0.5}, 3.0, 0.5),
    ],
)
def test_the_concentration_of_the_weights(options: dict[str, Any], concentration: float, delta: float) -> None:
    model = NVAE(CONFIG, nvib_layers=1, **options)
    prior: Any = model.weight_prior
    assert prior.concentration == concentration and prior.delta == torch.tensor(delta)
    assert model.layer_weight_prior.delta == torch.tensor(delta)


def test_latents_stand_in_the_order_of_the_story() -> None:
    assert NVAE(CONFIG, nvib_layers=1, presence=0.5).latents == (
        "presence",
        "weights_2",
        "vectors_2",
        "weights",
        "vectors",
    )


def test_weights_count_where_the_vector_of_a_place_is_read() -> None:
    readers: list[Any] = [cls(CONFIG, base_measure="language_model").decoder.reader for cls in (NVAE, VAE)]
    assert [reader.weighted for reader in readers] == [True, False]
    longer: Any = NVAE(CONFIG, base_measure=LanguageModelVectorPrior(replace(CONFIG, max_length=12))).decoder.reader
    assert (readers[0].max_length, longer.max_length) == (8, 12), "places are encoded as the prior does"


@pytest.mark.parametrize(("prior", "share"), [("tokens", 1.0), ("language_model", 0.0)])
def test_cross_attention_starts_by_adding_the_vector_that_it_reads_or_nothing(prior: str, share: float) -> None:
    vector = torch.randn(1, 1, 16)
    for block in NVAE(CONFIG, base_measure=prior).decoder.blocks:
        read = cross_attention_of(block)(torch.randn(1, 3, 16), Mixture(torch.zeros(1, 1), vector))
        torch.testing.assert_close(read, share * vector.expand(1, 3, 16))


@pytest.mark.parametrize("prior", ["gaussian", "tokens"])
def test_as_many_vectors_are_drawn_as_the_longest_text_may_need(prior: str) -> None:
    nodes = poutine.trace(NVAE(CONFIG, base_measure=prior)).get_trace(Batch.unobserved(1)).nodes
    vectors, length = nodes["vectors"]["value"], int(nodes["length"]["value"])
    if prior == "tokens":  # they are drawn first, and say where the text ends
        assert vectors.shape == (1, 9, 16) and vectors.any(-1).all()
    else:
        assert vectors.shape == (1, length + 1, 16) and length < 8


def test_odds_of_presence_are_in_float32_at_least() -> None:
    prior = NVAE(CONFIG, presence=0.4).bfloat16().presence_prior(torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(prior.mean[1:], torch.full((2,), 0.4), rtol=1e-3, atol=0)


def test_between_two_texts_there_are_mixtures_alone() -> None:
    model, mixture = NVAE(CONFIG), Mixture(torch.zeros(1, 2), torch.zeros(1, 2, 16))
    for ends in ((mixture, Context(torch.zeros(1, 1, 16))), (Context(torch.zeros(1, 1, 16)), mixture)):
        with pytest.raises(ValueError, match="the memory is a Context, but the decoder attends to a Mixture: give one"):
            model.interpolate(*ends, 0.5)


def test_a_prior_of_the_length_leaves_the_end_to_it() -> None:
    model = NVAE(CONFIG, base_measure="tokens", length_prior=LengthPrior(8))
    assert model.length_prior is not None and not model.base_measure.ends_texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight_prior": SymmetricDirichlet(), "samples_per_component": 0},
            "samples_per_component is 0: give a whole number of at least 1",
        ),
        ({"nvib_decoder_alpha": "cubic"}, "nvib_decoder_alpha is 'cubic': choose one of linear, relu, quadratic"),
        ({"weight_prior": lambda mask: mask.float()}, "weight_prior <lambda> returned a Tensor: return a torch or"),
        (
            {"base_measure": AutoregressiveVectorPrior(16, heads=2, samples_per_component=2)},
            "samples_per_component is 1, but 2 of base_measure: give both the same",
        ),
    ],
)
def test_models_that_cannot_be(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    make: Callable[..., object] = NVAE
    with pytest.raises(ValueError, match=message):
        make(CONFIG, **options)
