"""Experiments of many runs that go on where they stopped: one JSON file a result, and none is made again."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pyroformer.inference.corpus import Corpus
from pyroformer.inference.folder import write_atomically
from pyroformer.inference.run import Run, load
from pyroformer.inference.training import fit
from pyroformer.models.base import Model

__all__ = ["cell", "figure", "finished", "make_missing", "parameters", "read", "trained"]

Result = dict[str, Any]


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


def read(out: Path) -> list[Result]:
    """All results that there are."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]


def trained(
    folder: Path, seed: int, make: Callable[[], tuple[Model, nn.Module | None]], corpus: Corpus, **options: Any
) -> tuple[Run, float]:
    """A model fitted to a corpus."""

    def work(out: Path, resume: bool) -> Run:
        torch.manual_seed(seed)
        return fit(*make(), corpus, out=out, resume=resume, seed=seed, **options)

    return finished(folder, work)


def finished(folder: Path, work: Callable[[Path, bool], Run]) -> tuple[Run, float]:
    """What ``work(folder, resume)`` fits, from its folder if it is finished there, and the seconds that it took."""
    done = folder / "seconds.txt"
    if not done.exists():
        run = work(folder, folder.exists())
        done.write_text(str(run.folder.read_metrics()["seconds"][-1]))
    return load(folder), float(done.read_text())


def parameters(*modules: nn.Module | None) -> int:
    return len(torch.nn.utils.parameters_to_vector({p for m in modules if m is not None for p in m.parameters()}))


def figure(result: Result, name: str, unit: str) -> float | None:
    """A number of an evaluation; where nothing is latent the bound is exact, and all bounds are one."""
    figures = result["evaluation"]["figures"] | result.get("diversity", {})
    if name == "importance_weighted" and name not in figures:
        name = "bound"
    value: float | None = figures.get(name, {}).get("units", {}).get(unit, {}).get("value")
    return value


def cell(values: Sequence[float | None], digits: int) -> str:
    """A mean, with its standard error if there are several values."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if len(known) == 1:
        return f"{known[0]:.{digits}f}"
    return f"{np.mean(known):.{digits}f} ± {np.std(known, ddof=1) / len(known) ** 0.5:.{max(1, digits)}f}"
