"""The prior of the vectors of a new model, where none is given: the same in Python and on the command line."""

from typing import Any

import pytest
import torch

import pyroformer as pf
from pyroformer.inference.cli.options.short_options import with_default_prior
from pyroformer.models.priors.named import NAMED
from pyroformer.models.serialization import public_path

SIZES: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}
CORPUS = pf.Corpus.from_texts([f"The number {n} is even." for n in range(0, 100, 2)], vocabulary=270, max_length=32)


@pytest.mark.parametrize(
    ("name", "options", "expected", "objective"),
    [
        ("vae", {}, "tokens", "elbo"),
        ("vae", {"base_measure": None}, "tokens", "elbo"),
        ("vae", {"base_measure": "gaussian"}, "gaussian", "elbo"),
        ("nvae", {}, "tokens", "elbo"),
        ("nvae", {"base_measure": "mixture"}, "mixture", "nvib"),
        ("nvae", {"delta": 0.15}, "tokens", "elbo"),
        ("nvae", {"presence": 0.5}, "gaussian", "nvib"),
        ("nvae", {"delta": 1.0, "base_measure": "tokens"}, "tokens", "elbo"),
    ],
)
def test_for_corpus_has_the_prior_of_the_command_line(
    name: str, options: dict[str, Any], expected: str, objective: str
) -> None:
    model: Any = {"vae": pf.VAE, "nvae": pf.NVAE}[name].for_corpus(CORPUS, **SIZES, **options)
    assert type(model.base_measure) is NAMED[expected]
    assert model.objective == objective
    assert (model.length_prior is None) == (expected == "tokens")  # vectors that are tokens say where a text ends
    given = {key: value for key, value in options.items() if value is not None}
    if "base_measure" not in given:
        on_the_command_line = with_default_prior(name, False, given, {}, {})
        assert on_the_command_line["base_measure"] == {"class_path": public_path(NAMED[expected])}


def test_the_prior_of_the_length_is_given_or_that_of_the_texts_or_of_vectors_that_end_them() -> None:
    ends = pf.priors.TokenVectorPrior(16, CORPUS.vocabulary, samples_per_component=0, eos=2)
    assert pf.VAE.for_corpus(CORPUS, **SIZES, base_measure=ends).length_prior is None
    given, of_texts = pf.priors.LengthPrior(32), pf.priors.LengthPrior.fit(CORPUS.train.lengths, 32)
    sizes: dict[str, Any] = SIZES | {"base_measure": "gaussian"}
    assert pf.VAE.for_corpus(CORPUS, **sizes, length_prior=given).length_prior is given
    found: Any = pf.VAE.for_corpus(CORPUS, **sizes).length_prior
    torch.testing.assert_close(found.log_probabilities, of_texts.log_probabilities)


@pytest.mark.parametrize("options", [{}, {"base_measure": "tokens"}, {"base_measure": "gaussian"}])
def test_delta_given_as_it_is_by_default_changes_nothing(options: dict[str, Any]) -> None:
    plain = pf.NVAE.for_corpus(CORPUS, **SIZES, **options)
    given = pf.NVAE.for_corpus(CORPUS, **SIZES, **options, delta=float(plain.weight_prior.delta))
    assert repr(given.weight_prior) == repr(plain.weight_prior)
    assert (type(given.base_measure), given.objective) == (type(plain.base_measure), plain.objective)


@pytest.mark.parametrize("cls", [pf.VAE, pf.NVAE])
def test_a_start_from_a_language_model_has_it_as_the_prior(cls: Any) -> None:
    lm = pf.fit(pf.LanguageModel.for_corpus(CORPUS, width=32, layers=1, heads=2), None, CORPUS, steps=1, progress=False)
    model = cls.for_corpus(CORPUS, backbone=lm.backbone)
    assert type(model.base_measure) is NAMED["language_model"]


def test_a_model_without_a_choice_of_prior_keeps_its_own() -> None:
    class Fixed(pf.VAE):
        def __init__(self, config: Any, length_prior: Any = None) -> None:
            super().__init__(config, "gaussian", length_prior)

    model = Fixed.for_corpus(CORPUS, **SIZES)
    assert type(model.base_measure) is NAMED["gaussian"]
    assert model.length_prior is not None


def test_the_published_objective_refuses_the_default_prior_and_names_the_way_out() -> None:
    model = pf.NVAE.for_corpus(CORPUS, **SIZES)
    with pytest.raises(ValueError, match=r"nvib compares every vector .* TokenVectorPrior .* base_measure"):
        pf.fit(model, pf.NVAEGuide(model), CORPUS, steps=1, objective="nvib")
