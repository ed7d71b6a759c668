"""Texts begin with the prompt, wherever it ends, and go on as the model's texts do."""

import pytest
import torch

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.tokenizer import Tokenizer
from pyroformer.inference.generation.decoding import Decoding
from pyroformer.inference.generation.prompts import LastPiece, Prompt
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.language_model import LanguageModel

SENTENCES = [
    f"The {first} {verb} the {second}."
    for first in ("cat", "dog", "horse")
    for verb in ("sees", "likes", "finds")
    for second in ("garden", "house", "café")
]
TOKENS = Tokenizer.train(["a cat", "a car", "a cab"] * 9, vocabulary=262)  # 'a', ' ca' and 'at' are among its tokens


@pytest.fixture(scope="module")
def lm() -> Run:
    """A language model that knows the sentences."""
    corpus = Corpus.from_texts(
        {"train": SENTENCES, "valid": SENTENCES[:3], "test": SENTENCES[:3]}, vocabulary=300, max_length=24
    )
    torch.manual_seed(0)
    model = LanguageModel.for_corpus(corpus, width=32, layers=1, heads=2)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    loss = ELBO()(model, None)
    for batch in corpus.batches("train", len(SENTENCES), epochs=45):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    return Run(model.eval(), None, corpus, RunFolder(corpus.folder), {}, 0)


def test_a_prompt_may_end_in_a_blank_or_inside_a_word(lm: Run) -> None:
    for prompt in (
        "The cat",
        "The cat ",
        "The ca",
        "T",
        "The dog sees the",
        "The dog sees the ",
        "The dog sees the ho",
    ):
        texts = lm.sample(20, prompt=prompt, temperature=0.5)
        assert all(text.startswith(prompt) for text in texts)
        assert sum(text in SENTENCES for text in texts) >= 18, (prompt, texts)


def test_unlikely_prompts_begin_every_text_exactly(lm: Run) -> None:
    for prompt in ("The caf", "zebra ", "  ", "\n", "Thé é", "The cats' houses", "大", "x" * 22, " " * 20):
        for decoding in ({"temperature": 5.0}, {"greedy": True}, {"top_p": 0.1}):
            assert all(text.startswith(prompt) for text in lm.sample(2, prompt=prompt, **decoding))


def test_the_longest_piece_that_begins_a_token_is_drawn_again() -> None:
    for text, kept, last in (("a ca", "a", b" ca"), ("a ", "a", b" "), ("x", "", b"x"), ("a cab", "a", b" cab")):
        prompt = Prompt.encode(text, TOKENS)
        assert prompt.last is not None
        assert (TOKENS.decode(prompt.tokens), prompt.last.piece) == (kept, last)
    assert Prompt.encode("", TOKENS).last is None


def test_the_rest_of_a_piece_fits_into_the_tokens_that_are_left() -> None:
    last = LastPiece(b"abc", [b"", b"a", b"b", b"c", b"bcd", b"ab", b"x"])
    start = torch.tensor([0])
    assert last.needed.tolist() == [2, 1, 1, 0]
    assert last.allowed(start, 2, 8)[0].tolist() == [False, True, False, False, False, True, False, False]
    assert not last.allowed(start, 1, 8).any()
    at = last.advance(start, torch.tensor([1]))
    assert last.allowed(at, 1, 8)[0].nonzero().flatten().tolist() == [4]
    assert last.allowed(at, 2, 8)[0].nonzero().flatten().tolist() == [2, 4]
    whole = last.advance(at, torch.tensor([4]))
    assert last.allowed(whole, 1, 8).all()
    assert last.advance(whole, torch.tensor([7])).tolist() == [3]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "weights that are not finite, .* as after a training that diverged: fit it anew"),
        (float("inf"), "weights that are not finite, .* as after a training that diverged: fit it anew"),
        (3e38, "logits that are not finite, so its training diverged: fit it anew"),
    ],
)
def test_a_model_that_diverged_writes_nothing(value: float, message: str) -> None:
    corpus = Corpus.from_texts(SENTENCES, vocabulary=270, max_length=32)
    model = LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2, norm="layer")
    run = Run(model, None, corpus, RunFolder(corpus.folder), {}, 0)
    next(run.model.parameters()).data.fill_(value)
    for decoding in (Decoding(), Decoding(greedy=True)):
        with pytest.raises(ValueError, match=message):
            run.sample(1, greedy=decoding.greedy)
