"""Files for the user: over no run, no input and no device, through links, and whole or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pyroformer.inference.utils.outputs import check_output, write_output


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    for name in ("config.yaml", "metrics.csv", "corpus/train.npy", "checkpoints/best.ckpt"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("needed")
    return run


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "metrics.csv", "corpus/train.npy", "corpus/new", "checkpoints/best.ckpt", "corpus/../metrics.csv"],
)
def test_no_file_of_a_run_is_written_over(name: str, run: Path) -> None:
    with pytest.raises(ValueError, match="is a file of the run .*run, which needs it: choose another file"):
        check_output("--json", str(run / name))
    (run.parent / "link").symlink_to(run / name)
    with pytest.raises(ValueError, match="is a file of the run"):
        check_output("--json", str(run.parent / "link"))


def test_other_files_in_the_folder_of_a_run_are_the_users(run: Path) -> None:
    check_output("--json", str(run / "evaluation.json"))
    check_output("--json", str(run.parent / "config.yaml"))


def test_folders_missing_folders_and_inputs_are_refused(run: Path) -> None:
    folder = run.parent
    (folder / "texts.txt").write_text("texts")
    with pytest.raises(ValueError, match=r"--out .*run is a folder: name a file"):
        check_output("--out", str(run))
    with pytest.raises(ValueError, match=r"lies in no folder: make .*none first"):
        check_output("--out", str(folder / "none" / "x.nc"))
    with pytest.raises(ValueError, match="is also what is read"):
        check_output("--out", str(folder / "texts.txt"), [None, str(folder / "texts.txt")])
    with pytest.raises(ValueError, match="--out '' is a folder"):
        check_output("--out", "")


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "target").write_text("old")
    (tmp_path / "folder" / "target").chmod(0o600)
    (tmp_path / "link").symlink_to("folder/target")
    write_output(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "target").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "folder" / "target").stat().st_mode) == 0o600
    (tmp_path / "dangling").symlink_to("folder/made")
    write_output(str(tmp_path / "dangling"), b"new")
    assert (tmp_path / "dangling").is_symlink() and (tmp_path / "folder" / "made").read_text() == "new"


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"needs the right to make and use devices ({error})")
    check_output("--json", str(device))
    write_output(str(device), b"lost")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    check_output("--json", str(tmp_path / "pipe"))
    write_output(str(tmp_path / "pipe"), b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_standard_output_that_is_a_file_keeps_what_was_printed(tmp_path: Path) -> None:
    code = "from pyroformer.inference.utils.outputs import *; print('before', flush=True); " \
        "check_output('--json', '/dev/stdout'); write_output('/dev/stdout', b'content\\n'); print('after')"  # fmt: skip
    with (tmp_path / "out").open("a") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\ncontent\nafter\n"
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
def test_a_folder_in_which_nothing_can_be_made_is_refused_before_the_work() -> None:
    with pytest.raises(ValueError, match="--json /proc/new.json cannot be written: check its permissions"):
        check_output("--json", "/proc/new.json")
