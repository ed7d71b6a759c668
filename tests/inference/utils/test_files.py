"""Atomic writing: after a failure the old content is intact, and a full disk is one kind of error."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pyroformer.inference.utils.files import as_path, content_fingerprint, write_atomically


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("old")
    return tmp_path / "file"


def test_a_file_and_its_folder_are_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "file", lambda path: path.write_text("new"))
    assert (tmp_path / "new" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.fstat(number).st_size))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("renamed"), replace(old, new)))

    def folder(path: Path) -> None:
        (path / "inner").mkdir(parents=True)
        (path / "one").write_text("1")
        (path / "inner" / "three").write_text("333")

    write_atomically(tmp_path / "file", lambda path: path.write_text("new!"))
    write_atomically(tmp_path / "folder", folder)
    assert done[:2] == [4, "renamed"] and set(done[2:4]) == {1, 3} and done[4:] == ["renamed"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        OSError("100000 requested and 4096 written"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["torch", "torch's stream", "numpy", "the system"],
)
def test_a_full_disk_is_said_alike_whoever_writes(file: Path, error: Exception) -> None:
    def write(path: Path) -> None:
        path.write_text("ne")
        raise error

    with pytest.raises(OSError) as caught:
        write_atomically(file, write)
    assert caught.value.errno == errno.ENOSPC
    assert file.read_text() == "old" and list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_torch_on_a_device_that_is_full(file: Path) -> None:
    with pytest.raises(OSError) as caught:
        write_atomically(file, lambda path: torch.save({"weight": torch.zeros(1000)}, "/dev/full"))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), RuntimeError("other"), OSError("other")])
def test_other_errors_pass_and_leave_the_old_file(file: Path, error: BaseException) -> None:
    def write(path: Path) -> None:
        path.write_text("ne")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(file, write)
    assert caught.value is error
    assert file.read_text() == "old" and list(file.parent.iterdir()) == [file]


def test_a_kill_while_renaming_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        write_atomically(file, lambda path: path.write_text("new"))
    assert file.read_text() == "old" and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("value", [5, None, ["a"], b"x", True])
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^out is .*: give a path, a string or a pathlib.Path\.$"):
        as_path(value, "out")
    assert as_path("a/b", "out") == as_path(Path("a/b"), "out") == Path("a/b")


def test_a_fingerprint_sees_the_files_of_a_folder_and_those_of_its_folders_that_it_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "a.json").write_text("a")
    flat = content_fingerprint(tmp_path)
    (tmp_path / "train" / "b.arrow").write_text("b")
    (tmp_path / "train" / "cache.lock").write_text("c")
    assert content_fingerprint(tmp_path) == content_fingerprint(tmp_path, ["*/*.parquet"]) == flat
    nested = content_fingerprint(tmp_path, ["*/*.arrow"])
    assert nested != flat
    (tmp_path / "train" / "b.arrow").write_text("d")
    assert content_fingerprint(tmp_path, ["*/*.arrow"]) not in (flat, nested)
