"""Files as people have them: tables of pandas and of spreadsheets, JSON arrays, byte order marks, names in capitals."""

import csv
import gzip
import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyroformer.inference.data.sources import readers
from pyroformer.inference.data.sources.formats import FORMATS
from pyroformer.inference.data.sources.readers import read_file, read_texts
from pyroformer.inference.data.sources.tables import tab_rows

TEXTS = ['He said "no", twice', "two\nlines", "a\ttab", "größer, schöner", '"quoted"', "plain"]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


def table(rows: list[list[Any]], separator: str, quoting: int = csv.QUOTE_MINIMAL) -> str:
    """A table as the csv module writes it; pandas uses the module."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return text.getvalue()


@pytest.mark.parametrize("lines", [2, 200])
def test_semicolons_separate_the_columns_where_a_comma_is_the_decimal_point(tmp_path: Path, lines: int) -> None:
    texts = [f"yes; {n}, or\nno" if n % 7 else f"no {n}" for n in range(lines)]
    rows = [["score", "text"], *([f"{n},5", text] for n, text in enumerate(texts))]
    (tmp_path / "a.csv").write_text(table(rows, ";"))
    assert read_file(tmp_path / "a.csv") == (texts, 0)
    (tmp_path / "b.csv").write_text(table(rows[1:], ";"))
    assert read_file(tmp_path / "b.csv", "1") == (texts, 0)
    one = ["text", "a; b", "c; d; e", "f, g; h"]
    (tmp_path / "c.csv").write_text(table([[each] for each in one], ","))
    assert read_file(tmp_path / "c.csv") == (one[1:], 0)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".TSV"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_tables_as_pandas_writes_them(ending: str, quoting: int, tmp_path: Path) -> None:
    rows = [["", "label", "text"], *([number, f"l{number}", text] for number, text in enumerate(TEXTS))]
    content = table(rows, "\t" if "tsv" in ending.lower() else ",", quoting)
    path = write(tmp_path / f"a{ending}", content)
    assert read_file(path) == (TEXTS, 0)
    assert read_file(path, "text", condition="label")[0] == [(f"l{n}", text) for n, text in enumerate(TEXTS)]


def test_tables_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": [*TEXTS, None], "n": range(len(TEXTS) + 1)})
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    frame.to_json(tmp_path / "a.json", orient="records")
    frame.to_json(tmp_path / "a.jsonl.gz", orient="records", lines=True)
    for name in ("a.csv", "a.tsv", "a.json", "a.jsonl.gz"):
        assert read_file(tmp_path / name) == (TEXTS, 1), name  # the row without a text is left out


PLAIN = st.text(st.sampled_from('ab"\t\n ,'), min_size=1, max_size=6).filter(lambda text: text.strip() != "")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(PLAIN, min_size=2, max_size=2), min_size=1, max_size=6))
def test_rows_come_back_unless_a_field_has_line_breaks_and_tabs(
    rows: list[list[str]],
) -> None:
    ambiguous = any("\n" in field and "\t" in field for row in rows for field in row)
    lines = io.StringIO(table(rows, "\t"), newline="\n").readlines()
    if not ambiguous:
        assert [row for _, row in tab_rows(enumerate(lines, 1), Path("a.tsv"))] == rows


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('1\t"No", he said\n', ["1", '"No", he said']),
        ('1\t"No\n', ["1", '"No']),
        ('"No\t1\n', ['"No', "1"]),
        ('1\t"No"\n', ["1", '"No"']),  # the csv module would have written it with three
        ('"No" she said "never"\n', ['"No" she said "never"']),
        ('1\ta "word" within\n', ["1", 'a "word" within']),
    ],
)
def test_quotation_marks_that_are_part_of_the_text(line: str, row: list[str]) -> None:
    lines = [line, '2\tand a row after it, "so"\n', '3\tand"\n']
    read = [row for _, row in tab_rows(enumerate(lines, 1), Path("a.tsv"))]
    assert read == [row, *(line.strip().split("\t") for line in lines[1:])]


def test_a_pipe_is_read_as_a_file_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    writer = threading.Thread(target=(tmp_path / "a.txt").write_text, args=("\n".join(["one two", "three"] * 6000),))
    writer.start()
    assert read_file(tmp_path / "a.txt") == (["one two", "three"] * 6000, 0)
    writer.join()


@pytest.mark.parametrize("separator", [",", "\t"])
def test_fields_longer_than_the_limit_of_the_csv_module(separator: str, tmp_path: Path) -> None:
    limit, texts = csv.field_size_limit(), ["wörd, and " * 20_000 + "so", 'she said "no" ' * 10_000 + "again"]
    path = write(
        tmp_path / ("a.csv" if separator == "," else "a.tsv"), table([["text"], *([t] for t in texts)], separator)
    )
    assert read_file(path) == (texts, 0)
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("blank", ["", "\n"])
def test_the_name_of_the_only_column_is_no_text(ending: str, blank: str, tmp_path: Path) -> None:
    texts = [f"It was {n} of 10." for n in range(100)]
    texts[7] = "Great"  # a word alone, among others
    path = write(tmp_path / f"a{ending}", blank + "\n".join(["review", *texts]))
    with pytest.warns(UserWarning, match=r"'review', the first line of .* is taken for the name .* give the field 0"):
        assert read_file(path) == (texts, bool(blank))
    assert read_file(path, "review") == (texts, bool(blank))
    assert read_file(path, "0") == (["review", *texts], bool(blank))


@pytest.mark.parametrize("first", ["review", "Fine.", "I liked it"])
def test_a_first_text_like_the_others_is_one(first: str, tmp_path: Path) -> None:
    texts = [first, "review", "It was cold.", "I liked it."]
    assert read_file(write(tmp_path / "a.csv", "\n".join(texts))) == (texts, 0)


def test_a_line_without_an_end_is_refused_at_its_first_nul(tmp_path: Path) -> None:
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"is not text \(a NUL byte at position 0\)"):
        read_file(tmp_path / "zero.txt")
    for size in (readers.LONGEST_PART - 1, readers.LONGEST_PART, 2 * readers.LONGEST_PART + 1):
        write(tmp_path / "long.txt", "ö" * (size // 2) + "\nafter\n")
        assert read_file(tmp_path / "long.txt") == (["ö" * (size // 2), "after"], 0)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_lines_of_old_spreadsheets_end_in_cr(name: str, tmp_path: Path) -> None:
    lines = {"a.jsonl": ['{"text": "one"}', '{"text": "two"}'], "a.json": ['["one",', '"two"]']}.get(
        name, ["one", "two"]
    )
    for end in ("", "\r"):
        assert read_file(write(tmp_path / name, "\r".join(lines) + end)) == (["one", "two"], 0)
    if name == "a.txt":
        assert read_file(write(tmp_path / name, "one\rtwo\nthree")) == (["one\rtwo", "three"], 0)
    with pytest.raises(ValueError, match=rf"{name} holds 2 different texts, too few"):
        read_texts(tmp_path / name)


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(tmp_path / name, table([["n", "text"], [1, "two\nlines"], [2, "x"]], separator) + "\n3\n")
        with pytest.raises(ValueError, match=rf"line 6 of .*{name} has 1 column, so none of number 1 \(from 0\)"):
            read_file(path)


@pytest.mark.parametrize("ending", [".json", ".json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_arrays(ending: str, indent: int | None, tmp_path: Path) -> None:
    def file(items: list[Any]) -> Path:
        return write(tmp_path / f"a{ending}", json.dumps(items, indent=indent))

    assert read_file(file([*TEXTS, None, " "])) == (TEXTS, 2)
    assert read_file(file([{"text": text, "more": [1]} for text in TEXTS])) == (TEXTS, 0)
    pairs = [{"label": number, "body": text} for number, text in enumerate(TEXTS)]
    assert read_file(file(pairs), "body", condition="label")[0] == [(str(n), text) for n, text in enumerate(TEXTS)]


def test_a_json_file_of_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{text}\u2028end"}, ensure_ascii=False) for text in TEXTS]
    path = write(tmp_path / "a.json", "\n".join(lines))
    assert read_file(path) == ([f"{text}\u2028end" for text in TEXTS], 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "a.json is empty. Give a .txt, .csv, .tsv, .jsonl, .json, .parquet "),
        ("a.json", " ", "a.json is empty"),
        ("a.json", '["a", "b"', r"a.json is not JSON \(neither , nor the end at character 9\). Give an array of texts"),
        ("a.json", '["a" "b"]', r"a.json is not JSON \(neither , nor the end at character 5\)"),
        ("a.json", '["a",]', r"a.json is not JSON \(Expecting value: .*\). Give an array of texts or of objects"),
        ("a.json", '["a"] ["b"]', "a.json is not JSON"),
        ("a.json", "[" * 100_000, "a.json is not JSON"),
        ("a.json", '"a"', r"a.json is not JSON \(no array\). Give an array"),
        ("a.json", '["a", 3]', r"entry 1 \(from 0\) of .*a.json lacks the field 'text': it is no JSON object"),
        ("a.json", '[{"text": 3}]', r"entry 0 \(from 0\) of .*a.json holds 3 as 'text': it must be a text"),
        ("a.json", '{\n"data": []}', "line 1 of .*a.json is not JSON .*Give one JSON object a line"),
        ("a.csv", 'text\n"a', r"line 2 of .*a.csv is not CSV \(unexpected end of data\): put fields with commas, quot"),
        ("a.csv", 'text\n\n"a"b', r"line 3 of .*a.csv is not CSV \(',' expected after '\"'\)"),
        ("a.csv", "id,body\n1,a", "a.csv has 2 columns: name the one with the texts as the field"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "text\n\n,\n", r"a.csv holds only blank lines \(2 of them\)"),
        ("a.txt", "é\n".encode("utf-16-be"), r"a.txt is not .*: it seems to be UTF-16BE. .* iconv -f UTF-16BE -t"),
        ("a.txt", "a text".encode("utf-16-le"), r"a.txt is not text .*: it seems to be UTF-16LE. .* iconv -f UTF-16LE"),
        ("a.csv", "“é”\n".encode("cp1252"), r"a.csv is not UTF-8 text .*: it seems .* iconv -f WINDOWS-1252 -t UTF-8"),
        ("a.txt", b"\xff\xd8\0\x10\1JFIF\0", r"a.txt is not UTF-8 text .*\. Give a .txt"),
        ("a.csv.gz", "\ufeffé\n".encode("utf-16-be"), r"a.csv.gz is not UTF-8 text .*: it is UTF-16"),
        ("a.json", "é".encode("utf-16"), r"a.json is not UTF-8 text \(byte 0xff at position 0\): it is UTF-16"),
        ("a.txt", "é".encode("utf-32"), r"a.txt is not .*: it is UTF-16 or UTF-32. Save it as UTF-8, as with: iconv"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_file(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\ntwo"),
        ("a.csv", "text,n\none,1\ntwo,2"),
        ("a.csv", '"text"\n"one"\n"two"'),
        ("a.tsv", "text\tn\none\t1\ntwo\t2"),
        ("a.jsonl", '{"text": "one"}\n{"text": "two"}'),
        ("a.json", '["one", "two"]'),
    ],
)
def test_a_byte_order_mark_is_no_part_of_any_text(name: str, content: str, packed: str, tmp_path: Path) -> None:
    assert read_file(write(tmp_path / (name + packed), f"\ufeff{content}")) == (["one", "two"], 0)


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl", ".txt.gz"])
def test_files_put_together_keep_no_byte_order_marks(ending: str, tmp_path: Path) -> None:
    lines = {".jsonl": ['{"text": "one"}', '{"text": "two"}']}.get(ending, ["one", "two"])
    content = "".join(f"\ufeff{line}\n" for line in lines) + "\ufeff\n" * (ending == ".txt")
    texts, blank = read_file(write(tmp_path / f"a{ending}", content))
    assert texts == ["one", "two"] and blank == (ending == ".txt")


@pytest.mark.parametrize("ending", [".txt", ".jsonl.gz", ".json"])
def test_a_line_without_end(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LONGEST_PART", 2**10)
    monkeypatch.setattr(readers, "LONGEST_LINE", 2**20)
    with pytest.raises(ValueError, match=f"a{ending} has a line of more than 1 MB. Give one text a line."):
        read_file(write(tmp_path / f"a{ending}", "x" * (2**20 + 2**11)))


def test_a_text_may_be_missing_and_a_condition_may_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": null, "label": ""}\n{"text": "", "label": null}')
    with pytest.raises(ValueError, match=r"line 2 of .*a.jsonl holds null as 'label': it must be a text"):
        read_file(path, condition="label")


def test_splits_with_names_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "Train.txt", "a\nb")
    write(tmp_path / "DEV.JSON.GZ", '["c"]')
    write(tmp_path / "TEST.CSV", "text\nd")
    assert read_texts(tmp_path) == ({"train": ["a", "b"], "valid": ["c"], "test": ["d"]}, 0)
    write(tmp_path / "train.csv", "text\ne")
    with pytest.raises(ValueError, match=r"holds Train.txt and train.csv: leave one of them for train"):
        read_texts(tmp_path)


def test_every_format_is_named_where_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist") as caught:
        read_file(tmp_path / "none")
    assert all(ending in str(caught.value) for ending in FORMATS)
