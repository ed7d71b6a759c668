"""Vectors of the decoder's tokens from an encoder with others: characters counted one by one, transformers' states."""

import random
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import small_bert
import torch
import torch.nn.functional as F

from pyroformer.guides.encoders.aligned_texts import AlignedTexts, alignment, character_spans
from pyroformer.guides.encoders.text_encoder import TextEncoder
from pyroformer.guides.nvae import NVAEGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.models.batch import EOS, Batch
from pyroformer.models.nvae import NVAE
from pyroformer.models.vae import VAE

transformers = pytest.importorskip("transformers", reason="its models are the encoders")

TEXTS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}; it's w{i}." for i in range(40)]
ODD = ["", "  two  blanks ", "Größe 大 🏳️‍🌈 naïve", "tab\tand\r\nlines\n", "Ünïcödé", "don't"]
SIZES: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bert.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS + ODD[1:], vocabulary=290, max_length=60)


@pytest.fixture
def encoder(folder: Path, corpus: Corpus) -> TextEncoder:
    return TextEncoder.from_pretrained(folder, corpus.tokenizer)


def characters(text: str, pieces: list[bytes]) -> list[set[int]]:
    """The characters that each token has a byte of, counted one byte at a time."""
    owner = [index for index, character in enumerate(text) for _ in character.encode()]
    sets, place = [], 0
    for piece in pieces:
        sets.append({owner[place + offset] for offset in range(len(piece))})
        place += len(piece)
    assert place == len(owner)
    return sets


def test_spans_are_the_characters_of_the_bytes(corpus: Corpus) -> None:
    table = corpus.tokenizer.token_bytes()
    for text in [*TEXTS, *ODD]:
        pieces = [table[token] for token in corpus.tokenizer.encode(text)]
        spans = character_spans(text, [len(piece) for piece in pieces])
        assert [set(range(*span)) for span in spans.tolist()] == characters(text, pieces)


def test_spans_of_bytes_that_are_no_text_stay_inside(corpus: Corpus) -> None:
    draw = random.Random(0)
    for _ in range(200):
        sizes = [draw.randrange(4) for _ in range(draw.randrange(1, 9))]
        text = "".join(draw.choice("a�ß大🏳") for _ in range(draw.randrange(6)))
        spans = character_spans(text, sizes)
        assert (spans[:, 0] <= spans[:, 1]).all() and (spans >= 0).all() and (spans <= len(text)).all()


def test_shares_by_hand() -> None:
    """'ab c' as 'a', 'b ', 'c', end; the encoder has [CLS], 'ab', 'c', [SEP]."""
    theirs = np.array([[0, 0], [0, 2], [3, 4], [0, 0]])
    shares = alignment(np.array([[0, 1], [1, 3], [3, 4], [4, 4]]), theirs, ended=True)
    assert shares.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    blanks = alignment(np.array([[0, 1], [1, 2], [2, 3]]), np.array([[0, 0], [1, 2], [3, 3]]), ended=False)
    assert blanks.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    both = alignment(np.array([[0, 4]]), theirs, ended=False)
    assert both.tolist() == [[0, 0.5, 0.5, 0]]


def test_vectors_are_means_of_the_states_of_the_same_characters(
    encoder: TextEncoder, folder: Path, corpus: Corpus
) -> None:
    texts, table = [*TEXTS[:3], *ODD], corpus.tokenizer.token_bytes()
    own = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    aligned = AlignedTexts(encoder, 5)
    batch = Batch.pad(corpus.tokenizer.encode_batch(texts))
    assert batch.tokens is not None and batch.mask is not None
    vectors = aligned(batch.tokens, batch.mask)
    for row, text in enumerate(texts):
        inputs = own(text, return_tensors="pt", return_offsets_mapping=True, padding=False, truncation=False)
        offsets = inputs.pop("offset_mapping")[0].tolist()
        states = network(**inputs).last_hidden_state[0]
        states = F.linear(F.layer_norm(states, states.shape[-1:]), aligned.project.weight, aligned.project.bias)
        pieces = [table[token] for token in corpus.tokenizer.encode(text)]
        before = [0]  # the encoder's first token
        for place, own_characters in enumerate(characters(text, pieces)):
            shared = [index for index, span in enumerate(offsets) if own_characters & set(range(*span))]
            if place == len(pieces) - 1:
                shared = [len(offsets) - 1]
            before = shared or before
            torch.testing.assert_close(vectors[row, place], states[before].mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("model_class", "guide_class"), [(VAE, VAEGuide), (NVAE, NVAEGuide)])
def test_each_vector_of_the_posterior_is_read_off_its_token(
    model_class: Any, guide_class: Any, encoder: TextEncoder, corpus: Corpus
) -> None:
    model = model_class.for_corpus(corpus, base_measure="gaussian", **SIZES)
    guide = guide_class(model, encoder=encoder).eval()
    batch = next(corpus.batches("train", 6))
    posterior = guide.encode(batch)
    own = posterior.mean.shape[1] - batch.tokens.shape[1]  # the prior's component
    torch.testing.assert_close(posterior.mean[:, own:], guide.mean(guide.encoder(batch.tokens, batch.mask)))
    assert torch.equal(posterior.mask[:, own:], batch.mask)
    assert ELBO().terms(model, guide, batch).bound.isfinite().all()


def test_a_cut_text_has_no_end_and_draws_of_a_text_are_read_once(encoder: TextEncoder, corpus: Corpus) -> None:
    aligned = AlignedTexts(encoder, 5)
    ids = corpus.tokenizer.encode("even odd")
    whole, cut = Batch.pad([ids, ids, ids]), Batch.pad([ids[:-1]])
    assert ids[-1] == EOS and whole.tokens is not None and whole.mask is not None
    vectors = aligned(whole.tokens, whole.mask)
    assert torch.equal(vectors[0], vectors[2]) and len(encoder.cache) == 1
    torch.testing.assert_close(aligned(cut.tokens, cut.mask)[0], vectors[0, :-1])
    assert aligned(whole.tokens, torch.zeros_like(whole.mask)).isfinite().all()


@pytest.mark.parametrize(("model_class", "guide_class"), [(VAE, VAEGuide), (NVAE, NVAEGuide)])
def test_a_network_of_ones_own_is_no_text_encoder(
    model_class: Any, guide_class: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=r"encoder has type Linear: give a pf.TextEncoder, or derive a guide whose en"):
        guide_class(model_class.for_corpus(corpus, **SIZES), encoder=torch.nn.Linear(2, 2))


def test_layers_of_mixtures_need_an_encoder_of_ours(encoder: TextEncoder, corpus: Corpus) -> None:
    model = NVAE.for_corpus(corpus, base_measure="gaussian", **SIZES, nvib_layers=1)
    with pytest.raises(ValueError, match=r"nvib_layers is 1, and a TextEncoder has no layers that attend to mixtures"):
        NVAEGuide(model, encoder=encoder)
