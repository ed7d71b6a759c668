"""Faults of the machine: environments, full disks, threads."""

import contextlib
import json
import os
import resource
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import xarray
from fault_runner import TINY, Case, Ending, Result, Workplace, alone, digest, fresh, judge

import pyroformer as pf
from pyroformer.inference.cli.main import main
from pyroformer.inference.runs.checkpoints import read_checkpoint

__all__ = ["disk_results", "environment_results", "same_checkpoint", "thread_results"]

# Variables that the library or Lightning reads while it runs, under sample and fit; None removes one.
VARIABLES: list[dict[str, str | None]] = [
    *({"RANK": value} for value in ("x", "-1", "", "1")),
    {"LOCAL_RANK": "x"},
    *({"WORLD_SIZE": value} for value in ("x", "0", "4")),
    {"RANK": "0", "WORLD_SIZE": "2"},
    {"MASTER_PORT": "x"},
    {"MASTER_ADDR": "nowhere.invalid"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"},
    {"SLURM_NTASKS": "x"},
    {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"},
    {"SLURM_PROCID": "x", "SLURM_LOCALID": "x"},
    {"PMI_RANK": "x", "OMPI_COMM_WORLD_SIZE": "x"},
    {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/none"},
    {"KUBERNETES_PORT": "x"},
    {"HOME": None},
    {"HOME": "/proc/none"},
    {"PATH": ""},
    {"TERM": "dumb", "COLUMNS": "x", "LINES": "-1"},
    {"NO_COLOR": "1", "COLUMNS": "0"},
    {"CUDA_VISIBLE_DEVICES": "99"},
    {"PYTORCH_CUDA_ALLOC_CONF": "x"},
    {"XDG_CACHE_HOME": "/proc/none", "MPLCONFIGDIR": "/proc/none", "HF_HOME": "/proc/none"},
]
# Variables that an interpreter or torch reads as it starts.
STARTS: list[dict[str, str | None]] = [
    *({"PYTHONIOENCODING": value} for value in ("ascii", "utf-16")),
    {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    *({"OMP_NUM_THREADS": value} for value in ("0", "x")),
    {"TMPDIR": "/proc/none", "TEMP": None, "TMP": None},
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONHASHSEED": "7", "PYTHONDONTWRITEBYTECODE": "1"},
]


def environment_results(place: Workplace) -> Iterator[Result]:
    """Hostile variables: the answer without them, or one line."""
    sample = ["sample", str(place.root / "nvae"), "-n", "2"]
    texts = alone(partial(main, sample)).out
    whole = place.root.parent / "environment"
    fit = f"fit vae --data {place.root}/good.txt --out {{}} --steps 2 --validations 1 {TINY}"
    alone(partial(main, shlex.split(fit.format(whole))))
    for number, variables in enumerate(VARIABLES):
        own = place.root.parent / f"environment-{number}"
        for arguments in (sample, shlex.split(fit.format(own))):
            before = digest(place.root)
            ending = alone(partial(main, arguments), partial(_set, variables))
            right = (
                _answer(texts) if arguments is sample else lambda ending, place, own=own: same_checkpoint(whole, own)
            )
            case = Case("environments", f"{arguments[0]}, {variables}", "", right)
            yield judge(case, ending, place, before != digest(place.root))
    for variables in STARTS:
        without_docstrings = "PYTHONOPTIMIZE" in variables
        case = Case("environments", f"sample, {variables}", "", _answer(texts), must_work=not without_docstrings)
        if "utf-16" in variables.values():
            case = case._replace(works=lambda ending, place: ending.out != "")
        ending = fresh(sample, variables, place.own)
        said = [line for line in ending.error.splitlines() if not line.startswith(("OMP:", "libgomp:"))]
        yield judge(case, ending._replace(error="\n".join(said)), place)


def disk_results(place: Workplace) -> Iterator[Result]:
    """Disks that fill up at each size: one line, nothing lost, and a run that goes on when there is room."""
    fit = f"fit nvae --data {place.root}/good.txt --steps 6 --validations 3 {TINY}"
    whole = place.root.parent / "whole"
    alone(partial(main, [*shlex.split(fit), "--out", str(whole)]))
    needed = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    for part in (1, 3, 5, 7, 9, 12):
        with _small_disk(place.root.parent / f"disk-{part}", needed * part // 10) as (folder, setup, grow):
            arguments = [*shlex.split(fit), "--out", str(folder / "run"), "--resume"]
            ending = alone(partial(main, arguments), setup)
            case = Case(
                "full disks",
                f"fit, {10 * part} % of the room",
                "",
                lambda ending, place, run=folder / "run": same_checkpoint(whole, run),
            )
            yield judge(case, ending, place)
            grow()
            ending = alone(partial(main, arguments))
            same = ending.code == 0 and same_checkpoint(whole, folder / "run")
            yield Result(
                "full disks", f"fit goes on after {10 * part} %", "right" if same else "wrong", str(ending)[-300:]
            )
    outputs = {
        "evaluate": f"evaluate {place.root}/nvae --limit 4 --num_particles 2 --json {{}}/old",
        "posterior": f"posterior {place.root}/nvae -n 4 --draws 20 --out {{}}/old",
        "plot": f"plot {place.root}/nvae --out {{}}/plots",
        "fit-prior": f"fit-prior {place.root}/nvae --steps 2 --out {{}}/prior",
    }
    for name, command in outputs.items():
        for size in (0, 4, 16):
            with _small_disk(place.root.parent / f"{name}-{size}", 1024 * size) as (folder, setup, _):
                (folder / "old").touch()
                with contextlib.suppress(OSError):
                    (folder / "old").write_text("old")
                old, before = (folder / "old").read_bytes(), digest(place.root)
                ending = alone(partial(main, shlex.split(command.format(folder))), setup)
                lost = before != digest(place.root) or (ending.code != 0 and (folder / "old").read_bytes() != old)
                case = Case("full disks", f"{name} in {size} KiB", "", _whole_files(folder))
                yield judge(case, ending, place, lost)


def thread_results(place: Workplace) -> Iterator[Result]:
    """Calls from several threads at once: what they give alone, or one line."""
    run = pf.load(place.root / "nvae")
    queries, mixture = torch.randn(50, 8), pf.Mixture(torch.zeros(9), torch.randn(9, 8), noise_variance=1.0)
    calls: dict[str, Callable[[], object]] = {
        "sample": lambda: run.sample(2, seed=3),
        "reconstruct": lambda: run.reconstruct("Number 3 is odd.").text,
        "bound": lambda: run.bound(["Number 3 is odd."], num_particles=4).tolist(),
        "attend": lambda: pf.attend(queries, mixture).tolist(),
        "encode": lambda: run.encode(["Number 3 is odd."]).memory().means.tolist(),
    }
    for name, call in calls.items():
        alone_value = call()
        values = _threads([call] * 4)
        fine = all(isinstance(value, ValueError) or value == alone_value for value in values)
        yield Result("threads", name, "right" if fine else "wrong", str(values)[-300:])
    first, second = calls["sample"], calls["reconstruct"]
    fine = _threads([first, second, first, second]) == [first(), second()] * 2
    yield Result("threads", "sample beside reconstruct", "right" if fine else "wrong")

    def train() -> object:
        model = pf.VAE.for_corpus(run.corpus, size="tiny")
        return pf.fit(model, pf.VAEGuide(model), run.corpus, steps=3, validations=1, progress=False).step

    values = _threads([train, train])
    fine = 3 in values and all(value == 3 or isinstance(value, ValueError) for value in values)
    yield Result("threads", "two trainings", "right" if fine else "wrong", str(values)[-300:])


def same_checkpoint(first: Path, second: Path) -> bool:
    """Whether two runs end at the same weights, best weights and state of the optimizer, bit by bit."""
    for name in ("last.ckpt", "best.ckpt"):
        one, two = (read_checkpoint(run / "checkpoints" / name) for run in (first, second))
        for part in ("state_dict", "optimizer_states", "global_step"):
            if not _equal(one.get(part), two.get(part)):
                return False
    return True


def _equal(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return isinstance(two, (list, tuple)) and len(one) == len(two) and all(map(_equal, one, two))
    return one == two


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _answer(texts: str) -> Callable[[Ending, Workplace], bool]:
    """Whether the texts are those, in whatever escapes an encoding needs."""
    expected = list(map(json.loads, texts.splitlines()))
    return lambda ending, place: list(map(json.loads, ending.out.splitlines())) == expected


def _whole_files(folder: Path) -> Callable[[Ending, Workplace], bool]:
    """Whether each file is whole, by its format, and there is one."""

    def whole(path: Path) -> bool:
        content = path.read_bytes()
        if path.suffix == ".png":
            return content.endswith(b"IEND\xaeB`\x82")
        if path.suffix == ".ckpt":
            return bool(read_checkpoint(path))
        if content.startswith(b"\x89HDF"):
            return "log_p" in xarray.open_dataset(path, group="sample_stats")
        return path.suffix != "" or bool(json.loads(content))

    def test(ending: Ending, place: Workplace) -> bool:
        files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
        return bool(files) and all(whole(path) for path in files if path.parent.name != "prior" or path.suffix)

    return test


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[tuple[Path, Callable[[], object], Callable[[], object]]]:
    """A folder with little room, what a process does to have no more, and how to make room.

    A file system of its own where this machine lets us mount one; otherwise files of a limited size.
    """
    folder.mkdir()
    pages = max(4096, size)
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={pages}", "small", folder], capture_output=True
    ).returncode
    limit = (lambda: None) if mounted else (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, size // 4)))

    def grow() -> None:
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)

    try:
        yield folder, limit, grow
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def _threads(calls: list[Callable[[], object]]) -> list[object]:
    values: list[object] = [None] * len(calls)

    def work(number: int) -> None:
        try:
            values[number] = calls[number]()
        except Exception as error:
            values[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return values
