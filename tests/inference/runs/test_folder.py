"""A run's folder is never left half written, and errors in it are reported in one line."""

from pathlib import Path

import pytest
import torch

from pyroformer.inference.runs.checkpoints import read_checkpoint
from pyroformer.inference.runs.folder import RunFolder
from pyroformer.inference.utils.files import write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomically(file, lambda path: path.write_text("old"))

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_used_folder_is_refused_unless_resumed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare(resume=False)
    folder.write_config({"model": {}})
    with pytest.raises(ValueError, match=r"already holds a run \(no step yet\). Continue it with resume=True, or ch"):
        folder.prepare(resume=False)
    torch.save({"state_dict": {}, "global_step": 2800}, folder.last)
    with pytest.raises(ValueError, match=r"already holds a run \(step 2,800\)"):
        folder.prepare(resume=False)
    folder.prepare(resume=True)


def test_a_foreign_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ValueError, match="holds files that are not a run's"):
        RunFolder(tmp_path).prepare(resume=False)
    with pytest.raises(ValueError, match="is a file: a run needs a folder"):
        RunFolder(tmp_path / "thesis.tex").prepare(resume=False)
    assert (tmp_path / "thesis.tex").read_text() == "dear"


def test_an_unwritable_place_is_named() -> None:
    with pytest.raises(ValueError, match=r"/proc/run cannot be written \(.*\): choose another out"):
        RunFolder("/proc/run").prepare(resume=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "holds no run"), ("{", "is damaged"), ("- 1", "is not a run's configuration"), ("a: 1", "names no model")],
)
def test_a_configuration_that_is_none(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        RunFolder(tmp_path).read_config()


def test_checkpoints_are_data(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"__import__('pathlib').Path({str(marker)!r}).touch()",)

    file = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": {}, "x": Hostile()}, file)
    with pytest.raises(ValueError, match="holds more than tensors and plain data"):
        read_checkpoint(file)
    assert not marker.exists()


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    whole = tmp_path / "whole.ckpt"
    torch.save({"state_dict": {"w": torch.randn(1000)}, "global_step": 1}, whole)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(ValueError, match="cut short"):
        read_checkpoint(cut)
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.ckpt"):
        read_checkpoint(tmp_path / "empty.ckpt")
    with pytest.raises(ValueError, match="does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint of pyroformer"):
        read_checkpoint(tmp_path / "list.ckpt")


def test_metrics_survive_a_kill(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append_metrics({"step": step, "objective": step / 2, "split": "train"})
    with folder.metrics_file.open("a") as file:
        file.write("4,1.")  # a row that was being written
    assert folder.read_metrics()["step"] == [1, 2, 3]
    folder.forget_metrics_after(2)
    folder.append_metrics({"step": 3, "objective": 7.0, "split": "valid"})
    assert folder.read_metrics() == {
        "step": [1, 2, 3],
        "objective": [0.5, 1.0, 7.0],
        "split": ["train", "train", "valid"],
    }


def test_a_folder_is_a_path(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder / "metrics.csv" == tmp_path / "metrics.csv" and Path(folder) == tmp_path


def test_rows_of_metrics_that_are_none_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_file.write_text("step,split\n1,train\nx,train\n2\n2,valid\n3,train\n")
    folder.forget_metrics_after(2)
    assert folder.metrics_file.read_text().split() == ["step,split", "1,train", "2,valid"]
