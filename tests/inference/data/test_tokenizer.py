"""Byte-level tokens give every text back; nothing in a text is special."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from pyroformer.inference.data.tokenizer import LONGEST_RUN, MIN_VOCABULARY, Tokenizer, TokenizerKind, check_tokenizer
from pyroformer.models.batch import BOS, EOS, PAD

TEXTS = [f"The {what} of number {i} is the other {what}." for i in range(30) for what in ("weight", "vector")]
TOKENIZER = Tokenizer.train(TEXTS, 320)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT | st.sampled_from(["<eos>", "a<pad> <bos>b", "", " ", "\r\n\t  x ", "\x00", "\ufeffa", "e\u0301 🏳️‍🌈"]))
def test_tokens_give_the_text_back(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text
    assert tokens[-1] == EOS
    assert not {PAD, BOS, EOS} & set(tokens[:-1])
    assert sum(TOKENIZER.byte_lengths()[tokens].tolist()) == len(text.encode())
    assert len(TOKENIZER.pieces(text)) == len(tokens)


@settings(max_examples=25, deadline=None)
@given(st.lists(ANY_TEXT, max_size=4))
def test_a_batch_is_its_texts(texts: list[str]) -> None:
    rows = TOKENIZER.encode_batch(texts)
    assert rows == [TOKENIZER.encode(text) for text in texts]
    assert TOKENIZER.decode_batch(rows) == texts


def test_special_tokens_come_first_and_every_byte_follows() -> None:
    ids = [TOKENIZER.core.token_to_id(name) for name in ("<pad>", "<bos>", "<eos>")]
    assert ids == [PAD, BOS, EOS] == [0, 1, 2]
    assert TOKENIZER.byte_lengths()[:MIN_VOCABULARY].tolist() == [0] * 3 + [1] * 256
    assert MIN_VOCABULARY < len(TOKENIZER) == TOKENIZER.vocabulary == len(TOKENIZER.byte_lengths()) <= 320
    assert repr(TOKENIZER) == f"Tokenizer({TOKENIZER.vocabulary} tokens)"


def test_decoding_stops_at_the_end_and_leaves_padding_out() -> None:
    the, end = TOKENIZER.encode("The")
    assert TOKENIZER.decode([BOS, the, PAD, end, the]) == "The"
    assert TOKENIZER.decode([the, the]) == "TheThe"
    assert TOKENIZER.decode([]) == TOKENIZER.decode([end]) == ""
    rows = [[the, end, PAD], [the, the, end]]
    for batch in (rows, torch.tensor(rows), np.array(rows)):
        assert TOKENIZER.decode_batch(batch) == ["The", "TheThe"]
    assert TOKENIZER.decode(torch.tensor(rows[0])) == TOKENIZER.decode(np.array(rows[0])) == "The"


def test_bytes_that_are_no_character_are_decoded_all_the_same() -> None:
    first = TOKENIZER.encode("é")[0]
    assert TOKENIZER.decode([first]) == "�"
    assert TOKENIZER.pieces([first, EOS]) == [r"\xc3", "<eos>"]


def test_pieces_read_like_the_text() -> None:
    assert TOKENIZER.pieces("The weight of") == ["The", " weight", " of", "<eos>"]
    assert TOKENIZER.pieces(torch.tensor(TOKENIZER.encode("The vector"))) == ["The", " vector", "<eos>"]


def test_training_is_deterministic() -> None:
    assert Tokenizer.train(iter(TEXTS), 320).core.to_str() == TOKENIZER.core.to_str()


def test_a_text_with_little_to_learn_gives_fewer_tokens() -> None:
    assert Tokenizer.train(["aa"], 4000).vocabulary == MIN_VOCABULARY + 1
    assert Tokenizer.train([""], MIN_VOCABULARY).vocabulary == MIN_VOCABULARY


def test_it_is_the_same_after_a_file_and_in_another_process(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    for again in (Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(TOKENIZER))):
        assert again.encode("The <eos> weight") == TOKENIZER.encode("The <eos> weight")
        assert again.vocabulary == TOKENIZER.vocabulary


@pytest.mark.parametrize("vocabulary", [-1, 0, 1, 258])
def test_a_vocabulary_without_room_for_every_byte(vocabulary: int) -> None:
    with pytest.raises(ValueError, match=f"a vocabulary of {vocabulary} is too small: .* Give at least 259"):
        Tokenizer.train(TEXTS, vocabulary)


def test_half_a_character() -> None:
    for operation in (TOKENIZER.encode, lambda text: Tokenizer.train([text])):
        with pytest.raises(ValueError, match=r"'\\ud800' at position 1, half of a character: give whole"):
            operation("a\ud800")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the tokenizer .*tokenizer.json: No such file"),
        (b"", "tokenizer.json holds no tokenizer"),
        (b"\xff\xfe", "tokenizer.json holds no tokenizer: it is not UTF-8 text"),
        (b'{"model": 3}', "tokenizer.json holds no tokenizer"),
        (b"[" * 100_000, "tokenizer.json holds no tokenizer"),
        (TOKENIZER.core.to_str().encode()[:-100], "tokenizer.json holds no tokenizer"),
    ],
)
def test_a_file_that_holds_no_tokenizer(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    other = json.loads(TOKENIZER.core.to_str())
    other["added_tokens"] = []
    other["model"]["vocab"] = {f"x{i}": i for i in range(5)}
    other["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="tokens 0, 1, 2 must be <pad>, <bos>, <eos>: train one"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    other["model"]["vocab"] = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "a": 3}
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="lacks 255 of the 256 bytes: train one"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_bytes_need_no_text() -> None:
    tokenizer = Tokenizer.train_kind("bytes", [])
    assert tokenizer.vocabulary == MIN_VOCABULARY and tokenizer.kind == "bytes"
    assert [len(tokenizer.encode(text)) - 1 for text in ("low", "Größe", "大", "")] == [3, 7, 3, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=3), ANY_TEXT)
def test_a_character_of_the_texts_is_one_token_and_others_are_not_lost(texts: list[str], other: str) -> None:
    tokenizer = Tokenizer.train_kind("characters", texts)
    for text in texts:
        assert tokenizer.pieces(text)[:-1] == list(text)
    assert tokenizer.decode(tokenizer.encode(other)) == other
    assert tokenizer.kind == ("bytes" if "".join(texts).isascii() else "characters")


def test_kinds_by_name() -> None:
    texts = ["ää ää ää ää"]
    kinds: list[TokenizerKind] = ["bpe", "bytes", "characters"]
    tokenizers = [Tokenizer.train_kind(kind, texts, 264) for kind in kinds]
    assert [tokenizer.kind for tokenizer in tokenizers] == kinds
    assert [len(tokenizer.encode(texts[0])) - 1 for tokenizer in tokenizers] == [4, 19, 11]
    saved = pickle.loads(pickle.dumps(tokenizers[2]))
    assert saved.kind == "characters"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "byte"}, r"tokenizer is 'byte': choose one of bpe, bytes, characters \(did you mean bytes\?\)"),
        (
            {"tokenizer": "bytes", "vocabulary": 300},
            "vocabulary is 300, but a tokenizer of bytes has as many tokens as",
        ),
        ({"tokenizer": "characters", "vocabulary": 300}, "leave vocabulary out, or choose the tokenizer bpe"),
    ],
)
def test_kinds_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tokenizer(options["tokenizer"], options.get("vocabulary", "auto"))
    check_tokenizer("bpe", 300)
    check_tokenizer(TOKENIZER, 300)
    check_tokenizer(None, 300)


@pytest.mark.parametrize("run", ["ab", "é", "7", "=", " ", "\n"])
def test_a_tokenizer_learns_from_long_runs_in_parts(run: str) -> None:
    """Learning from a run takes the square of its length, half a minute for each of these."""
    whole = run * (200_000 // len(run))
    parts = [whole[start : start + LONGEST_RUN] for start in range(0, len(whole), LONGEST_RUN)]
    learned = Tokenizer.train(["x y", whole], 400)
    assert learned.has_tokens_of(Tokenizer.train(["x y", *parts], 400))
    assert learned.decode(learned.encode(whole)) == whole


def test_other_texts_are_learned_from_as_they_are() -> None:
    texts = [" ".join(TEXTS) * 9, "a1" * LONGEST_RUN, "x" * LONGEST_RUN, ""]
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<pad>", "<bos>", "<eos>"]
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    )
    assert Tokenizer.train(texts, 330).has_tokens_of(Tokenizer(core))
