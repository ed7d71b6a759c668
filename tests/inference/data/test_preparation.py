"""Preparing a corpus: on the disk, in parts, in several threads, and from where an interrupted one was left."""

import gzip
import random
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroformer.inference.data import building, preparation, shards, stored_texts
from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.sources import readers
from pyroformer.inference.data.sources.kept import kept_texts
from pyroformer.inference.data.sources.readers import read_texts, read_to_disk
from pyroformer.inference.data.splits import split_texts
from pyroformer.inference.data.stored_texts import StoredTexts, _Writer, chunk_bounds, encoded_chunks, store_texts
from pyroformer.inference.data.tokenizer import Tokenizer

WORDS = ["der", "Bär", "isst", "大", "rote", "Äpfel", "und", "😀", "lacht", "laut"]
RNG = random.Random(0)
TEXTS = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 24))) + f" {number}" for number in range(700)]
PAIRS = [(f"label{number % 7}", text) for number, text in enumerate(TEXTS)]
RARE = [(f"rare{number // 3}", text) for number, text in enumerate(TEXTS)]
QUESTIONS = [(f"which is number {number} ?", text) for number, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_texts, "CHUNK_TEXTS", 60)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a corpus, which are all that its folder holds."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Texts on the disk


@pytest.fixture
def stored(tmp_path: Path) -> StoredTexts:
    return store_texts(((text,) for text in TEXTS), tmp_path / "texts")[0]


def test_stored_texts_are_a_sequence(stored: StoredTexts) -> None:
    assert len(stored) == len(TEXTS) and list(stored) == TEXTS
    assert stored[3] == TEXTS[3] and stored[-1] == TEXTS[-1] and stored[5:99:7] == TEXTS[5:99:7]
    assert stored[9:9] == [] and stored[::-50] == TEXTS[::-50]
    with pytest.raises(IndexError):
        stored[len(TEXTS)]
    assert list(stored.path.parent.iterdir()) == [stored.path]


@pytest.mark.parametrize("step", [1, 3, 100])  # side by side, and so far apart that each is read by itself
def test_selected_texts(stored: StoredTexts, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(2, len(TEXTS), step)
    some = stored.select(rows).select(np.arange(len(rows))[1::2])
    assert list(some) == TEXTS[2::step][1::2]
    sizes, read = list[int](), stored_texts._read
    monkeypatch.setattr(stored_texts, "_read", lambda file, start, size: sizes.append(size) or read(file, start, size))
    assert some[:] == TEXTS[2::step][1::2] and sum(sizes) <= 4 * some.sizes.sum()
    assert len(sizes) == (1 if step == 1 else len(some))


def test_stored_pairs_and_blank_rows(tmp_path: Path) -> None:
    pairs = [*PAIRS, ("", "a text without a condition")]
    texts, blank = store_texts([row for pair in pairs for row in (pair, ("", ""))], tmp_path / "texts")
    assert texts.conditions is not None and blank == len(pairs)
    assert list(zip(texts.conditions, texts, strict=True)) == pairs


@pytest.mark.parametrize("sizes", [[], [1], [10] * 130, [50] * 9, [1, 99, 1, 1, 300, 1]])
def test_parts_hold_few_texts_of_few_bytes(sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_texts, "CHUNK_BYTES", 100)
    texts = ["x" * size for size in sizes]
    chunks = [texts[bounds] for bounds in chunk_bounds(texts)]
    assert [text for chunk in chunks for text in chunk] == texts and all(chunks)
    assert all(len(chunk) <= 60 and len("".join(chunk[:-1])) < 100 for chunk in chunks)
    assert [text.decode() for chunk in encoded_chunks(texts) for text in chunk] == texts
    with (tmp_path / "texts").open("wb") as file:
        writer = _Writer(file)
        for text in texts:
            writer.write(text)
            assert writer.size < 100
        assert writer.sizes().tolist() == sizes


@pytest.mark.parametrize("entries", [TEXTS, TEXTS * 2, PAIRS, QUESTIONS, RARE])
@pytest.mark.parametrize("seed", [0, 5])
def test_texts_on_the_disk_are_split_as_those_in_memory(entries: list[Any], seed: int, tmp_path: Path) -> None:
    on_disk, _ = store_texts([(e,) if isinstance(e, str) else e for e in entries], tmp_path / "texts")
    for part, texts in split_texts(on_disk, seed).items():
        rows = list(texts) if texts.conditions is None else list(zip(texts.conditions, texts, strict=True))
        assert rows == split_texts(entries, seed)[part]


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_read_to_the_disk_as_into_memory(packed: bool, tmp_path: Path) -> None:
    data = "\n\n".join(f"{condition}\t{text}" for condition, text in PAIRS).encode()
    path = tmp_path / ("a.tsv.gz" if packed else "a.tsv")
    path.write_bytes(gzip.compress(data) if packed else data)
    on_disk, blank = read_to_disk(path, tmp_path / "work", 1, condition=0)
    in_memory, same = read_texts(path, 1, condition=0)
    pairs = {
        split: list(zip(texts.conditions, texts, strict=True))
        for split, texts in on_disk.items()
        if texts.conditions is not None
    }
    assert pairs == in_memory and blank == same == len(PAIRS) - 1


# Interrupted preparations

SOURCES: dict[str, dict[str, Any]] = {
    "texts": {"texts": TEXTS, "max_length": 16},
    "labels": {"texts": PAIRS, "max_length": 16, "overlong": "drop"},
    "questions": {"texts": QUESTIONS, "overlong": "drop"},
}


def interrupt_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts the preparation when a shard is begun after so many others."""
    done, tokenize = [0], shards._tokenize

    def tokenize_or_stop(*arguments: Any) -> shards.Shard:
        if done[0] == calls:
            raise KeyboardInterrupt
        done[0] += 1
        return tokenize(*arguments)

    monkeypatch.setattr(shards, "_tokenize", tokenize_or_stop)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of each shard that is made from now on."""
    made: list[int] = []
    tokenize = shards._tokenize

    def tokenize_and_count(texts: Any, *arguments: Any) -> shards.Shard:
        made.append(len(texts))
        return tokenize(texts, *arguments)

    monkeypatch.setattr(shards, "_tokenize", tokenize_and_count)
    return made


@pytest.mark.parametrize("after", [1, 7, 12])
@pytest.mark.parametrize("source", SOURCES)
def test_an_interrupted_preparation_goes_on(
    source: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Corpus.from_texts(**SOURCES[source], vocabulary=300, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(after, patch)
        Corpus.from_texts(**SOURCES[source], vocabulary=300, folder=tmp_path / "again")
    kept = sorted((tmp_path / "again" / "preparing").glob("*.shard"))
    assert 0 < len(kept) <= after
    made = counted(monkeypatch)
    monkeypatch.setattr(building.Tokenizer, "train", None)  # it is trained already
    again = Corpus.from_texts(**SOURCES[source], vocabulary=300, folder=tmp_path / "again")
    assert content(again.folder) == content(whole.folder)
    assert len(made) + len(kept) == 11 + 1 + 1  # 630, 35 and 35 texts, 60 in each shard


def test_other_options_do_not_take_up_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[dict[str, Any]] = [
        {"max_length": 12}, {"vocabulary": 310}, {"overlong": "drop"}, {"seed": 1}, {"texts": TEXTS[:-1]},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_after(5, patch)
            Corpus.from_texts(TEXTS, vocabulary=300, max_length=16, folder=folder)
        arguments: dict[str, Any] = {"texts": TEXTS, "vocabulary": 300, "max_length": 16} | change
        fresh = Corpus.from_texts(**arguments)
        assert content(Corpus.from_texts(**arguments, folder=folder).folder) == content(fresh.folder)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_shard_is_made_anew(damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(5, patch)
        Corpus.from_texts(TEXTS, vocabulary=300, folder=tmp_path / "again")
    shard = min((tmp_path / "again" / "preparing").glob("*.shard"))
    shard.write_bytes(shard.read_bytes()[:-40] if damage is None else damage)
    again = Corpus.from_texts(TEXTS, vocabulary=300, folder=tmp_path / "again")
    assert content(again.folder) == content(Corpus.from_texts(TEXTS, vocabulary=300).folder)


def test_a_tokenizer_is_trained_on_part_of_many_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    train = building.Tokenizer.train

    def train_and_note(texts: Iterator[str], vocabulary: int) -> Any:
        used.extend(texts)
        return train(used, vocabulary)

    monkeypatch.setattr(building.Tokenizer, "train", train_and_note)
    splits = {"train": TEXTS, "valid": TEXTS[:5], "test": TEXTS[:5]}
    size = sum(len(text.encode()) for text in TEXTS)

    def trained_on(limit: int, seed: int = 0) -> list[str]:
        used.clear()
        monkeypatch.setattr(building, "TRAINING_BYTES", limit)
        assert list(Corpus.from_texts(splits, seed=seed).train) == TEXTS
        return list(used)

    assert trained_on(size) == TEXTS
    some = trained_on(size // 2)
    assert some == [text for text in TEXTS if text in set(some)]
    assert 0.4 * size < sum(len(text.encode()) for text in some) < 0.6 * size
    odd = sum(int(text.split()[-1]) % 2 for text in some)  # a file may alternate between languages
    assert 0.4 < odd / len(some) < 0.6
    assert trained_on(size // 2) == some != trained_on(size // 2, seed=1)


def test_characters_are_those_of_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "TRAINING_BYTES", 100)
    corpus = Corpus.from_texts({"train": TEXTS, "valid": TEXTS[:5], "test": TEXTS[:5]}, tokenizer="characters")
    assert all(len(corpus.tokenizer.encode(letter)) == 2 for letter in set("".join(TEXTS)))


KILLED = """
import sys, time
from pyroformer.inference.data import shards, stored_texts
from pyroformer.inference.data.corpus import Corpus
stored_texts.CHUNK_TEXTS = 60
tokenize = shards._tokenize
def slow(*arguments):
    time.sleep(0.3)
    return tokenize(*arguments)
shards._tokenize = slow
Corpus.from_file(sys.argv[1], vocabulary=300, folder=sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "a.txt", tmp_path / "again"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", KILLED, path, folder])
    deadline = time.monotonic() + 300
    while len(list(folder.glob("preparing/*.shard"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    made = counted(monkeypatch)
    again = Corpus.from_file(path, vocabulary=300, folder=folder)
    assert len(made) <= 10
    assert content(again.folder) == content(Corpus.from_file(path, vocabulary=300).folder)


PHASES = {
    "reading": "store_texts",
    "training": "_tokenizer",
    "tokenizing": "_encode_splits",
    "writing": "write_corpus",
}
MODULES = {"store_texts": readers}


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "folder"])
def test_finished_phases_are_not_repeated(
    name: str, phase: str, killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    pairs, options = "\n".join(map("\t".join, PAIRS)), {"vocabulary": 300, "overlong": "drop"}
    if name == "folder":
        path.mkdir()
        for split, part in {"train": TEXTS[:600], "valid": TEXTS[600:650], "test": TEXTS[650:]}.items():
            (path / f"{split}.txt").write_text("\n".join(part), encoding="utf-8")
    else:
        path.write_text("\n".join(TEXTS) if name == "a.txt" else pairs, encoding="utf-8")
        options |= {"condition": 0} if name == "a.tsv" else {}
    begun = list(PHASES).index(phase)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    def never(*_: Any) -> None:
        raise AssertionError("done again")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MODULES.get(PHASES[phase], building), PHASES[phase], stop)
        if killed:
            patch.setattr(preparation, "_leave_finished", lambda folder: None)
        Corpus.from_file(path, folder=tmp_path / "again", **options)
    with monkeypatch.context() as patch:
        if begun > 0:
            patch.setattr(readers, "store_texts", never)
            patch.setattr(readers, "split_texts", never)
        if begun > 1:
            patch.setattr(Tokenizer, "train_kind", never)
        if begun > 2:
            patch.setattr(shards, "_tokenize", never)
        again = Corpus.from_file(path, folder=tmp_path / "again", **options)
    assert content(again.folder) == content(Corpus.from_file(path, **options).folder)


@pytest.mark.parametrize("change", ["content", "seed", "field", "damage", "nothing read", "cut note"])
def test_what_else_was_read_is_read_anew(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "a.tsv", tmp_path / "again"
    path.write_text("\n".join(map("\t".join, QUESTIONS)), encoding="utf-8")
    options: dict[str, Any] = {"vocabulary": 300, "overlong": "drop", "seed": 0, "field": 1}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(0, patch)
        Corpus.from_file(path, folder=folder, **options)
    read, [texts] = folder / "preparing" / "read.npz", list((folder / "preparing").glob("*.texts"))
    if change == "content":
        path.write_text(path.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    elif change in options:
        options[change] = 1 - options[change]
    elif change == "damage":
        texts.write_bytes(texts.read_bytes()[:-1])
    elif change == "nothing read":
        texts.unlink()
    else:
        read.write_bytes(read.read_bytes()[:-100])
    again = Corpus.from_file(path, folder=folder, **options)
    assert content(again.folder) == content(Corpus.from_file(path, **options).folder)


def test_what_was_read_is_no_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "read.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("key.npy", "w") as part:
        np.lib.format.write_array_header_1_0(part, {"descr": "<U1", "fortran_order": False, "shape": (10**7,)})
        part.write(bytes(4 * 10**7))
    tracemalloc.start()
    try:
        assert kept_texts(tmp_path, "key") is None and tracemalloc.get_traced_memory()[1] < 4 * 10**6
    finally:
        tracemalloc.stop()


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 251}.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    assert len(Corpus.from_file(path, vocabulary=300).train) == 630


def test_a_file_that_is_no_text_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntw\0o")
    with pytest.raises(ValueError, match="a.txt is not text"):
        Corpus.from_file(tmp_path / "a.txt", folder=tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


# Progress


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False), (None, False)])
def test_progress_is_shown_on_standard_error(
    progress: bool | None, shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    Corpus.from_file(tmp_path / "a.txt", vocabulary=300, progress=progress)
    out, err = capsys.readouterr()
    assert not out and ("reading a.txt" in err) == ("tokenizing" in err) == shown
    assert shown or not err
