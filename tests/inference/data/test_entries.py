"""Texts come from any container in its order; what is not a text is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from pyroformer.guides.della import DELLAGuide
from pyroformer.guides.vae import VAEGuide
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.entries import as_conditions, as_entries, as_texts
from pyroformer.inference.data.sources.readers import read_file
from pyroformer.inference.diagnostics.compare import compare
from pyroformer.inference.evaluation.evaluate import text_bounds
from pyroformer.inference.run import Run
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.models.della import DELLA
from pyroformer.models.vae import VAE

SHORT = [f"short text {i}" for i in range(50)]
TEXTS = ["one and two", "three", "four of them", "five"]
CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda texts: (text for text in texts),
    "array": np.array,
    "array of objects": lambda texts: np.array(texts, dtype=object),
    "dict values": lambda texts: dict(enumerate(texts)).values(),
    "dict keys": lambda texts: dict.fromkeys(texts).keys(),
    "column": pandas.Series,
    "shuffled column": lambda texts: pandas.Series(texts, index=np.random.default_rng(3).permutation(len(texts))),
    "column of labels": lambda texts: pandas.Series(texts, index=[f"row {i}" for i in range(len(texts))]),
    "filtered column": lambda texts: pandas.Series(texts, index=range(100, 100 + len(texts))),
    "string column": lambda texts: pandas.Series(texts, dtype="string"),
    "index": pandas.Index,
}


@pytest.fixture(params=CONTAINERS.values(), ids=CONTAINERS.keys())
def container(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def run() -> Run:
    return made(Corpus.from_texts([f"Number {n} and {n * n}." for n in range(40)], vocabulary=270, max_length=24))


@pytest.fixture(scope="module")
def paired() -> Run:
    pairs = [(n % 2, f"Number {n} and {n * n}.") for n in range(40)]
    return made(Corpus.from_texts(pairs, vocabulary=270, max_length=24))


def made(corpus: Corpus) -> Run:
    torch.manual_seed(0)
    shape = {"width": 8, "layers": 1, "heads": 2}
    model = (
        DELLA.for_corpus(corpus, **shape)
        if corpus.conditional
        else VAE.for_corpus(corpus, base_measure="gaussian", **shape)
    )
    guide = DELLAGuide(model) if isinstance(model, DELLA) else VAEGuide(model)
    config = {"objective": {"name": "elbo", "is_bound": True, "kl_weights": {}}}
    return Run(model, guide, corpus, RunFolder(corpus.folder), config, 0)


# Containers


def test_every_container_becomes_a_list_in_its_order(container: Any) -> None:
    assert as_texts(container(TEXTS)) == TEXTS
    assert all(type(text) is str for text in as_texts(container(TEXTS)))


def test_a_long_text_of_a_shuffled_column_is_in_the_corpus() -> None:
    texts = pandas.Series([*SHORT, "the long one " * 20]).sample(frac=1, random_state=3)
    splits = {"train": texts, "valid": ["beta"], "test": ("delta",)}
    corpus = Corpus.from_texts(splits, vocabulary=280, max_length=32)
    assert sum(text.startswith("the long one") for text in corpus.train) > 1
    assert [text for text in corpus.train if text.startswith("short")] == [t for t in texts if t.startswith("short")]


def test_a_corpus_does_not_depend_on_the_container(container: Any) -> None:
    corpus = Corpus.from_texts(container(SHORT), vocabulary=280, max_length=16)
    assert corpus.train[:] == Corpus.from_texts(SHORT, vocabulary=280, max_length=16).train[:]


def test_results_come_in_the_order_of_the_container(run: Run, container: Any) -> None:
    assert [result.original for result in run.reconstruct(container(TEXTS))] == TEXTS
    assert torch.equal(run.batch(container(TEXTS)).lengths, run.batch(TEXTS).lengths)
    assert torch.equal(run.bound(container(TEXTS), 2), run.bound(TEXTS, 2))
    assert run.encode(container(TEXTS)).token_weights() is None
    assert text_bounds(run, container(TEXTS), 2, batch_size=3).shape == (4,)


def test_evaluations_do_not_depend_on_the_container(run: Run, container: Any) -> None:
    expected = run.evaluate(TEXTS, metrics=["bound"], num_particles=2)["bound"]
    assert run.evaluate(container(TEXTS), metrics=["bound"], num_particles=2)["bound"] == expected


def test_two_runs_are_compared_on_any_container(run: Run, container: Any) -> None:
    assert np.array_equal(compare(run, run, container(TEXTS), 2).each, np.zeros(4))


def test_a_posterior_has_the_texts_of_a_column(run: Run) -> None:
    data = run.posterior(pandas.Series(TEXTS, index=[3, 1, 0, 2]), draws=2)
    assert data.posterior["text"].values.tolist() == TEXTS


def test_splits_are_texts_too(run: Run) -> None:
    assert as_texts(run.corpus.test) == run.corpus.test[:]
    assert [result.original for result in run.reconstruct(run.corpus.test)] == run.corpus.test[:]


def test_pairs_come_from_any_container() -> None:
    frame = pandas.DataFrame({"label": [1, 0], "text": ["a", "b"]}, index=[7, 3])
    pairs = [("1", "a"), ("0", "b")]
    assert as_entries(zip(frame.label, frame.text, strict=True)) == pairs
    assert as_entries(frame.itertuples(index=False)) == pairs
    assert as_entries(frame.to_numpy()) == pairs
    assert as_entries([["1", "a"], ("0", "b")]) == pairs
    assert as_entries([]) == []


def test_a_single_text_is_checked_as_one_of_a_list() -> None:
    assert [type(text) for text in as_texts(np.array(["five"])[0])] == [str]
    with pytest.raises(ValueError, match=r"text 0 \(from 0\) holds '\\ud800' at position 1, half of a character"):
        as_texts("a\ud800")


def test_the_split_of_a_corpus_of_pairs_holds_pairs(paired: Run) -> None:
    test = paired.corpus.test
    assert test.conditions is not None
    assert as_entries(test) == list(zip(test.conditions[:], test[:], strict=True))
    assert as_conditions(test.conditions) == test.conditions[:]
    assert as_texts(test) == test[:]


def test_a_list_with_an_attribute_of_its_own_is_a_list() -> None:
    board = type("Board", (list,), {"columns": 3})  # no names, so that it is no table
    assert as_texts(board(TEXTS)) == TEXTS


# Labels that are numbers


def test_labels_that_are_whole_numbers_are_their_digits(paired: Run) -> None:
    assert paired.corpus.labels == ("0", "1")
    expected = paired.bound(TEXTS[:2], 2, conditions=["1", "0"])
    for conditions in ([1, 0], ["1", "0"], np.array([1, 0]), pandas.Series([1, 0], index=[1, 0]), torch.tensor([1, 0])):
        assert paired.conditions(conditions) == paired.conditions(["1", "0"])
        assert torch.equal(paired.bound(TEXTS[:2], 2, conditions=conditions), expected)
    assert paired.sample(2, seed=0, condition=1) == paired.sample(2, seed=0, condition="1")
    assert paired.reconstruct("five", conditions=1) == paired.reconstruct("five", conditions="1")
    assert len(paired.evaluate([(1, "five"), (0, "six")], metrics=["bound"], num_particles=1).metrics) == 1


@pytest.mark.parametrize("label", [None, float("nan"), 1.5, True, b"x", {}])
def test_other_labels_are_refused(label: Any) -> None:
    with pytest.raises(ValueError, match=r"condition 1 \(from 0\) is .*, neither a text nor a whole number: "):
        as_conditions(["a", label])
    with pytest.raises(ValueError, match=r"condition 1 \(from 0\) is .*, neither a text nor a whole number: "):
        Corpus.from_texts([("a", "b"), (label, "c")])


# What is not a text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, r"text 30 \(from 0\) is (None|nan), not a text: leave it out"),
        (float("nan"), r"text 30 \(from 0\) is nan, not a text: leave it out"),
        (pandas.NA, r"text 30 \(from 0\) is (<NA>|nan), not a text: leave it out"),
        (b"five", r"text 30 \(from 0\) is b'five', not a text: decode it, as in entry.decode\('utf-8'\)"),
        (5, r"text 30 \(from 0\) is 5, not a text: give a string, such as str\(entry\)"),
        ({"text": "a", "n": 1}, r"text 30 \(from 0\) is {.*}, not a text: .* as in \[row\['text'\] for row in rows\]"),
        (["a", "b"], r"text 30 \(from 0\) is \['a', 'b'\], not a text: give one string for each entry"),
        (iter("ab"), r"text 30 \(from 0\) is <.*iterator.*>, not a text: give one string for each entry"),
    ],
)
def test_what_is_not_a_text_is_refused_with_its_row(entry: Any, message: str) -> None:
    for container in (list, tuple, pandas.Series):
        with pytest.raises(ValueError, match=message):
            Corpus.from_texts(container([*SHORT[:30], entry, *SHORT[30:]]))
    with pytest.raises(ValueError, match=message):
        Corpus.from_texts({"train": [*SHORT[:30], entry], "valid": ["a"], "test": ["b"]})


@pytest.mark.parametrize("entry", [None, float("nan"), b"x", 5])
def test_runs_refuse_what_is_not_a_text(run: Run, entry: Any) -> None:
    operations: list[Any] = [run.reconstruct, run.evaluate, run.bound, run.encode, run.posterior, run.batch]
    for operation in operations:
        with pytest.raises(ValueError, match=r"text 1 \(from 0\) is .*, not a text: "):
            operation(["one", entry])


@pytest.mark.parametrize(
    ("entries", "role"), [(["a", "a\ud800"], "text"), ([("a", "b"), ("a\ud800", "c")], "condition")]
)
def test_half_a_character_is_refused_with_its_row(entries: list[Any], role: str) -> None:
    message = rf"{role} 1 \(from 0\) holds '\\ud800' at position 1, half of a character: give whole Unicode characters"
    with pytest.raises(ValueError, match=message):
        Corpus.from_texts(entries)
    with pytest.raises(ValueError, match=message):
        (as_conditions if role == "condition" else as_texts)(["a", "a\ud800"])


def test_pairs_without_a_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text 1 \(from 0\) is nan, not a text: leave it out"):
        as_entries([("a", "b"), ("a", float("nan"))])
    with pytest.raises(ValueError, match=r"entry 1 is None, the first one a pair"):
        as_entries([("a", "b"), None])
    for entry in (("a",), ("a", "b", "c")):
        with pytest.raises(ValueError, match=r"entry 1 is \(.*, the first one a pair: give pairs \(cond"):
            as_entries([("a", "b"), entry])


@pytest.mark.parametrize("entry", [b"no", bytearray(b"no"), {"a": "b", "c": "d"}, {"a", "b"}])
def test_two_bytes_or_keys_are_no_pair(entry: Any) -> None:
    with pytest.raises(ValueError, match=r"^text 0 \(from 0\) is .*, not a text: "):
        as_entries([entry])


def test_tables_are_refused_with_their_columns(run: Run) -> None:
    frame = pandas.DataFrame({"text": SHORT, "label": range(50)})
    message = r"this is a table with the columns 'text', 'label': give the one of the texts\."
    splits = {"train": frame, "valid": ["a"], "test": ["b"]}
    columns = type("Dataset", (list,), {"column_names": ["text", "label"]})  # as in Hugging Face's datasets
    operations: list[Any] = [Corpus.from_texts, run.reconstruct, run.evaluate, run.batch, as_texts]
    for operation in operations:
        with pytest.raises(ValueError, match=message):
            operation(frame)
    with pytest.raises(ValueError, match=message):
        Corpus.from_texts(splits)
    with pytest.raises(ValueError, match=message):
        as_entries(columns())


def test_other_containers_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"a dictionary with the keys 'a', 'b': give a list of its texts"):
        run.reconstruct({"a": "b", "b": "c"})
    with pytest.raises(ValueError, match="a set, whose order is arbitrary: give a list of texts"):
        Corpus.from_texts(set(SHORT))
    with pytest.raises(ValueError, match="a set, whose order is arbitrary: give a list of texts"):
        as_texts(frozenset(SHORT))
    with pytest.raises(ValueError, match="'reviews.txt' is one string: give a list of texts, or a file with"):
        Corpus.from_texts("reviews.txt")
    with pytest.raises(ValueError, match="b'abc' is not a list of texts: give strings"):
        as_texts(b"abc")


# Files


def test_files_with_numbers_of_classes_rows_without_a_text_and_names_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "A.JSONL").write_text('{"label": 1, "text": "one"}\n{"label": 0, "text": "two"}\n')
    assert read_file(tmp_path / "A.JSONL", condition="label") == ([("1", "one"), ("0", "two")], 0)
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": null}\n')
    assert read_file(tmp_path / "b.jsonl") == (["one"], 1)
    (tmp_path / "TOY.TXT").write_text("one\n")
    assert read_file(tmp_path / "TOY.TXT") == (["one"], 0)
