"""What notebooks show of results: a few words, never a page of tensors."""

import numpy as np
import pytest
import torch

import pyroformer as pf
from pyroformer.guides.della import LatentPosterior
from pyroformer.guides.vae import GaussianPosterior
from pyroformer.inference.diagnostics import Calibration, Comparison, LeaveOneOut, PredictiveCheck
from pyroformer.inference.generation.reconstruction import Reconstruction
from pyroformer.models.attention.mixture import Mixture
from pyroformer.models.transformer.mixtures.posterior import MixturePosterior

MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
TABLE = torch.rand(2, 5, 8)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            Comparison(3.25, 0.5, np.zeros(12)),
            "Comparison(3.25 ± 0.50 nats a text over 12 texts: the first is better)",
        ),
        (
            Comparison(-0.25, 0.5, np.zeros(12)),
            "Comparison(-0.25 ± 0.50 nats a text over 12 texts: no difference beyond two standard errors)",
        ),
        (
            LeaveOneOut(-120.25, 4.5, 2.0, np.zeros(9), np.array([0.1] * 8 + [0.9])),
            "LeaveOneOut(elpd -120.2 ± 4.5 nats over 9 observations; 2.0 effective parameters; k-hat above 0.7 for 1)",
        ),
        (
            Calibration({"z[0]": np.zeros(40, int), "log_p": np.zeros(40, int)}, 99),
            "Calibration(z[0], log_p: 40 ranks among 99 draws; see table())",
        ),
        (Reconstruction("a cat", "a cat", ("a", " cat")), "Reconstruction('a cat', exact)"),
        (
            Reconstruction("a cat", "a <b>", ("a", " <b>"), (0.25, 0.5), 0.25),
            "Reconstruction('a cat', from 'a <b>', weight of the prior 0.25)",
        ),
        (
            MixturePosterior(torch.rand(2, 5), TABLE, TABLE, MASK),
            "MixturePosterior(2 texts, 3 to 5 components of 8 dimensions)",
        ),
        (LatentPosterior(TABLE[:1], TABLE[:1]), "LatentPosterior(1 text, 5 latents of 8 dimensions)"),
        (
            GaussianPosterior(TABLE, TABLE, MASK, lambda latents, mask: Mixture(latents[..., 0], latents)),
            "GaussianPosterior(2 texts, 3 to 5 vectors of 8 dimensions)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_in_a_few_words(result: object, words: str) -> None:
    assert repr(result) == words


def test_a_check_is_its_table() -> None:
    check = PredictiveCheck(["words"], np.array([1.0]), np.array([[1.0], [2.0]]), 3)
    assert repr(check) == check.table()


def test_a_reconstruction_shades_tokens_by_their_weight() -> None:
    html = Reconstruction("a cat", "a <b>", ("a", " <b>"), (0.25, 0.5), 0.25)._repr_html_()
    assert '0.25)">a</span>' in html and '0.50)"> &lt;b&gt;</span>' in html and "<b>" not in html
    assert "(exact)" in Reconstruction("a", "a", ("a",))._repr_html_()


def test_a_corpus_in_html() -> None:
    corpus = pf.Corpus.from_texts([f"number {n}" for n in range(40)], vocabulary=265, name="<numbers>")
    html = corpus._repr_html_()
    assert "&lt;numbers&gt;" in html and "<td>train</td><td>36</td>" in html
