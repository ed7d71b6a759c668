"""Which files of a folder are which split: as datasets, the hub and Spark lay them out."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.sources.folders import split_files
from pyroformer.inference.data.sources.readers import read_split, read_texts

SPLITS = {"train": [f"Number {n}" for n in range(60)], "valid": ["a", "b"], "test": ["c"]}


def table(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)


def test_a_dictionary_of_data_sets_on_the_disk(tmp_path: Path) -> None:
    names = {"train": "train", "validation": "valid", "test": "test"}
    data = DatasetDict({name: Dataset.from_dict({"text": SPLITS[split]}) for name, split in names.items()})
    data.save_to_disk(str(tmp_path), num_shards={"train": 3, "validation": 1, "test": 1})
    (tmp_path / "train" / "cache-0123456789.arrow").write_bytes(b"of a map: not part of it")
    assert read_texts(tmp_path) == (SPLITS, 0)
    corpus = Corpus.from_file(tmp_path, vocabulary=270)
    assert [corpus.train[:], corpus.valid[:], corpus.test[:]] == list(SPLITS.values())
    (tmp_path / "train" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(ValueError, match="train lacks data-00001-of-00003.arrow, which its state.json names: put it"):
        read_texts(tmp_path)


def test_one_data_set_on_the_disk_is_split(tmp_path: Path) -> None:
    Dataset.from_dict({"text": SPLITS["train"]}).save_to_disk(str(tmp_path), num_shards=2)
    (tmp_path / "all.txt").write_text("\n".join(SPLITS["train"]))
    splits, _ = read_texts(tmp_path)
    assert splits == read_texts(tmp_path / "all.txt")[0]
    assert read_split(tmp_path, "test") == splits["test"]


@pytest.mark.parametrize("inside", [".", "data"])
def test_parts_as_the_hub_has_them(inside: str, tmp_path: Path) -> None:
    for part in range(3):
        table(tmp_path / inside / f"train-{part:05}-of-00003-1f2e.parquet", SPLITS["train"][part * 20 : part * 20 + 20])
    table(tmp_path / inside / "validation-00000-of-00001.parquet", SPLITS["valid"])
    table(tmp_path / inside / "test-00000-of-00001.parquet", SPLITS["test"])
    (tmp_path / "README.md").write_text("a card")
    assert read_texts(tmp_path) == (SPLITS, 0)
    (tmp_path / inside / "train-00001-of-00003-1f2e.parquet").unlink()
    with pytest.raises(ValueError, match="holds 2 of the 3 parts of train, such as train-00000-of-00003-1f2e.parquet"):
        read_texts(tmp_path)


def test_folders_that_are_called_like_files(tmp_path: Path) -> None:
    for split, texts in SPLITS.items():
        table(tmp_path / "a" / f"{split}.parquet" / "part-00000-x.snappy.parquet", texts)
        (tmp_path / "a" / f"{split}.parquet" / "_SUCCESS").touch()
        table(tmp_path / "b" / f"{split}.parquet", texts)
    assert read_texts(tmp_path / "a") == read_texts(tmp_path / "b") == (SPLITS, 0)
    whole = read_texts(tmp_path / "a" / "train.parquet")[0]
    assert sorted(sum(whole.values(), [])) == sorted(SPLITS["train"])


def test_text_and_tables_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\n".join(SPLITS["train"]))
    table(tmp_path / "validation" / "x.parquet", SPLITS["valid"])
    table(tmp_path / "test-00000-of-00001.parquet", SPLITS["test"])
    assert read_texts(tmp_path) == (SPLITS, 0)
    assert set(split_files(tmp_path)) == {"train", "valid", "test"}
    table(tmp_path / "train" / "y.parquet", ["x"])
    with pytest.raises(ValueError, match=r"holds train.txt and train/y.parquet: leave one of them for train"):
        read_texts(tmp_path)


def test_texts_without_a_train_split(tmp_path: Path) -> None:
    table(tmp_path / "test.parquet", ["x"])
    with pytest.raises(ValueError, match=r"holds no train file \(but test.parquet\)"):
        read_texts(tmp_path)


def test_the_same_files_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyroformer.inference.data.sources import readers

    for split, texts in SPLITS.items():
        table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", texts)
    first, _ = readers.read_to_disk(tmp_path / "data", tmp_path / "kept")
    monkeypatch.setattr(readers, "read_columns", None)
    again, _ = readers.read_to_disk(tmp_path / "data", tmp_path / "kept")
    assert {split: texts[:] for split, texts in again.items()} == SPLITS
    assert {split: texts[:] for split, texts in first.items()} == SPLITS
