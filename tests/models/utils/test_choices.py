"""The checks of names: of an option that takes one of a few, and of options."""

import pytest

import pyroformer as pf
from pyroformer.models.utils.choices import check_choice, check_known


@pytest.mark.parametrize("value", ["full", "diagonal", None])
def test_choices_pass(value: str | None) -> None:
    check_choice("covariance", value, ("full", "diagonal", None))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("round", r"^covariance is 'round': choose one of full, diagonal\.$"),
        ("diagnal", r"^covariance is 'diagnal': choose one of full, diagonal \(did you mean diagonal\?\)\.$"),
        ("FULL", r"^covariance is 'FULL': choose one of full, diagonal \(did you mean full\?\)\.$"),
        (3, r"^covariance is 3: choose one of full, diagonal\.$"),
    ],
)
def test_anything_else_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_choice("covariance", value, ("full", "diagonal"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("widht", r"^VAE has no option widht: did you mean width\? See its help\.$"),
        ("banana", r"^VAE has no option banana: See its help\.$"),
    ],
)
def test_an_unknown_option_is_refused(name: str, message: str) -> None:
    check_known("VAE", ["width"], ["width", "layers"], "See its help.")
    with pytest.raises(ValueError, match=message):
        check_known("VAE", ["width", name], ["width", "layers"], "See its help.")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("widht", "width"), ("base_mesure", "base_measure"), ("sise", "size"), ("prior", "base_measure")],
)
def test_a_model_says_which_option_was_meant(name: str, meant: str) -> None:
    corpus = pf.Corpus.from_texts([str(n) for n in range(20)], vocabulary=259, max_length=8)
    with pytest.raises(ValueError, match=rf"^NVAE\.for_corpus has no option {name}: did you mean {meant}\? help\("):
        pf.NVAE.for_corpus(corpus, **{name: 16})
