"""Corpora: what is read, how it is split, what a kill leaves behind, and what is said of files that are no texts."""

import gc
import gzip
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyroformer.inference.data.building import auto_vocabulary
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.labels import Labels
from pyroformer.inference.data.sources import builtin
from pyroformer.inference.data.sources.readers import read_file, read_texts
from pyroformer.inference.data.splits import _distinct_numbers, split_texts
from pyroformer.inference.data.storage import _remove
from pyroformer.inference.data.texts import Texts, check_length_options, tokenize
from pyroformer.inference.data.tokenizer import Tokenizer, TokenizerKind
from pyroformer.models.batch import EOS

LINES = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}." for i in range(100)]
TOKENIZER = Tokenizer.train(LINES, 270)
WAY_OUT = (
    r"Give a .txt, .csv, .tsv, .jsonl, .json, .parquet or .arrow file \(text also packed .gz or .zst\), or a folder "
    "with train/valid/test."
)


def write(path: Path, content: bytes | str | None) -> Path:
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# Reading


@pytest.mark.parametrize(
    ("name", "content", "field", "expected"),
    [
        ("a.txt", "one two\n\n  three \r\nfour", None, ["one two", "three", "four"]),
        ("a.txt", "\ufeffone\n\u2028two\x0b three\x85", None, ["one", "two\x0b three"]),
        ("a.txt.gz", "one\nzwölf\n", None, ["one", "zwölf"]),
        ("a.jsonl", '{"text": "one\\ntwo"}\n\n{"text": " "}\n{"x": 1, "text": "é"}', None, ["one\ntwo", "é"]),
        ("a.jsonl.gz", '{"review": "one"}', "review", ["one"]),
        ("a.tsv", "one\ntwo\n", None, ["one", "two"]),
        ("a.tsv", "id\ttext\n1\tone\n\n2\ttwo\r\n", None, ["one", "two"]),
        ("a.tsv", "id\ttext\n1\tone", "id", ["1"]),
        ("a.tsv", "1\tone\n2\ttwo", 1, ["one", "two"]),
        ("a.tsv", "1\tone\n2\ttwo", "0", ["1", "2"]),
        ("a.tsv.gz", "text\none", None, ["one"]),
    ],
)
def test_each_kind_of_file(
    tmp_path: Path, name: str, content: str, field: str | int | None, expected: list[str]
) -> None:
    assert read_file(write(tmp_path / name, content), field)[0] == expected


def test_blank_lines_are_counted(tmp_path: Path) -> None:
    assert read_file(write(tmp_path / "a.txt", "a\n\n \t\nb\n")) == (["a", "b"], 2)


MISREAD: list[tuple[str, bytes | str | None, str | int | None, str]] = [
    ("none.txt", None, None, r"none.txt does not exist. " + WAY_OUT),
    ("a.txt", b"", None, r"a.txt is empty. " + WAY_OUT),
    ("a.txt.gz", b"", None, r"a.txt.gz is empty. " + WAY_OUT),
    ("a.tsv", b"", None, r"a.tsv is empty. "),
    ("a.jsonl", b"", None, r"a.jsonl is empty. "),
    ("a.txt", "\n \n\t\n", None, r"a.txt holds only blank lines \(3 of them\). " + WAY_OUT),
    ("a.jsonl", '{"text": ""}\n\n', None, r"a.jsonl holds only blank lines \(2 of them\)"),
    ("a.tsv", "text\n\n", None, r"a.tsv holds only blank lines \(1 of them\)"),
    ("photo.jpg", b"\xff\xd8\xff", None, r"photo.jpg is not UTF-8 text \(byte 0xff at position 0\). " + WAY_OUT),
    ("a.txt", b"fine\ncaf\xe9\n", None, r"a.txt is not UTF-8 text \(byte 0xe9 at position 8\): it seems to be Lat"),
    ("a.txt", "é\n".encode("utf-16"), None, r"a.txt is not UTF-8 text \(byte 0xff at position 0\)"),
    ("a.txt.gz", b"\xff", None, r"a.txt.gz is not UTF-8 text \(byte 0xff at position 0\)"),
    ("a.txt", b"one\ntw\0o", None, r"a.txt is not text \(a NUL byte at position 6\). " + WAY_OUT),
    ("a.exe", b"MZ\0", None, r"a.exe is not text \(a NUL byte at position 2\)"),
    (
        "notes.md",
        "one",
        None,
        r"notes.md ends in none of .txt, .csv, .tsv, .jsonl, .json, .parquet, .arrow, .feather. " + WAY_OUT,
    ),
    ("README", "one", None, r"README ends in none of .txt"),
    ("a.txt", "one", "text", r"a.txt has no fields, so none that is 'text': leave the field out, each line is a text"),
    (
        "a.jsonl",
        '{"text": "a"}\n{"text": ',
        None,
        r"line 2 of .*a.jsonl is not JSON \(.*\). Give one JSON object a line",
    ),
    ("a.jsonl", "[" * 100_000, None, r"line 1 of .*a.jsonl is not JSON"),
    ("a.jsonl", '{"a": 1, "b": 2}', None, r"line 1 of .*lacks the field 'text': it has only 'a', 'b'. Name the field"),
    ("a.jsonl", '{"text": "a"}', "body", r"line 1 of .*lacks the field 'body': it has only 'text'"),
    ("a.jsonl", '["text"]', None, r"line 1 of .*a.jsonl lacks the field 'text': it is no JSON object"),
    ("a.jsonl", '\n{"text": 3}', None, r"line 2 of .*a.jsonl holds 3 as 'text': it must be a text"),
    ("a.jsonl", '{"text": "\\ud83d"}', None, r"line 1 of .*a.jsonl holds half a character as 'text'"),
    ("a.tsv", "1\tone\ta", None, r"a.tsv has 3 columns: name the one with the texts as the field, by its name in the"),
    ("a.tsv", "id\tbody", "text", r"a.tsv has no column 'text' but 'id', 'body': give a name in its first line, or a"),
    ("a.tsv", "id\tbody", -1, r"a.tsv has no column -1 but 'id', 'body': give a name"),
    ("a.tsv", "1\tone\n2", 1, r"line 2 of .*a.tsv has 1 column, so none of number 1 \(from 0\)"),
    ("a.tsv", "1\tone", 7, r"line 1 of .*a.tsv has 2 columns, so none of number 7 \(from 0\)"),
]


@pytest.mark.parametrize(("name", "content", "field", "message"), MISREAD)
def test_what_is_no_text(
    tmp_path: Path, name: str, content: bytes | str | None, field: str | int | None, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        Corpus.from_file(path, field=field)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "broken", [b"no gzip", gzip.compress(b"one\n" * 9, mtime=0)[:-9], gzip.compress(b"one", mtime=0)[:12] + b"\xff" * 9]
)
def test_broken_gzip(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "a.txt.gz").write_bytes(broken)
    with pytest.raises(ValueError, match="a.txt.gz is no whole gzip file .*. Compress it again, or give it unpacked"):
        read_texts(tmp_path / "a.txt.gz")


def test_what_the_system_does_not_let_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    write(tmp_path / "a.txt", "one")
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ValueError, match="cannot read .*a.txt: Permission denied. Give a"):
        read_texts(tmp_path / "a.txt")
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(ValueError, match=f"cannot read {tmp_path}: Permission denied"):
        read_texts(tmp_path)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(ValueError, match="cannot read .*train.txt: Is a directory"):
        read_texts(tmp_path)


# Splits


def test_a_folder_gives_its_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.txt.gz", "a\na\n\nb")
    write(tmp_path / "dev.jsonl", '{"text": "c"}')
    write(tmp_path / "test.tsv", "d\n")
    write(tmp_path / "train.label", "0\n1\n")
    assert read_texts(tmp_path) == ({"train": ["a", "a", "b"], "valid": ["c"], "test": ["d"]}, 1)


def test_missing_splits_are_taken_from_the_training_texts(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", "\n".join(LINES))
    write(tmp_path / "test.txt", "d")
    splits, _ = read_texts(tmp_path)
    assert [len(splits[split]) for split in ("train", "valid", "test")] == [95, 5, 1]
    assert sorted(splits["train"] + splits["valid"]) == sorted(LINES)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "the folder .* holds nothing. Put train.txt, valid.txt and test.txt there"),
        (["a.txt", "b.txt", "c", "test.txt"], r"holds no train file \(but a.txt, b.txt, c, ...\). Put train.txt"),
        (["valid.txt"], r"holds no train file \(but valid.txt\). Put train.txt"),
        (["train.md"], r"holds no train file \(but train.md\)"),
        (["train.txt", "train.jsonl"], "holds train.jsonl and train.txt: leave one of them for train"),
        (["train.txt", "dev.txt", "valid.txt"], "holds dev.txt and valid.txt: leave one of them for valid"),
    ],
)
def test_folders_that_hold_no_corpus(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        write(tmp_path / name, "one")
    with pytest.raises(ValueError, match=message):
        Corpus.from_file(tmp_path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=20).filter(lambda some: len(set(some)) >= 20), st.integers(0, 9))
def test_equal_texts_stay_together(numbers: list[int], seed: int) -> None:
    texts = [str(number) for number in numbers]
    split = split_texts(texts, seed)
    assert sorted(split["train"] + split["valid"] + split["test"]) == sorted(texts)
    parts = [set(part) for part in split.values()]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(parts[1]) == len(parts[2]) == len(set(texts)) // 20
    assert split == split_texts(texts, seed)


def test_texts_are_numbered_by_where_they_first_appear() -> None:
    texts = np.random.default_rng(0).integers(0, 20, 300).astype(str).tolist()
    first = list(dict.fromkeys(texts))
    numbers, count = _distinct_numbers(texts)
    assert numbers.tolist() == [first.index(text) for text in texts] and count == 20


def test_the_split_follows_from_the_seed() -> None:
    assert split_texts(LINES, 0) != split_texts(LINES, 1)


def test_too_few_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\n".join(LINES[:19] * 3))
    with pytest.raises(ValueError, match="a.txt holds 19 different texts, too few to split: give at least 20, or"):
        Corpus.from_file(path)
    with pytest.raises(ValueError, match="the corpus holds 1 different text, too few"):
        Corpus.from_texts(["one"])


# Windows

words = st.lists(st.text("abcé大😀 .", min_size=1, max_size=12) | st.just("Number"), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(words, st.integers(8, 40))
def test_long_texts_are_split_into_texts_that_fit(parts: list[str], max_length: int) -> None:
    text = " ".join(parts)
    texts = Texts.encode([text], TOKENIZER, max_length)
    assert (texts.lengths <= max_length).all()
    assert "".join("".join(texts[:]).split()) == "".join(text.split())
    assert all(texts.ids(i).tolist() == TOKENIZER.encode(texts[i]) for i in range(len(texts)))
    if len(texts) > 1:  # a word that fits is never cut
        kept = {word for piece in texts for word in piece.split()}
        assert {word for word in text.split() if 2 * len(TOKENIZER.encode(word)) <= max_length} <= kept


def test_pieces_are_of_similar_length() -> None:
    texts = Texts.encode(["Number 7 is odd. " * 20], TOKENIZER, 32)
    assert texts.lengths.max() - texts.lengths.min() <= 8
    assert len(texts) <= 2 + len(TOKENIZER.encode("Number 7 is odd. " * 20)) // 31
    assert Texts.encode(["zzzz zzz zz"], TOKENIZER, 9)[:] == ["zzzz", "zzz zz"]  # where the middle is nearest


def test_long_texts_are_dropped_and_those_that_just_fit_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroformer.inference.data.texts._CHUNK", 2)
    _, offsets, overlong = tokenize(["a", "x" * 99, "zzzzzzz", "b", "y" * 99], TOKENIZER, 8, "drop")
    assert (offsets.tolist(), overlong) == ([0, 2, 10, 12], 2)


@pytest.mark.parametrize(("first", "kind"), [(2**16 - 1, np.uint16), (2**16, np.uint32)])
def test_tokens_take_two_bytes_where_the_last_one_fits(first: int, kind: type) -> None:
    tokens, _, _ = tokenize(["a"], Labels(["a"], first), 8, "drop")
    assert tokens.dtype == kind and tokens.tolist() == [first, EOS]


def test_order_is_kept_over_many_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyroformer.inference.data.texts._CHUNK", 3)
    some = [str(i) if i % 3 else f"{i} is a number that does not fit" for i in range(20)]
    assert " ".join(Texts.encode(some, TOKENIZER, 8)) == " ".join(some)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": "64"}, "max_length is '64', a str: give a number"),
        ({"max_length": 64.5}, "max_length is 64.5: give a whole number, such as 64"),
        ({"max_length": None}, "max_length is None, a NoneType: give a number"),
        ({"max_length": 7}, "a max_length of 7 tokens is too short for text: give at least 8"),
        ({"max_length": -1}, "a max_length of -1 tokens is too short"),
        (
            {"vocabulary": 1},
            "a vocabulary of 1 is too small: 256 bytes and 3 special tokens take 259. Give",
        ),
        (
            {"max_length": 8, "overlong": "drop"},
            "no text of the train split fits into a max_length of 8 tokens: give a longer",
        ),
    ],
)
def test_sizes_that_hold_no_text(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    with pytest.raises(ValueError, match=message):
        Corpus.from_texts(
            [line + "x" * 30 for line in LINES], folder=tmp_path / "corpus", **{"vocabulary": 259, **options}
        )
    assert not (tmp_path / "corpus").exists()
    if "overlong" not in options:
        with pytest.raises(ValueError, match=message):  # before anything is read
            Corpus.from_file("missing.txt", **options)


def test_an_unknown_way_with_long_texts() -> None:
    with pytest.raises(ValueError, match="overlong is 'chop': choose one of split, drop"):
        check_length_options(8, "chop")


# Texts


def test_texts_are_a_sequence_of_strings() -> None:
    texts = Texts.encode(["one", "zwölf", ""], TOKENIZER, 8)
    assert list(texts) == texts[:] == ["one", "zwölf", ""]
    assert (texts[-1], texts[::-1], texts[5:]) == ("", ["", "zwölf", "one"], [])
    assert texts.lengths.tolist() == [len(TOKENIZER.encode(text)) for text in texts]
    assert texts.bytes.tolist() == [3, 6, 0]
    assert texts.ids(1).tolist() == TOKENIZER.encode("zwölf")
    assert repr(texts) == f"Texts(3 texts, {texts.lengths.sum()} tokens)"
    with pytest.raises(IndexError):
        texts[3]


def test_nothing_is_too_little_to_count() -> None:
    texts = Texts.encode([], TOKENIZER, 8)
    assert (len(texts), texts[:], texts.lengths.tolist(), texts.bytes.tolist()) == (0, [], [], [])


# Corpora


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    path = write(tmp_path / "numbers.txt", "\n".join([*LINES, "", "word " * 50]))
    return Corpus.from_file(path, vocabulary=4000, max_length=16, folder=tmp_path / "run" / "corpus")


def test_a_corpus_says_what_it_is(corpus: Corpus) -> None:
    assert corpus.summary() == (
        "numbers.txt: 101 texts (1 longer than 16 tokens split, 1 blank line left out), "
        f"{corpus.vocabulary}-token BPE (the text has no more; 4,000 were requested)"
    )
    assert corpus.counts == {"texts": 101, "overlong": 1, "blank": 1}
    assert repr(corpus).startswith("Corpus(numbers.txt: 101 texts")
    assert f"; train {len(corpus.train)}, valid {len(corpus.valid)}, test {len(corpus.test)})" in repr(corpus)


def test_a_corpus_holds_every_text(corpus: Corpus) -> None:
    held = [*corpus.train, *corpus.valid, *corpus.test]
    assert set(LINES) < set(held)
    assert "word " * 50 == " ".join(text for text in held if text not in LINES) + " "
    assert all(len(split.tokens) == split.lengths.sum() for split in (corpus.train, corpus.valid, corpus.test))
    assert corpus.train.bytes.sum() == sum(len(text.encode()) for text in corpus.train)
    assert (
        max(split.lengths.max() for split in (corpus.train, corpus.valid, corpus.test))
        <= corpus.padded_lengths[-1]
        <= 16
    )


def test_the_tokenizer_has_seen_the_training_texts_only(tmp_path: Path) -> None:
    splits = {"train": ["aaaa bbbb"] * 9, "valid": ["zzzz"] * 99, "test": ["yyyy"] * 99}
    corpus = Corpus.from_texts(splits, vocabulary=300)
    assert corpus.tokenizer.pieces("aaaa zz yy") == ["aaaa", " ", "z", "z", " ", "y", "y", "<eos>"]


def test_a_corpus_is_opened_without_its_source(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").unlink()
    for again in (Corpus.load(corpus.folder), pickle.loads(pickle.dumps(corpus))):
        assert again.summary() == corpus.summary()
        assert (again.max_length, again.padded_lengths, again.vocabulary) == (
            16,
            corpus.padded_lengths,
            corpus.vocabulary,
        )
        assert again.test[:] == corpus.test[:]


def test_tokens_lie_in_a_file_and_travel_as_its_path(corpus: Corpus) -> None:
    assert isinstance(corpus.train.tokens, np.memmap)
    assert corpus.train.tokens.dtype == np.uint16
    pickled = pickle.dumps(corpus.train.__getstate__() | {"tokenizer": None, "offsets": None})
    assert len(pickled) < 1000
    again = pickle.loads(pickle.dumps(corpus.train))
    assert isinstance(again.tokens, np.memmap) and again[:] == corpus.train[:]


def test_a_corpus_of_nowhere_cleans_up() -> None:
    corpus = Corpus.from_texts(LINES, vocabulary=259)
    folder, texts = corpus.folder, corpus.train
    assert (folder / "corpus.json").exists()
    del corpus
    gc.collect()
    assert folder.exists()  # the texts still need it
    assert len(texts[:]) == 90
    del texts
    gc.collect()
    assert not folder.exists()


def test_a_forked_process_leaves_the_folder_alone() -> None:
    corpus = Corpus.from_texts(LINES, vocabulary=259)
    _remove(str(corpus.folder), os.getpid() + 1)
    assert corpus.folder.exists()


def test_the_same_corpus_from_the_same_seed(corpus: Corpus, tmp_path: Path) -> None:
    again = Corpus.from_file(tmp_path / "numbers.txt", vocabulary=4000, max_length=16)
    assert again.train[:] == corpus.train[:]
    assert (again.folder / "tokenizer.json").read_text() == (corpus.folder / "tokenizer.json").read_text()
    other = Corpus.from_file(tmp_path / "numbers.txt", vocabulary=4000, max_length=16, seed=1)
    assert other.test[:] != corpus.test[:]


def test_a_given_tokenizer_is_used(tmp_path: Path) -> None:
    corpus = Corpus.from_texts(LINES, tokenizer=TOKENIZER)
    assert corpus.vocabulary == 270
    assert corpus.summary() == "100 texts, 270-token BPE"


@pytest.mark.parametrize(("kind", "words"), [("bytes", "259 byte tokens"), ("characters", "{} character tokens")])
def test_the_tokens_are_called_what_they_are(kind: TokenizerKind, words: str) -> None:
    corpus = Corpus.from_texts([f"é {line}" for line in LINES], tokenizer=kind)
    assert corpus.summary() == f"100 texts, {words.format(corpus.vocabulary)}"


def test_the_vocabulary_grows_with_the_text() -> None:
    assert Corpus.from_texts(LINES).vocabulary < 1000
    assert [auto_vocabulary(size) for size in (1, 10**6, 4 * 10**6, 10**8)] == [1000, 4000, 8000, 32000]


def test_batches_for_a_loop_of_ones_own(corpus: Corpus) -> None:
    for split, texts in {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}.items():
        batches = list(corpus.batches(split, 8))
        assert sum(int((batch.weight > 0).sum()) for batch in batches) == len(texts)
        assert all(float(batch.weight.sum()) == pytest.approx(1) for batch in batches)
        assert {batch.tokens.shape[1] for batch in batches} <= set(corpus.padded_lengths)  # type: ignore[union-attr]
    assert len(list(corpus.batches("train", 8, epochs=3))) == 3 * -(-len(corpus.train) // 8)


def test_splits_that_are_not_there(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="split is 'dev': choose one of train, valid, test"):
        corpus.batches("dev")
    with pytest.raises(ValueError, match="the splits are train, dev: give train, valid and test"):
        Corpus.from_texts({"train": LINES, "dev": LINES})


@pytest.mark.parametrize("at", ["train.tokens.npy", "test.offsets.npy", "tokenizer.json", "corpus.json"])
def test_a_kill_while_writing_leaves_no_half_corpus(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    before, folder = corpus.train[:], corpus.folder
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target.name == at:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        Corpus.from_texts(LINES, vocabulary=270, folder=folder)
    assert not list(folder.glob(".*"))
    with pytest.raises(
        ValueError, match="holds no corpus .*corpus.json: No such file.*: make one with Corpus.from_file"
    ):
        Corpus.load(folder)
    assert corpus.train[:] == before  # whoever has the old one open keeps it
    assert Corpus.from_texts(LINES, vocabulary=270, folder=folder).train[:] == Corpus.load(folder).train[:]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ValueError, match="cannot write the corpus into .*: No space left on device. Give another"):
        Corpus.from_texts(LINES, folder=tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_full_disk_that_numpy_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("1000 requested and 12 written")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(
        ValueError, match="cannot write the corpus into .*: .* could not be written whole: is the disk f"
    ):
        Corpus.from_texts(LINES, folder=tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "run", "one")
    with pytest.raises(ValueError, match="cannot write the corpus into .*run: File exists. Give another folder"):
        Corpus.from_texts(LINES, folder=tmp_path / "run")


def damages() -> Iterator[tuple[str, bytes | None, str]]:
    yield "corpus.json", None, "holds no corpus .*: make one with Corpus.from_file"
    yield "corpus.json", b'{"name"', r"is damaged \(corpus.json: .*\): make it anew"
    yield "corpus.json", b"\xff", r"is damaged \(corpus.json: .*\): make it anew"
    yield "corpus.json", b"[]", r"is damaged \(corpus.json describes no corpus\): make it anew"
    yield "tokenizer.json", b"", "tokenizer.json holds no tokenizer"
    yield "tokenizer.json", TOKENIZER.core.to_str().encode(), r"is damaged \(its tokenizer has 270 tokens, not \d+\)"
    yield "valid.tokens.npy", None, "is damaged .*: make it anew"
    yield "valid.tokens.npy", b"\x93NUMPY", "is damaged .*: make it anew"
    yield "valid.offsets.npy", b"", "is damaged .*: make it anew"
    yield "test.offsets.npy", pickle.dumps([1]), "is damaged .*: make it anew"


@pytest.mark.parametrize(("name", "content", "message"), list(damages()))
def test_a_damaged_corpus(corpus: Corpus, name: str, content: bytes | None, message: str) -> None:
    (corpus.folder / name).unlink()
    write(corpus.folder / name, content)
    with pytest.raises(ValueError, match=message):
        Corpus.load(corpus.folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_length", ["a"], r"has \"\['a'\]\" as max_length, which is no whole number"),
        ("seed", "x", "has 'x' as seed, which is no whole number"),
        ("vocabulary", True, "has 'True' as vocabulary"),
        ("requested_vocabulary", 1.5, "has '1.5' as requested_vocabulary"),
        ("texts", {"train": -1}, "has '-1' as texts.train"),
        ("counts", {"texts": "9"}, "has '9' as counts.texts"),
        ("padded_lengths", [0, -5], r"has '\[0, -5\]' as padded_lengths, which are no ascending numbers"),
        ("padded_lengths", [], r"has '\[\]' as padded_lengths"),
        ("padded_lengths", 8, "has '8' as padded_lengths"),
        ("overlong", 7, "has '7' as overlong"),
        ("overlong", "cut", "has 'cut' as overlong"),
        ("name", 5, "has '5' as name"),
        ("conditions", {"labels": ["a"], "padded_lengths": [-1]}, "has no lengths of conditions"),
    ],
)
def test_metadata_of_other_types(key: str, value: object, message: str, corpus: Corpus) -> None:
    content = json.loads((corpus.folder / "corpus.json").read_text()) | {key: value}
    write(corpus.folder / "corpus.json", json.dumps(content))
    with pytest.raises(ValueError, match=rf"is damaged \(corpus.json {message}.*\): make it anew"):
        Corpus.load(corpus.folder)


def test_tokens_that_the_tokenizer_lacks(corpus: Corpus) -> None:
    tokens = np.load(corpus.folder / "train.tokens.npy")
    tokens[5] = corpus.vocabulary
    np.save(corpus.folder / "train.tokens.npy", tokens)
    size = corpus.vocabulary
    with pytest.raises(
        ValueError, match=rf"the corpus is damaged \(it holds token {size}, and its tokenizer has {size}\)"
    ):
        list(Corpus.load(corpus.folder).batches("train", 8))


@pytest.mark.parametrize("part", ["offsets", "tokens"])
def test_splits_of_another_size(corpus: Corpus, part: str) -> None:
    (corpus.folder / f"test.{part}.npy").write_bytes((corpus.folder / f"train.{part}.npy").read_bytes())
    with pytest.raises(ValueError, match=r"is damaged \(the test texts are not all there\)"):
        Corpus.load(corpus.folder)


# Built in

EXAMPLE = '''
"""Tools for cheese.

The module lets one age `cheese` in a cellar, e.g. for years.  It needs
patience; see also wine.

    cellar = Cellar(depth=3)  # This is code.

>>> Cellar().age()
The result is none.

Parameters:
  depth: The depth in metres.
  - Each item is a sentence of its own.
"""
class Cellar:
    def age(self):
        """Return the age. not a sentence"""
        raise RuntimeError("must not be run")
'''


def test_prose_is_told_from_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cheese.py", EXAMPLE)
    write(tmp_path / "broken.py", "def (")
    write(tmp_path / "site-packages" / "other.py", '"""This is not part of Python."""')
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    monkeypatch.setattr(builtin, "MIN_SENTENCES", 1)
    assert builtin.sentences() == [
        "Tools for cheese.",
        "The module lets one age cheese in a cellar, e.g. for years.",
        "It needs patience; see also wine.",
        "Each item is a sentence of its own.",
        "Return the age.",
    ]
    monkeypatch.setattr(builtin, "MIN_SENTENCES", 6)
    with pytest.raises(ValueError, match="holds 5 sentences, the built-in corpus needs the standard library's sources"):
        builtin.sentences()


@pytest.mark.slow
def test_the_built_in_corpus() -> None:
    corpus = Corpus.builtin()
    texts = [*corpus.train, *corpus.valid, *corpus.test]
    assert 8_000 < len(texts) == len(set(texts)) < 20_000
    assert corpus.vocabulary == 4000
    for split in (corpus.valid, corpus.test):
        assert len(split) == pytest.approx(len(texts) / 20, rel=0.02)
    assert all(3 <= len(text.split()) <= 40 and text[0] in '("ABCDEFGHIJKLMNOPQRSTUVWXYZ' for text in texts)
    assert not any(mark in text for text in texts for mark in ("`", ">>>", "=", "{", "\\", "  ", "\n"))
    assert 0.8 < np.mean([batch.mask.float().mean() for batch in corpus.batches("train")])  # type: ignore[union-attr]


# Real ones


def test_lines_of_an_encyclopedia(data: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, source in (("train", "test"), ("valid", "valid")):  # the longest split is left out
        (texts / f"{name}.txt").symlink_to(data / "wikitext-2-nvib" / f"{source}.txt")
    corpus = Corpus.from_file(texts, vocabulary=4000, folder=tmp_path / "corpus")
    lines = (texts / "valid.txt").read_text().splitlines()
    assert " ".join(corpus.valid) == " ".join(lines)
    assert corpus.counts["texts"] == 7697 + 9084 and corpus.counts["overlong"] < 500
    assert len(corpus.padded_lengths) == 6
    assert len(list(corpus.batches("valid"))) == -(-len(corpus.valid) // 64)


@pytest.mark.parametrize(("name", "field", "count"), [("snli/pairs.test.tsv", 0, 9824), ("clinc150", None, 22500)])
def test_other_corpora_are_read(data: Path, name: str, field: int | None, count: int) -> None:
    splits, _ = read_texts(data / name, field)
    assert sum(map(len, splits.values())) == count


def with_old_keys(folder: Path) -> None:
    """Rewrites corpus.json with the keys of earlier versions."""
    content = json.loads((folder / "corpus.json").read_text())
    keys = {"max_length": "window", "overlong": "long", "requested_vocabulary": "asked", "padded_lengths": "widths"}
    for part in (content, content["counts"], content.get("conditions", {})):
        for key, old in keys.items():
            if key in part:
                part[old] = part.pop(key)
    assert {"window", "long", "asked", "widths"} <= content.keys() and "long" in content["counts"]
    (folder / "corpus.json").write_text(json.dumps(content, indent=1))


def test_a_corpus_of_an_earlier_version_is_opened(corpus: Corpus) -> None:
    with_old_keys(corpus.folder)
    again = Corpus.load(corpus.folder)
    assert again.summary() == corpus.summary()
    assert (again.max_length, again.overlong, again.requested_vocabulary) == (16, "split", 4000)
    assert again.padded_lengths == corpus.padded_lengths
    assert again.counts == {"texts": 101, "overlong": 1, "blank": 1}
    assert again.train[:] == corpus.train[:]


@pytest.mark.parametrize("labels", [True, False])
def test_pairs_of_an_earlier_version_are_opened(tmp_path: Path, labels: bool) -> None:
    pairs = [("even" if i % 2 == 0 else "odd", line) for i, line in enumerate(LINES)]
    corpus = Corpus.from_texts(pairs, vocabulary=300, labels=labels, folder=tmp_path / "corpus")
    with_old_keys(corpus.folder)
    assert json.loads((corpus.folder / "corpus.json").read_text())["conditions"].keys() == {"labels", "widths"}
    again = Corpus.load(corpus.folder)
    assert again.summary() == corpus.summary()
    assert (again.labels, again.vocabulary) == (corpus.labels, corpus.vocabulary)
    assert again.entries("test") == corpus.entries("test")
    assert again.test.conditions is not None and corpus.test.conditions is not None
    assert again.test.conditions.padded_lengths == corpus.test.conditions.padded_lengths


def test_json_of_the_metadata_is_plain(corpus: Corpus) -> None:
    about = json.loads((corpus.folder / "corpus.json").read_text())
    assert about["texts"] == {split: len(getattr(corpus, split)) for split in ("train", "valid", "test")}


def test_a_negative_seed_and_no_epochs_are_refused() -> None:
    texts = [f"Number {i} is a number." for i in range(60)]
    with pytest.raises(ValueError, match="seed is -1: give a whole number of at least 0"):
        Corpus.from_texts(texts, seed=-1)
    with pytest.raises(ValueError, match="epochs is 0: give a whole number of at least 1"):
        Corpus.from_texts(texts, vocabulary=270).batches(epochs=0)
