"""Pairs (condition, text): read, split, tokenize and batched together; labels that no text can spell."""

import gzip
import json
import pickle
import shlex
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyroformer.inference.cli.main import main
from pyroformer.inference.cli.source import read_corpus
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.entries import Pair
from pyroformer.inference.data.labels import MAX_LABELS, Labels, label_names
from pyroformer.inference.data.loaders import TrainingStream
from pyroformer.inference.data.pairs import condition_lengths, encode_pairs, unzip_pairs
from pyroformer.inference.data.sources.readers import read_file, read_texts
from pyroformer.inference.data.splits import split_texts
from pyroformer.inference.data.texts import Texts
from pyroformer.inference.data.tokenizer import Tokenizer
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.run import Run, load
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.training.compiled import CompiledObjective
from pyroformer.inference.training.fit import fit
from pyroformer.models.batch import EOS, PAD, Batch
from pyroformer.models.language_model import LanguageModel
from pyroformer.models.nvae import NVAE

INTENTS = ["book", "cancel", "order"]
PAIRS = [(INTENTS[i % 3], f"Please {INTENTS[i % 3]} table {i}.") for i in range(60)]
QUESTIONS = [(f"What comes after {i}{'?' * (i % 9)}", f"Number {i + 1}.") for i in range(60)]
TOKENIZER = Tokenizer.train([text for pair in PAIRS + QUESTIONS for text in pair], 300)
BYTEWISE = Tokenizer.train([""], 259)
LONG = " ".join(str(i**3) for i in range(60))


def write(path: Path, content: str) -> Path:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def conditions_of(texts: Texts) -> Texts:
    assert texts.conditions is not None
    return texts.conditions


def pairs_of(texts: Texts) -> list[Pair]:
    return list(zip(conditions_of(texts)[:], texts[:], strict=True))


def listed(part: Tensor | None) -> Any:
    assert part is not None
    return part.tolist()


# Reading


@pytest.mark.parametrize(
    ("name", "content", "condition", "field"),
    [
        ("a.tsv", "in\tone two\n0\t x\r\n", 0, None),
        ("a.tsv", "one two\tin\nx\t0", 1, None),
        ("a.tsv", "one two\tin\nx\t0", "1", "0"),
        ("a.tsv", "one two\tin\t0\nx\t0\t1", 1, 0),  # a number is a column's number, whatever the first line holds
        ("a.tsv", "intent\ttext\nin\tone two\n0\tx", "intent", None),
        ("a.tsv", "intent\ttext\nin\tone two\n0\tx", 0, None),
        ("a.tsv", "id\ttext\tintent\n7\tone two\tin\n8\tx\t0", "intent", None),
        ("a.tsv", "text\tbody\nin\tone two\n0\tx", "text", None),
        ("a.tsv", "id\tbody\tintent\n7\tone two\tin\n8\tx\t0", "intent", "body"),
        ("a.tsv.gz", "in\tone two\n0\tx", 0, 1),
        ("a.txt", "in\tone two\n0\tx\n", 0, None),
        ("a.txt.gz", "in\tone two\n0\tx\n", "0", "1"),
        ("a.jsonl", '{"text": "one two", "intent": "in"}\n{"intent": "0", "text": "x"}', "intent", None),
        ("a.jsonl.gz", '{"q": " in", "a": "one two"}\n{"q": "0", "a": "x"}', "q", "a"),
    ],
)
def test_each_kind_of_file(
    tmp_path: Path, name: str, content: str, condition: str | int, field: str | int | None
) -> None:
    path = write(tmp_path / name, content)
    assert read_file(path, field, condition=condition) == ([("in", "one two"), ("0", "x")], 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a\tb\n\n \t \n  \nc\td\n"),
        ("a.tsv", "\n\t\n0\ttext\na\tb\n\nc\td"),
        ("a.jsonl", '\n{"0": "a", "text": "b"}\n  \n{"0": " ", "text": ""}\n{"0": "c", "text": "d"}'),
    ],
)
def test_blank_lines_are_counted(tmp_path: Path, name: str, content: str) -> None:
    assert read_file(write(tmp_path / name, content), condition=0) == ([("a", "b"), ("c", "d")], 3)


MISREAD: list[tuple[str, str, str | int, str | int | None, str]] = [
    ("a.tsv", "a\tb\nc\n", 0, None, r"line 2 of .*a.tsv has no tab: a pair is a condition, a tab and a text"),
    ("a.txt", "a text alone\n", 0, None, r"line 1 of .*a.txt has no tab: a pair is a condition, a tab and a text"),
    ("a.tsv", "a\tb\n\n\tc\n", 0, None, r"line 3 of .*a.tsv holds a text without a condition: give both, or leave"),
    ("a.txt", "a\tb\nc\t \n", 0, None, r"line 2 of .*a.txt holds a condition without a text: give both, or leave"),
    ("a.jsonl", '{"c": "", "text": "a"}', "c", None, r"line 1 of .*a.jsonl holds a text without a condition: give"),
    ("a.tsv", "a\tb", 0, 0, r"the condition and the text of .*a.tsv are both column 0: name two different fields"),
    ("a.tsv", "c\ttext\n", "c", 0, r"the condition and the text of .*a.tsv are both column 0: name two different"),
    ("a.jsonl", "{}", "text", None, r"the condition and the text of .*a.jsonl are both 'text': name two different"),
    ("a.tsv", "a\tb", 2, None, r"line 1 of .*a.tsv has 2 columns, so none of number 2 \(from 0\)"),
    ("a.tsv", "a\tb\tc\nd\te", 2, 0, r"line 2 of .*a.tsv has 2 columns, so none of number 2 \(from 0\)"),
    ("a.tsv", "a\tb\tc", 0, None, r"a.tsv has 3 columns: name the one with the texts as the field, by its name"),
    ("a.tsv", "a\ttext", "intent", None, r"a.tsv has no column 'intent' but 'a', 'text': give a name in its first"),
    ("a.txt", "a\ttext", "intent", None, r"a.txt has no column 'intent' but 'a', 'text': give a name in its first"),
    ("a.tsv", "a\ttext", -1, None, r"a.tsv has no column -1 but 'a', 'text': give a name"),
    ("a.jsonl", '{"text": "a"}', "c", None, r"line 1 of .*lacks the field 'c': .* Name the field of the condition"),
    ("a.jsonl", '{"c": "a"}', "c", None, r"line 1 of .*lacks the field 'text': .* Name the field of the text"),
    ("a.jsonl", '{"c": 3.5, "text": "a"}', "c", None, r"line 1 of .*a.jsonl holds 3.5 as 'c': it must be a text"),
    ("a.tsv", "\t\n\n", 0, None, r"a.tsv holds only blank lines \(2 of them\)"),
    ("a.txt", "", 0, None, r"a.txt is empty"),
]


@pytest.mark.parametrize(("name", "content", "condition", "field", "message"), MISREAD)
def test_what_is_no_pair(
    tmp_path: Path, name: str, content: str, condition: str | int, field: str | int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Corpus.from_file(write(tmp_path / name, content), field=field, condition=condition)
    assert "\n" not in str(caught.value)


# Splits


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=20), st.integers(0, 9))
def test_pairs_of_equal_texts_stay_together(numbers: list[tuple[int, int]], seed: int) -> None:
    pairs = [(str(condition), str(text)) for condition, text in [*numbers, *((0, i) for i in range(20))]]
    split = split_texts(pairs, seed, labels=False)  # labels may pull texts into training
    assert sorted(split["train"] + split["valid"] + split["test"]) == sorted(pairs)
    alone = split_texts([text for _, text in pairs], seed)
    assert {part: [text for _, text in some] for part, some in split.items()} == alone


def test_a_folder_gives_its_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "".join(f"{condition}\t{text}\n" for condition, text in PAIRS))
    write(tmp_path / "test.jsonl", '{"0": "book", "text": "d"}')
    splits, blank = read_texts(tmp_path, condition="0")
    assert sorted(splits["train"] + splits["valid"]) == sorted(PAIRS)
    assert (len(splits["valid"]), splits["test"], blank) == (3, [("book", "d")], 0)


# Labels


def test_a_label_is_one_token_beyond_those_of_texts() -> None:
    labels = Labels(["book", "New York", "größe"], TOKENIZER.vocabulary)
    size = TOKENIZER.vocabulary
    assert labels.encode_batch(["größe", "book"]) == [[size + 2, EOS], [size, EOS]]
    assert labels.vocabulary == len(labels) + size == len(labels.byte_lengths())
    assert labels.byte_lengths()[[EOS, size, size + 2]].tolist() == [0, 4, 7]
    assert labels.decode_batch(torch.tensor([[size + 1, EOS, PAD], [size, PAD, PAD]])) == ["New York", "book"]
    assert repr(labels) == "Labels(3 labels)"


@pytest.mark.parametrize(("text", "close"), [("bok", "'book'"), ("xyz", "'book', 'cancel'")])
def test_a_label_that_training_has_not_seen(text: str, close: str) -> None:
    message = (
        f"'{text}' is none of the 2 labels that the training texts have: give one of those, such as {close}, or make a "
        r"corpus whose conditions are texts \(labels=False\)"
    )
    with pytest.raises(ValueError, match=message):
        Labels(["book", "cancel"], 259).encode(text)


@pytest.mark.parametrize("seed", range(3))
def test_training_has_a_text_of_every_label(seed: int) -> None:
    rare = [(f"rare{n}", f"a text of its own {n}") for n in range(30)]
    pairs = [("common", f"text {n}") for n in range(100)] + rare
    split = split_texts(pairs, seed)
    assert {label for label, _ in split["train"]} == {"common", *(label for label, _ in rare)}
    assert sorted(pair for part in split.values() for pair in part) == sorted(pairs) and split["valid"]
    texts = [(f"a condition {n}", f"text {n}") for n in range(100)]  # that is no label
    assert len(split_texts(texts, seed)["test"]) == 5


def test_labels_of_one_text_each_leave_nothing_to_hold_out() -> None:
    pairs = [(f"label{n}", f"text {n}") for n in range(40)]
    with pytest.raises(ValueError, match="so few texts of each label that none is left for valid: .*labels=False"):
        split_texts(pairs)
    assert len(split_texts(pairs, labels=False)["valid"]) == 2


def test_what_counts_as_a_label_unless_one_says_otherwise() -> None:
    many = [str(i) for i in range(MAX_LABELS + 1)]
    assert label_names(["b", "a", "b"]) == ["a", "b"]
    assert label_names(many[1:]) == sorted(many[1:])
    for texts in (many, ["a", "New York"], ["a", "a\u00a0b"], ["a", ""], []):
        assert label_names(texts) is None
        assert label_names(texts, labels=True) == sorted(texts)
    assert label_names(["a"], labels=False) is None


# Tokens


def test_texts_and_pairs_are_told_apart() -> None:
    assert unzip_pairs(["a", "b"]) == (["a", "b"], None)
    assert unzip_pairs([]) == ([], None)
    assert unzip_pairs([["a", "b"]]) == (["b"], ["a"])
    for mixed in ([("a", "b"), "cd"], [("a", "b"), ("c", "d", "e")], [("a",)]):
        with pytest.raises(ValueError, match=r"entry \d is .*, the first one a pair: give pairs \(condition, text\)"):
            unzip_pairs(mixed)


def test_long_pairs_are_dropped_whole() -> None:
    fits, overlong = "x" * 7, "x" * 9  # a text has an end besides, a condition none
    pairs = [(overlong, "a"), ("b", overlong), (fits + "x", fits), ("c", fits + "x"), (fits, "d")]
    texts = encode_pairs([t for _, t in pairs], [c for c, _ in pairs], BYTEWISE, BYTEWISE, 8, "drop")
    assert (pairs_of(texts), texts.overlong) == ([(fits + "x", fits), (fits, "d")], 3)
    assert (texts.padded_lengths, conditions_of(texts).padded_lengths) == ((8,), (9,))


@pytest.mark.parametrize(
    ("condition", "text", "what"),
    [
        ("q", "x" * 60, r"the text 'x{40}'\.\.\. has 61 tokens"),
        ("q" * 60, "x", r"the condition 'q{40}'\.\.\. has 60 tokens"),
    ],
)
def test_a_pair_cannot_be_split(condition: str, text: str, what: str) -> None:
    message = ", the max_length is 16, and a pair cannot be split: give a longer max_length, or leave such "
    message += "pairs out .overlong="
    with pytest.raises(ValueError, match=what + message):
        encode_pairs(["fits", text], ["fits", condition], BYTEWISE, BYTEWISE, 16)


def test_a_selection_keeps_the_conditions() -> None:
    texts = encode_pairs([t for _, t in QUESTIONS], [c for c, _ in QUESTIONS], TOKENIZER, TOKENIZER, 64)
    some = texts.select(np.array([7, 3, 3]))
    assert pairs_of(some) == [QUESTIONS[7], QUESTIONS[3], QUESTIONS[3]]
    assert (
        some.padded_lengths == texts.padded_lengths
        and conditions_of(some).padded_lengths == conditions_of(texts).padded_lengths
    )
    assert some.bytes.tolist() == [len(QUESTIONS[i][1]) for i in (7, 3, 3)]
    assert len(texts.select(np.array([], dtype=int))) == 0
    assert repr(some) == f"Texts(3 pairs, {len(some.tokens)} tokens)"


# Batches


def test_a_batch_by_hand() -> None:
    texts = encode_pairs(["b", "de", "f"], ["aa", "c", ""], BYTEWISE, BYTEWISE, 8)
    batch = texts.batch(np.array([1, 0, -1, 2]), 8)
    a, b, c, d, e, f = (BYTEWISE.encode(letter)[0] for letter in "abcdef")
    rest = [PAD] * 5
    assert listed(batch.tokens) == [
        [d, e, EOS, *rest],
        [b, EOS, PAD, *rest],
        [EOS, PAD, PAD, *rest],
        [f, EOS, PAD, *rest],
    ]
    assert listed(batch.condition_tokens) == [[c, *[PAD] * 7], [a, a, *[PAD] * 6], [PAD] * 8, [PAD] * 8]
    assert listed(batch.condition_mask)[1] == [True, True, *[False] * 6]
    assert [sum(row) for row in listed(batch.condition_mask)] == [1, 2, 0, 0]
    assert batch.weight.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_a_condition_is_as_wide_as_the_longest_of_its_batch_asks_for() -> None:
    lengths = [1, 8, 9, 16, 17, 24, 40]
    texts = encode_pairs(["x"] * 7, ["c" * length for length in lengths], BYTEWISE, BYTEWISE, 64)
    widths = [width - 1 for width in conditions_of(texts).padded_lengths]
    assert len(widths) == 3 and all(width % 8 == 0 for width in widths)
    for index, length in enumerate(lengths):
        condition = texts.batch(np.array([0, index, -1]), 8).condition_tokens
        assert condition is not None and condition.shape[1] == min(width for width in widths if width >= length)


@pytest.mark.parametrize(
    ("lengths", "max_length", "expected"),
    [([2], 64, (2,)), ([1], 64, (2,)), ([], 64, (2,)), ([3], 64, (9,)), ([65, 2], 64, (9, 65)), ([61], 60, (61,))],
)
def test_widths_of_conditions_count_the_end_that_batches_leave_out(
    lengths: list[int], max_length: int, expected: tuple[int, ...]
) -> None:
    assert condition_lengths(np.array(lengths, dtype=int), max_length) == expected


def rows(batches: list[Batch]) -> list[tuple[list[int], list[int]]]:
    """The tokens of each real row's condition and text."""
    return [
        (condition[seen].tolist(), tokens[mask].tolist())
        for batch in batches
        for tokens, mask, weight, condition, seen in zip(*batch, strict=True)
        if weight
    ]


@pytest.mark.parametrize("pairs", [PAIRS, QUESTIONS])
def test_every_pair_comes_once_an_epoch(pairs: list[Pair]) -> None:
    corpus = Corpus.from_texts(pairs, vocabulary=300)
    for split, texts in {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}.items():
        expected = [(conditions_of(texts).ids(i)[:-1].tolist(), texts.ids(i).tolist()) for i in range(len(texts))]
        assert sorted(rows(list(corpus.batches(split, 8)))) == sorted(expected)
    assert pairs_of(corpus.train) == split_texts(pairs)["train"]


def test_the_order_of_training_does_not_depend_on_conditions() -> None:
    alone = TrainingStream(
        Corpus.from_texts([text for _, text in PAIRS], tokenizer=TOKENIZER).train, 4, accumulate_grad_batches=2
    )
    paired = TrainingStream(Corpus.from_texts(PAIRS, tokenizer=TOKENIZER).train, 4, accumulate_grad_batches=2)
    for one, other in zip(islice(alone, 30), paired, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))  # type: ignore[arg-type]


def test_a_stream_of_pairs_resumes() -> None:
    texts = Corpus.from_texts(QUESTIONS, tokenizer=TOKENIZER).train
    uninterrupted, resumed = TrainingStream(texts, 8), pickle.loads(pickle.dumps(TrainingStream(texts, 8)))
    resumed.resume(uninterrupted.position(5))
    for one, other in zip(islice(uninterrupted, 5, 12), resumed, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Corpora


@pytest.mark.parametrize(
    ("pairs", "options", "expected"),
    [
        (PAIRS, {}, "60 pairs, 3 labels, {}-token BPE"),
        (PAIRS, {"labels": False}, "60 pairs, {}-token BPE"),
        (QUESTIONS, {}, "60 pairs, {}-token BPE"),
        ([("only", text) for _, text in PAIRS], {}, "60 pairs, 1 label, {}-token BPE"),
        ([(c + " now", text) for c, text in PAIRS], {"labels": True}, "60 pairs, 3 labels, {}-token BPE"),
        ([*PAIRS, ("book", LONG)], {"overlong": "drop"}, "61 pairs (1 longer than 64 tokens dropped), 3 labels, "),
    ],
)
def test_a_corpus_of_pairs_says_so(pairs: list[Pair], options: dict[str, Any], expected: str) -> None:
    corpus = Corpus.from_texts(pairs, vocabulary=300, **options)
    assert corpus.summary().startswith(expected.format(corpus.tokenizer.vocabulary))
    assert corpus.conditional
    assert corpus.vocabulary == corpus.tokenizer.vocabulary + len(corpus.labels)


@pytest.mark.parametrize("labels", [True, False])
def test_a_corpus_is_opened_without_its_source(tmp_path: Path, labels: bool) -> None:
    path = write(tmp_path / "pairs.tsv", "".join(f"{condition}\t{text}\n" for condition, text in PAIRS))
    corpus = Corpus.from_file(path, vocabulary=300, condition=0, labels=labels, folder=tmp_path / "corpus")
    path.unlink()
    for again in (Corpus.load(tmp_path / "corpus"), pickle.loads(pickle.dumps(corpus))):
        assert again.summary() == corpus.summary()
        assert (again.labels, again.vocabulary) == (corpus.labels, corpus.vocabulary)
        assert again.labels == (tuple(INTENTS) if labels else ())
        for split in ("train", "valid", "test"):
            assert pairs_of(getattr(again, split)) == pairs_of(getattr(corpus, split))
        assert isinstance(conditions_of(again.train).tokens, np.memmap)
        assert conditions_of(again.train).padded_lengths == (2,)
    assert sorted(pairs_of(corpus.train) + pairs_of(corpus.valid) + pairs_of(corpus.test)) == sorted(PAIRS)
    assert pairs_of(pickle.loads(pickle.dumps(corpus.train))) == pairs_of(corpus.train)


def test_the_name_of_a_label_in_a_text_is_text() -> None:
    corpus = Corpus.from_texts(PAIRS, vocabulary=300)
    assert max(corpus.train.tokens) < corpus.tokenizer.vocabulary
    assert min(conditions_of(corpus.train).tokens[::2]) >= corpus.tokenizer.vocabulary
    assert corpus.tokenizer.decode(corpus.tokenizer.encode("book book")) == "book book"
    batch = corpus.train.batch(np.arange(8), corpus.padded_lengths[-1])
    assert batch.condition_tokens is not None and batch.condition_tokens.shape == (8, 1)
    assert corpus.condition_tokenizer is not None
    assert corpus.condition_tokenizer.decode_batch(batch.condition_tokens) == conditions_of(corpus.train)[:8]


def test_one_tokenizer_learns_from_texts_and_conditions() -> None:
    splits = {split: [("zzzz yyyy", "aaaa bbbb")] * 9 for split in ("train", "valid", "test")}
    assert Corpus.from_texts(splits, vocabulary=300).tokenizer.pieces("aaaa zzzz") == ["aaaa", " ", "zzzz", "<eos>"]
    labeled = Corpus.from_texts(splits, vocabulary=300, labels=True)
    assert labeled.tokenizer.pieces("aaaa zz") == ["aaaa", " ", "z", "z", "<eos>"]


def test_texts_of_a_corpus_of_pairs_are_pairs_again() -> None:
    corpus = Corpus.from_texts(PAIRS, vocabulary=300)
    again = Corpus.from_texts({split: getattr(corpus, split) for split in ("train", "valid", "test")}, vocabulary=300)
    assert pairs_of(again.test) == pairs_of(corpus.test)
    assert again.labels == corpus.labels


def test_corpora_of_texts_are_as_they_were() -> None:
    corpus = Corpus.from_texts([text for _, text in PAIRS], vocabulary=300)
    keys = {"name", "max_length", "overlong", "seed", "requested_vocabulary", "vocabulary", "texts"}
    keys |= {"padded_lengths", "counts"}
    assert json.loads((corpus.folder / "corpus.json").read_text()).keys() == keys
    arrays = {f"{split}.{kind}.npy" for split in ("train", "valid", "test") for kind in ("tokens", "offsets")}
    assert {path.name for path in corpus.folder.iterdir()} == arrays | {"corpus.json", "tokenizer.json"}
    assert (corpus.conditional, corpus.labels, corpus.condition_tokenizer) == (False, (), None)
    assert corpus.vocabulary == corpus.tokenizer.vocabulary
    for split in ("train", "test"):
        assert getattr(corpus, split).conditions is None
        assert all(batch.condition_tokens is None for batch in corpus.batches(split))


def test_splits_of_two_kinds() -> None:
    with pytest.raises(ValueError, match="train holds pairs and test texts alone: give pairs in every split, or in no"):
        Corpus.from_texts({"train": PAIRS, "valid": PAIRS, "test": ["a"]})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="labels are conditions, and these texts have none: give pairs, or leave lab"):
        Corpus.from_texts([text for _, text in PAIRS], labels=True)
    with pytest.raises(
        ValueError, match="no pair of the test split fits into a max_length of 16 tokens: give a longer max_length"
    ):
        some = [("c", "short")]
        Corpus.from_texts({"train": some, "valid": some, "test": [("c", LONG)]}, max_length=16, overlong="drop")


def test_a_held_out_label_that_training_lacks() -> None:
    splits = {"train": PAIRS, "valid": PAIRS, "test": [("ordre", "x")]}
    with pytest.raises(ValueError, match="'ordre' is none of the 3 labels .*, such as 'order', or .*labels=False"):
        Corpus.from_texts(splits)
    assert pairs_of(Corpus.from_texts(splits, labels=False).test) == [("ordre", "x")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("valid.conditions.tokens.npy", None, "is damaged .*: make it anew"),
        ("test.conditions.offsets.npy", b"", "is damaged .*: make it anew"),
        ("corpus.json", {"conditions": 3}, r"is damaged \(corpus.json describes no conditions\): make it anew"),
        ("corpus.json", {"conditions": {}}, r"is damaged \(corpus.json describes no conditions\): make it anew"),
        (
            "corpus.json",
            {"conditions": {"labels": ["a"], "padded_lengths": [2]}},
            r"its tokenizer has \d+ tokens, not \d+\): m",
        ),
    ],
)
def test_a_damaged_corpus(tmp_path: Path, name: str, content: bytes | dict[str, Any] | None, message: str) -> None:
    folder = Corpus.from_texts(PAIRS, vocabulary=300, folder=tmp_path / "corpus").folder
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / name).read_text()) | content).encode()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Corpus.load(folder)


def test_conditions_of_another_number_than_texts(tmp_path: Path) -> None:
    folder = Corpus.from_texts(PAIRS, vocabulary=300, folder=tmp_path / "corpus").folder
    for kind in ("tokens", "offsets"):
        content = (folder / f"train.conditions.{kind}.npy").read_bytes()
        (folder / f"test.conditions.{kind}.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged \(the test.conditions texts are not all there\)"):
        Corpus.load(folder)


def test_other_pairs_are_encoded_as_those_of_the_corpus() -> None:
    corpus, texts = (
        Corpus.from_texts(PAIRS, vocabulary=300),
        Corpus.from_texts([text for _, text in PAIRS], vocabulary=300),
    )
    assert pairs_of(corpus.encode(PAIRS[:3])) == PAIRS[:3]
    assert corpus.encode(corpus.test) is corpus.test
    assert list(texts.encode(["a", "b"])) == ["a", "b"]
    for some in (["a"], texts.test):
        with pytest.raises(ValueError, match=r"these texts lack the conditions .*: give pairs \(condition, text\)\.$"):
            corpus.encode(some)
    for other in (PAIRS, corpus.test):
        with pytest.raises(ValueError, match="these texts have conditions, and .* none: give the texts alone"):
            texts.encode(other)
    with pytest.raises(ValueError, match="'bok' is none of the 3 labels"):
        corpus.encode([("bok", "a")])


def test_a_real_corpus_with_labels(data: Path) -> None:
    splits = {}
    for split in ("train", "valid", "test"):
        texts, names = ((data / "clinc150" / f"{split}.{kind}").read_text().splitlines() for kind in ("txt", "label"))
        splits[split] = list(zip(names[::50], texts[::50], strict=True))
    corpus = Corpus.from_texts(splits, vocabulary=400)
    assert ", 150 labels, " in corpus.summary()
    assert pairs_of(corpus.test) == splits["test"]


def test_the_built_in_texts_have_no_conditions() -> None:
    for name, value in {"condition": "intent", "labels": True}.items():
        with pytest.raises(ValueError, match=f"the built-in texts have no {name} .*: leave --{name} out"):
            read_corpus("builtin", **{name: value})


# Models and runs


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of a model that takes conditions and does not look at them."""
    monkeypatch.setattr(LanguageModel, "conditional", True)
    corpus = Corpus.from_texts(PAIRS, vocabulary=300, max_length=32)
    model = LanguageModel.for_corpus(corpus, width=8, layers=1, heads=2)
    config = {"objective": {"name": "elbo", "kl_weights": {}}}
    return Run(model, None, corpus, RunFolder(corpus.folder), config, 0)


@pytest.mark.parametrize("model", [LanguageModel, NVAE])
def test_a_model_that_reads_no_conditions_is_given_none(model: type[LanguageModel] | type[NVAE]) -> None:
    message = f"{model.__name__} does not read the conditions that the texts come with: leave the condition out, or"
    corpus = Corpus.from_texts(PAIRS, vocabulary=300, max_length=32)
    with pytest.raises(ValueError, match=message):
        model.for_corpus(corpus)
    alone = Corpus.from_texts([text for _, text in PAIRS], vocabulary=300, max_length=32)
    with pytest.raises(ValueError, match=message):
        fit(model.for_corpus(alone, width=8, layers=1, heads=2), None, corpus)


def test_a_model_has_a_token_for_each_label_and_one_that_it_writes_reads_like_nothing(run: Run) -> None:
    assert isinstance(run.model, LanguageModel)
    assert run.model.config.vocabulary == run.corpus.tokenizer.vocabulary + 3
    tokens = [run.corpus.tokenizer.vocabulary, *run.tokenizer.encode("one")]
    assert (run.tokenizer.decode(tokens), run.tokenizer.pieces(tokens)[0]) == ("one", "")


@pytest.mark.compile
def test_a_captured_objective_is_given_conditions(run: Run) -> None:
    seen = []

    class Reader(LanguageModel):
        def forward(self, batch: Batch) -> Tensor:
            seen.append(batch.condition_tokens is not None)
            return super().forward(batch)

    objective = ELBO()(Reader(run.model.config).eval(), None)  # type: ignore[arg-type]
    captured = CompiledObjective(objective, backend="aot_eager")
    for batch in (run.batch(["one", "two"], ["book", "order"]), Batch.pad([[5, EOS], [6, EOS]])):
        seen.clear()
        torch.testing.assert_close(captured.losses(batch), objective.losses(batch))
        assert set(seen) == {batch.condition_tokens is not None}


def test_a_run_makes_batches_of_pairs(run: Run) -> None:
    batch = run.batch(["one", "two words"], ["cancel", "book"])
    first = run.corpus.tokenizer.vocabulary
    assert listed(batch.condition_tokens) == [[first + 1], [first]]
    assert run.tokenizer.decode_batch(batch.tokens) == ["one", "two words"]
    assert listed(run.batch("one", "order").condition_tokens) == [[first + 2]]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (None, "the run was trained on pairs: give the condition of each text as well"),
        (["book"], "texts: 2, conditions: 1. Give one condition for each text"),
        (["book", "bok"], "'bok' is none of the 3 labels that the training texts have: .* 'book'"),
    ],
)
def test_a_batch_without_the_right_conditions(run: Run, conditions: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run.batch(["one", "two"], conditions)


def test_conditions_that_a_batch_cannot_have(run: Run) -> None:
    corpus = Corpus.from_texts(QUESTIONS, tokenizer=BYTEWISE)
    run = Run(run.model, None, corpus, run.folder, run.config, 0)
    assert len(listed(run.batch(["a"], ["q" * 64]).condition_tokens)[0]) == 64
    with pytest.raises(ValueError, match=r"'q{40}'\.\.\. has 65 tokens, the model's max_length is 64: shorten it"):
        run.batch(["a"], ["q" * 65])
    alone = Run(run.model, None, Corpus.from_texts([t for _, t in PAIRS], vocabulary=300), run.folder, run.config, 0)
    with pytest.raises(ValueError, match="the run was trained on texts without conditions: leave the conditions out"):
        alone.batch(["a"], ["q"])


def test_a_run_is_measured_on_pairs(run: Run) -> None:
    assert run.evaluate(PAIRS[:9]).about["texts"] == 9
    assert run.evaluate().about["texts"] == len(run.corpus.test)
    assert run.evaluate(PAIRS, limit=7).about["texts"] == 7
    with pytest.raises(ValueError, match="these texts lack the conditions that those of the corpus have: give pairs"):
        run.evaluate([text for _, text in PAIRS])


# The command line


def test_fit_and_evaluate_read_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def output(arguments: str, code: int) -> str:
        capsys.readouterr()
        assert main(shlex.split(arguments)) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    data = write(tmp_path / "pairs.tsv", "".join(f"{text}\t{condition}\n" for condition, text in PAIRS))
    tiny = "--model.width 8 --model.layers 1 --model.heads 2 --vocabulary 300 --max_length 32 --steps 2 --validations 1"
    fit = f"fit lm --data {data} --out {tmp_path}/run {tiny} --condition 1"
    assert "LanguageModel does not read the conditions" in output(fit, 1)
    assert not (tmp_path / "run" / "corpus").exists()  # it is printed before anything is read
    monkeypatch.setattr(LanguageModel, "conditional", True)
    assert f"the condition and the text of {data} are both column 1" in output(f"{fit} --field 1", 1)
    printed = output(f"{fit} --field 0", 0)
    assert printed.startswith("reading pairs.tsv: 60 pairs, 3 labels, ")
    assert load(tmp_path / "run").corpus.train.conditions is not None
    assert "resuming" in output(f"fit lm --out {tmp_path}/run --resume --steps 3", 0)
    output(f"evaluate {tmp_path}/run --data {data} --condition 1 --json {tmp_path}/metrics.json", 0)
    assert json.loads((tmp_path / "metrics.json").read_text())["about"]["texts"] == 60
    alone = write(tmp_path / "alone.txt", "one\ntwo\n")
    lacking = output(f"evaluate {tmp_path}/run --data {alone}", 1)
    assert "these texts lack the conditions" in lacking and "give the field of the conditions as --condition" in lacking
    assert "the run was trained on pairs" in output(f"reconstruct {tmp_path}/run --text one", 1)
    fit = fit.replace("/run", "/other") + " --labels false"
    assert output(fit, 0).startswith("reading pairs.tsv: 60 pairs, 300-token BPE")
