"""Tests of the names of mixtures."""

import pytest
from pyro import poutine

from pyroformer import NVAE, Batch
from pyroformer.models.mixture_names import MixtureNames
from pyroformer.models.transformer.config import TransformerConfig

MIXTURES = [MixtureNames("encoder", 2), MixtureNames("encoder", 12), MixtureNames(), MixtureNames("decoder", 3)]


@pytest.mark.parametrize("kind", ["weights", "vectors", "kept"])
def test_names_are_read_back_among_others(kind: str) -> None:
    others = ["length", f"kl_{kind}_2", f"{kind}_decoder", f"{kind}_layer_2"]
    names = [name for mixture, other in zip(MIXTURES, others, strict=True) for name in (getattr(mixture, kind), other)]
    assert MixtureNames.all_in(names, kind) == MIXTURES  # type: ignore[arg-type]


def test_a_model_names_the_sites_that_it_draws() -> None:
    config = TransformerConfig(vocabulary=20, max_length=8, width=16, layers=3, heads=2)
    model = NVAE(config, nvib_layers=2, nvib_decoder_layers=1)
    sites = poutine.trace(model).get_trace(Batch.pad([[5, 6, 2]])).nodes
    expected = [("encoder", 2), ("encoder", 3), ("decoder", 3)]
    assert model.layers_with_mixtures == expected
    for kind in ("weights", "vectors"):
        assert MixtureNames.all_in(sites, kind) == [*expected[:2], ("text", None), expected[2]]  # type: ignore[arg-type]
