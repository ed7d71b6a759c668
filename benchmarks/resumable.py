"""Experiments of many runs that go on where they stopped: one JSON file a result, and none is made again."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.run import Run, load
from pyroformer.inference.training.fit import fit
from pyroformer.inference.utils.files import write_atomically
from pyroformer.models.base import Model

__all__ = ["cell", "error", "figure", "finished", "make_missing", "parameters", "read", "same_settings", "trained"]

Result = dict[str, Any]
SETTINGS = "settings.json"


def make_missing(out: Path, tasks: Iterable[tuple[str, Callable[[], Result]]], shard: str = "0/1") -> None:
    """Does what has no result yet; of several processes each takes its part ``i/n`` of the work."""
    part, parts = map(int, shard.split("/"))
    out.mkdir(parents=True, exist_ok=True)
    for number, (name, work) in enumerate(tasks):
        path = out / f"{name}.json"
        if number % parts != part or path.exists():
            continue
        print(name, flush=True)
        content = json.dumps(work(), indent=1)
        write_atomically(path, lambda beside, content=content: beside.write_text(content))  # type: ignore[misc]


def same_settings(out: Path, options: argparse.Namespace, free: Sequence[str]) -> None:
    """Results of other settings do not compare: refuses a folder that was begun with others.

    Arguments:
        out: The folder of the results.
        options: What the command line said.
        free: Those of them that change no result.
    """
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("out", "shard", *free)}
    settings["data"] = options.data.resolve().name
    path = out / SETTINGS
    before = json.loads(path.read_text()) if path.exists() else settings
    for name in settings:
        if before.get(name) != settings[name]:
            raise SystemExit(
                f"{out} was begun with {name} = {before.get(name)}, not {settings[name]}: go on with that, or choose "
                "another --out."
            )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda beside: beside.write_text(json.dumps(settings, indent=1)))


def read(out: Path) -> list[Result]:
    """All results that there are."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.name != SETTINGS]


def trained(
    folder: Path, seed: int, make: Callable[[], tuple[Model, nn.Module | None]], corpus: Corpus, **options: Any
) -> tuple[Run, float]:
    """A model fitted to a corpus."""

    def work(out: Path, resume: bool) -> Run:
        torch.manual_seed(seed)
        return fit(*make(), corpus, out=out, resume=resume, seed=seed, **options)

    return finished(folder, work)


def finished(folder: Path, work: Callable[[Path, bool], Run]) -> tuple[Run, float]:
    """What ``work(folder, resume)`` fits, from its folder if it is finished there, and the seconds that it took.

    Of several processes that need the same run, one fits it and the others wait.
    """
    done = folder / "seconds.txt"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            run = work(folder, folder.exists())
            done.write_text(str(run.folder.read_metrics()["seconds"][-1]))
    return load(folder), float(done.read_text())


def parameters(*modules: nn.Module | None) -> int:
    return len(torch.nn.utils.parameters_to_vector({p for m in modules if m is not None for p in m.parameters()}))


def figure(result: Result, name: str, unit: str) -> float | None:
    """A number of an evaluation; where nothing is latent the bound is exact, and all bounds are one."""
    value: float | None = _entry(result, name, unit).get("value")
    return value


def error(result: Result, name: str, unit: str) -> float | None:
    """The standard error of a number over the texts that it was measured on, where there is one."""
    value: float | None = _entry(result, name, unit).get("standard_error")
    return value


def _entry(result: Result, name: str, unit: str) -> dict[str, Any]:
    figures = result["evaluation"]["figures"] | result.get("diversity", {})
    if name == "importance_weighted" and name not in figures:
        name = "bound"
    entry: dict[str, Any] = figures.get(name, {}).get("units", {}).get(unit, {})
    return entry


def cell(values: Sequence[float | None], digits: int, error: float | None = None) -> str:
    """A mean, with its standard error if there are several values; with that which is known of it if there is one."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if len(known) == 1:
        form = ".1e" if abs(known[0]) >= 1e5 else f".{digits}f"
        return f"{known[0]:{form}}" + ("" if error is None else f" ± {error:{form}}")
    return f"{np.mean(known):.{digits}f} ± {np.std(known, ddof=1) / len(known) ** 0.5:.{max(1, digits)}f}"
