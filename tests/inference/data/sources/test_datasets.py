"""Corpora of Hugging Face's data sets: the same as of the same texts in a list."""

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.sources import datasets as reading

TEXTS = [f"Number {n} is {'even' if n % 2 == 0 else 'odd'}." for n in range(100)]
FEATURES = Features({"id": Value("int64"), "label": ClassLabel(names=["even", "odd"]), "body": Value("string")})


@pytest.fixture
def data() -> Any:
    rows = {"id": range(100), "label": [n % 2 for n in range(100)], "body": TEXTS}
    return Dataset.from_dict(rows, features=FEATURES)


def splits(corpus: Corpus) -> list[Any]:
    return [corpus.entries(split) for split in ("train", "valid", "test")]


@pytest.mark.parametrize("rows", [1000, 7])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_data_set_is_read_as_its_texts_are(
    data: Any, streamed: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ROWS", rows)
    data = data.to_iterable_dataset() if streamed else data.with_format("torch")
    assert splits(Corpus.from_dataset(data, field="body", vocabulary=270)) == splits(Corpus.from_texts(TEXTS))
    corpus = Corpus.from_dataset(data, field="body", condition="label", vocabulary=270)
    pairs = [("odd" if n % 2 else "even", text) for n, text in enumerate(TEXTS)]
    assert corpus.labels == ("even", "odd")
    assert splits(corpus) == splits(Corpus.from_texts(pairs))


@pytest.mark.parametrize("kind", [DatasetDict, IterableDatasetDict])
def test_splits_go_by_their_names(data: Any, kind: Any) -> None:
    parts = {"train": range(80), "validation": range(80, 90), "test": range(90, 95), "unsupervised": range(95, 100)}
    made = {name: data.select(rows) for name, rows in parts.items()}
    if kind is IterableDatasetDict:
        made = {name: part.to_iterable_dataset() for name, part in made.items()}
    corpus = Corpus.from_dataset(kind(made), field="body", vocabulary=270)
    assert splits(corpus) == [TEXTS[:80], TEXTS[80:90], TEXTS[90:95]]
    del made["validation"]
    corpus = Corpus.from_dataset(kind(made), field="body", vocabulary=270)
    assert sorted(corpus.train[:] + corpus.valid[:]) == sorted(TEXTS[:80]) and corpus.test[:] == TEXTS[90:95]


def test_a_stream_whose_columns_are_not_known(tmp_path: Path) -> None:
    stream = IterableDataset.from_generator(lambda: ({"text": text, "n": None} for text in [*TEXTS, None]))
    assert stream.column_names is None
    corpus = Corpus.from_dataset(stream, vocabulary=270, folder=tmp_path / "corpus")
    assert corpus.counts["blank"] == 1 and splits(Corpus.load(tmp_path / "corpus")) == splits(Corpus.from_texts(TEXTS))
    assert not (tmp_path / "corpus" / "preparing").exists()


def test_what_is_no_data_set_of_texts(data: Any, tmp_path: Path) -> None:
    failing = IterableDataset.from_generator(_broken)
    for made, options, message in [
        (TEXTS, {}, "this is a list, not a data set of Hugging Face: give its texts to Corpus.from_texts"),
        ({"train": TEXTS}, {}, "'train' is a list, not a data set of Hugging Face"),
        ({"test": data}, {}, "the splits are 'test': one must be train"),
        ({"train": data, "dev": data, "validation": data}, {}, "the splits 'dev' and 'validation' are both for valid"),
        (data, {}, "the data set has the columns 'id', 'label', 'body': name the one with the texts as the field"),
        (data, {"field": "text"}, "the data set has no column 'text' but 'id', 'label', 'body': give the name of one"),
        (data, {"field": "id"}, r"row 0 \(from 0\) of the data set holds 0 as 'id': it must be a text"),
        ({"train": data.select([])}, {"field": "body"}, r"the train split has no texts \(0 blank rows\)"),
        (failing, {}, "cannot read the data set: the connection was lost. Load it again"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            Corpus.from_dataset(made, folder=tmp_path / "corpus", **options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "corpus").exists()


def _broken() -> Any:
    yield {"text": "one"}
    raise ConnectionError("the connection\nwas lost")
