"""Parquet and Arrow files as pandas, pyarrow and datasets write them, and compressed text, against the same texts."""

import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.data.sources import columns
from pyroformer.inference.data.sources.readers import read_file, read_texts

TEXTS = ['He said "no", twice', "two\nlines", "a\ttab", "größer", "plain", "once more"]
LABELS = ["a", "b", "a", "b", "a", "b"]


def write(path: Path, table: pa.Table) -> Path:
    """A table in the format of the file's ending; ``.arrow`` as a stream, which datasets writes."""
    if path.suffix.lower() == ".parquet":
        pq.write_table(table, path, row_group_size=4)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, str(path), chunksize=4)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    return path


@pytest.fixture(params=[1000, 3])
def rows_at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS", request.param)


@pytest.mark.usefixtures("rows_at_a_time")
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather", "A.PARQUET"])
def test_each_format_gives_the_texts_of_its_column(name: str, tmp_path: Path) -> None:
    table = pa.table({"id": range(8), "label": [*LABELS, None, None], "text": [*TEXTS, None, " "]})
    path = write(tmp_path / name, table)
    assert read_file(path) == (TEXTS, 2)
    assert read_file(path, condition="label") == (list(zip(LABELS, TEXTS, strict=True)), 2)
    assert read_file(path, "1") == read_file(path, 1) == (LABELS, 2)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_texts_in_every_type_of_arrow(kind: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", pa.table({"body": pa.array(TEXTS, pa.string()).cast(kind), "n": range(6)}))
    assert read_file(path, condition="n") == ([(str(n), text) for n, text in enumerate(TEXTS)], 0)


def test_a_column_with_a_dot_in_its_name_and_one_within_another(tmp_path: Path) -> None:
    rows = pa.table({"a.b": TEXTS, "a": [{"b": 1, "text": text} for text in TEXTS]})
    assert read_file(write(tmp_path / "a.parquet", rows), "a.b") == (TEXTS, 0)
    with pytest.raises(
        ValueError, match=r"row 0 \(from 0\) of .*a.parquet holds {\"b\": 1, .* as 'a': it must be a te"
    ):
        read_file(tmp_path / "a.parquet", "a")


def test_tables_of_pandas(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": [*TEXTS, None], "label": pandas.Categorical([*LABELS, None])}).iloc[::-1]
    frame.to_parquet(tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", condition="label") == (list(zip(LABELS, TEXTS, strict=True))[::-1], 1)


def test_numbers_of_classes_become_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["in", "out"])})
    data = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1, 0, -1]}, features=features)
    data.to_parquet(str(tmp_path / "a.parquet"))
    names = ["in", "out", "in", "out", "in", "-1"]
    assert read_file(tmp_path / "a.parquet", condition="label")[0] == list(zip(names, TEXTS, strict=True))
    with pytest.raises(ValueError, match=r"row 0 \(from 0\) of .* holds 0 as 'label': it must be a text"):
        read_file(tmp_path / "a.parquet", "label")


@pytest.mark.parametrize(
    ("noted", "first"),
    [('{"info": {"features": {"label": {"names": ["in", "out"]}}}}', "in"), ('{"info": null}', "0"), ("{", "0")],
)
def test_numbers_without_a_name_stay_numbers(noted: str, first: str, tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "label": [0, 2]}).replace_schema_metadata({"huggingface": noted})
    path = write(tmp_path / "a.arrow", table)
    assert read_file(path, condition="label") == ([(first, "a"), ("2", "b")], 0)


@pytest.mark.parametrize(
    ("table", "field", "condition", "message"),
    [
        ({"a": ["x"], "b": ["y"]}, None, None, "a.parquet has the columns 'a', 'b': name the one with the texts as"),
        ({"a": ["x"], "b": ["y"]}, "body", None, "a.parquet has no column 'body' but 'a', 'b': give the name of one"),
        ({"a": ["x"], "b": ["y"]}, 2, None, "a.parquet has no column 2 but 'a', 'b'"),
        ({}, "a", None, "a.parquet has no column 'a' but none: give the name of one"),
        ({"a": ["x"]}, None, "a", "a.parquet has no column for texts: name the one with the texts"),
        ({"a": ["x"]}, "a", "a", "the condition and the text of .*a.parquet are both 'a': name two different fields"),
        ({"text": ["x", "y"], "n": [1, 2.5]}, "n", None, r"row 0 \(from 0\) of .*a.parquet holds 1.0 as 'n': it must"),
        ({"text": [b"x"]}, None, None, r"row 0 \(from 0\) of .*a.parquet holds b'x' as 'text': it must be a text"),
        ({"text": ["x", None], "l": ["a", "b"]}, None, "l", r"row 1 \(from 0\) of .* holds a condition without a text"),
        ({"text": ["x", "y"], "l": ["a", None]}, None, "l", r"row 1 \(from 0\) of .* holds a text without a condition"),
        ({"text": ["x"], "l": [True]}, None, "l", r"row 0 \(from 0\) of .* holds true as 'l': it must be a text"),
        ({"text": pa.array([], pa.string())}, None, None, "a.parquet is empty. Give a .txt"),
        ({"text": [None, " "]}, None, None, r"a.parquet holds only blank lines \(2 of them\)"),
    ],
)  # fmt: skip
def test_what_no_text_can_be_taken_from(
    table: dict[str, Any], field: Any, condition: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", pa.table(table))
    with pytest.raises(ValueError, match=message) as caught:
        Corpus.from_file(tmp_path / "a.parquet", field=field, condition=condition)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
def test_damaged_files(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{ending}", pa.table({"text": [f"text {n}" for n in range(500)]}))
    whole = path.read_bytes()
    half = len(whole) // 2
    for content in (b"", b"PAR1 or ARROW1", whole[:half], whole[: half // 9] + b"\xff" * 99 + whole[half // 9 + 99 :]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"a{ending} is no whole {ending} file \(.*\). Write it again") as caught:
            read_texts(path)
        assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    data = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    with pytest.raises(ValueError, match="a.arrow is no whole .arrow file .*(UTF8|utf-8)"):
        read_file(write(tmp_path / "a.arrow", pa.table({"text": data})))


def test_offsets_that_point_anywhere(tmp_path: Path) -> None:
    offsets, text = pa.array([0, 9, 2, 5], pa.int32()).buffers()[1], pa.py_buffer(b"abcde")
    data = pa.Array.from_buffers(pa.string(), 3, [None, offsets, text])
    with pytest.raises(ValueError, match="a.arrow is no whole .arrow file .*[Oo]ffset"):
        read_file(write(tmp_path / "a.arrow", pa.table({"text": data})))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), r"a.parquet is no whole .parquet file \(out of memory\)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), r"a.parquet is no whole .parquet file \('utf-8' codec"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_errors_of_the_system_are_told_from_damage(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(file: object) -> None:
        raise error

    monkeypatch.setattr(columns, "_parquet", failing)
    (tmp_path / "a.parquet").touch()
    with (tmp_path / "a.parquet").open("rb") as file:
        with pytest.raises(OSError if isinstance(error, OSError) else ValueError, match=message):
            list(columns.read_columns(file, tmp_path / "a.parquet", (None,)))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.txt.zst"])
def test_the_package_that_is_missing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=rf"{name} needs the package pyarrow: pip install pyarrow\."):
        read_file(tmp_path / name)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    writer = os.open(tmp_path / "a.parquet", os.O_RDWR)  # so that opening it does not wait
    with pytest.raises(ValueError, match="a.parquet is a pipe, and a .parquet file is read from both ends: save it"):
        read_file(tmp_path / "a.parquet")
    os.close(writer)


ROWS = 70_000


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    table = pa.table({"text": [f"{n:06} " + "word " * 40 for n in range(ROWS)], "more": ["x" * 50] * ROWS})
    if name == "a.arrow":
        write(tmp_path / name, table)
    else:
        pq.write_table(table, tmp_path / name, row_group_size=ROWS)  # one group
    size, before = table.nbytes, pa.total_allocated_bytes()
    tracemalloc.start()
    with (tmp_path / name).open("rb") as file:
        largest = 0
        for number, (text,) in enumerate(columns.read_columns(file, tmp_path / name, ("text",))):
            if number % 1000 == 999:  # the last of some, which are in memory
                assert text == (f"{number:06} " + "word " * 40).strip()
                largest = max(largest, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest + peak < size / 4, (largest, peak, size)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_text_packed_by_zstandard(name: str, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": [text.replace("\n", " ") for text in TEXTS] * 500})
    written = {"a.txt": "\n".join(frame["text"]), "a.jsonl": frame.to_json(orient="records", lines=True)}
    plain = (written.get(name) or frame.to_csv(index=False)).encode()
    path = tmp_path / f"{name}.zst"
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as packed:
        packed.write(plain)
    (tmp_path / name).write_bytes(plain)
    assert read_file(path) == read_file(tmp_path / name)
    for content in (b"no zstd", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"{name}.zst is no whole zst file .*. Compress it again, or give it unpac"
        ):
            read_file(path)
