"""GPT-2's tokens, three further on: the library that trained GPT-2's own tokenizer is the oracle."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.tokenizer import Tokenizer
from pyroformer.inference.pretrained.byte_level_tokenizer import PretrainedTokens
from pyroformer.inference.pretrained.gpt2_tokenizer import read_gpt2_tokenizer
from pyroformer.inference.runs.fingerprint import corpus_fingerprint
from pyroformer.models.batch import EOS

TEXTS = [f"The {what} of number {i} is the other {what}." for i in range(30) for what in ("weight", "vector")]
ORDINARY = [
    "Hello world! The quick brown fox.",
    "It's 1,024 tokens; that isn't many, is it?",
    "def f(x):\n    return x ** 2  # a comment\n",
    "Größe, naïve, 東京, Ελλάδα and 🏳️‍🌈.",
    "  two   blanks\t\tand tabs \r\n",
    "",
]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def published(data: Path) -> Path:
    folder = data / "tokenizers" / "gpt2"
    if not folder.is_dir():
        pytest.skip(f"needs GPT-2's vocab.json and merges.txt in {folder}")
    return folder


@pytest.fixture(scope="module")
def read(published: Path) -> PretrainedTokens:
    return read_gpt2_tokenizer(published)


@pytest.fixture(scope="module")
def theirs(published: Path) -> tokenizers.Tokenizer:
    """The published files as the library reads them."""
    core = tokenizers.Tokenizer(models.BPE.from_file(str(published / "vocab.json"), str(published / "merges.txt")))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return core


@pytest.mark.parametrize("text", ORDINARY)
def test_tokens_of_the_published_gpt2_move_up_by_three(
    text: str, read: PretrainedTokens, theirs: tokenizers.Tokenizer
) -> None:
    *ours, end = read.tokenizer.encode(text)
    assert end == EOS
    assert [token - 3 for token in ours] == theirs.encode(text).ids
    assert read.tokenizer.decode(ours) == text


@settings(max_examples=60, deadline=None)
@given(text=ANY_TEXT | st.sampled_from(["<|endoftext|>", "<eos>", "a<pad>b"]))
def test_every_text_comes_back(read: PretrainedTokens, text: str) -> None:
    tokens = read.tokenizer.encode(text)
    assert read.tokenizer.decode(tokens) == text
    assert min(tokens[:-1], default=3) >= 3


def test_the_vocabulary_is_gpt2s_without_its_end(read: PretrainedTokens) -> None:
    assert read.ids == list(range(50_256))
    assert read.tokenizer.vocabulary == 50_259
    longest = read.tokenizer.byte_lengths()[read.tokenizer.encode(" unfortunately")]
    assert longest.tolist() == [len(" unfortunately"), 0]


def train(folder: Path, specials: list[str], last: bool = False) -> tokenizers.Tokenizer:
    """A small tokenizer of GPT-2's kind in both forms, with special tokens before the others or after them."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = [] if last else specials
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=first, initial_alphabet=alphabet, show_progress=False),
    )
    core.add_special_tokens(specials)
    folder.mkdir(exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    vocabulary = core.get_vocab()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = json.loads(core.to_str())["model"]["merges"]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return core


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("last", [True, False])
def test_special_tokens_may_stand_anywhere(tmp_path: Path, form: str, last: bool) -> None:
    theirs = train(tmp_path, ["<|endoftext|>", "[PAD token]"], last)
    for name in {"tokenizer.json", "vocab.json", "merges.txt"} - {form, "merges.txt"}:
        (tmp_path / name).unlink()
    ours, ids = read_gpt2_tokenizer(tmp_path)
    assert len(ids) == theirs.get_vocab_size() - 2
    for text in TEXTS[:5] + ORDINARY:
        assert [ids[token - 3] for token in ours.encode(text)[:-1]] == theirs.encode(text).ids


def test_it_survives_its_own_file(tmp_path: Path) -> None:
    train(tmp_path, ["<|endoftext|>"])
    ours, _ = read_gpt2_tokenizer(tmp_path)
    ours.save(tmp_path / "saved.json")
    again = Tokenizer.load(tmp_path / "saved.json")
    assert again.core.get_vocab() == ours.core.get_vocab()
    assert again.encode_batch(TEXTS + ORDINARY) == ours.encode_batch(TEXTS + ORDINARY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train(folder, ["<|endoftext|>"])
    return folder


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("pre_tokenizer", {"add_prefix_space": True}, "puts a blank before every text"),
        ("model", {"end_of_word_suffix": "</w>"}, "its pre_tokenizer would change texts"),
        (None, {"pre_tokenizer": None}, r"another kind \(BPE\)"),
        (None, {"pre_tokenizer": {"type": "Whitespace"}}, r"another kind \(BPE\)"),
        (None, {"normalizer": {"type": "Lowercase"}}, "its normalizer would change texts"),
        (None, {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, r"another kind \(WordLevel\)"),
    ],
)
def test_a_tokenizer_of_another_kind(
    folder: Path, tmp_path: Path, part: str | None, change: dict[str, Any], message: str
) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    (content if part is None else content[part]).update(change)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"tokenizer\.json .*{message}"):
        read_gpt2_tokenizer(tmp_path)


def test_both_forms_make_the_same_corpus(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}  # as GPT-2's is published
    for form in ("single", "pair"):
        (tmp_path / form).mkdir()
    (tmp_path / "single" / "tokenizer.json").write_text(json.dumps(content))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, tmp_path / "pair")
    tokens = [read_gpt2_tokenizer(tmp_path / form) for form in ("single", "pair")]
    assert tokens[0].ids == tokens[1].ids
    one, two = (corpus_fingerprint(Corpus.from_texts(TEXTS, tokenizer=each.tokenizer)) for each in tokens)
    assert one == two


def test_files_that_are_missing_or_damaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no tokenizer: put tokenizer\.json there, or vocab\.json and merges"):
        read_gpt2_tokenizer(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match=r"vocab\.json and merges\.txt hold no tokenizer \(.*\)"):
        read_gpt2_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json holds no tokenizer"):
        read_gpt2_tokenizer(tmp_path)


def test_a_vocabulary_that_lacks_bytes(folder: Path, tmp_path: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for t, i in vocabulary.items() if t not in "ÄÖÜ"}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="is not GPT-2's byte-level BPE: the tokenizer lacks 3 of the 256 bytes"):
        read_gpt2_tokenizer(tmp_path)


def test_merges_of_tokens_that_there_are_not(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "vocab.json", tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠx zq\n")
    with pytest.raises(ValueError, match="is not GPT-2's byte-level BPE: the merges do not fit the tokens"):
        read_gpt2_tokenizer(tmp_path)
