"""Resumable experiments of many runs: one JSON file per result; existing results are kept."""

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

__all__ = [
    "FORMER",
    "FORMER_NVAE",
    "cell",
    "error",
    "finished",
    "make_missing",
    "metric",
    "parameters",
    "read",
    "same_settings",
    "trained",
]

# The default networks at the time of the stored results, for those that continue them: GPT-2's, and that of the NVAE.
_BLOCKS: dict[str, Any] = {"norm": "layer", "activation": "gelu_tanh", "bias": True}
FORMER: dict[str, Any] = _BLOCKS | {"positions": "learned", "init_std": 0.02}
FORMER_NVAE: dict[str, Any] = _BLOCKS | {"positions": "sinusoidal"}

Result = dict[str, Any]
SETTINGS = "settings.json"
# Options and metrics of results that were stored under earlier names.
RENAMED = {
    "window": "max_length",
    "particles": "num_particles",
    "information": "mutual_information",
    "mismatch": "marginal_kl",
}


def make_missing(out: Path, tasks: Iterable[tuple[str, Callable[[], Result]]], shard: str = "0/1") -> None:
    """Run the tasks that have no result yet; of several processes each does its share ``i/n`` of them."""
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
    """Refuse a folder of results with other settings: they are not comparable.

    Arguments:
        out: The folder of the results.
        options: The options of the command line.
        free: Names of options that change no result.
    """
    settings = {
        name: value.resolve().name if isinstance(value, Path) else str(value)
        for name, value in vars(options).items()
        if name not in ("out", "shard", *free)
    }
    path = out / SETTINGS
    before = _renamed(json.loads(path.read_text())) if path.exists() else settings
    for name in settings:
        if before.get(name) != settings[name]:
            raise SystemExit(
                f"{out} holds results with {name} = {before.get(name)}, not {settings[name]}: use that value, or "
                "choose another --out."
            )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda beside: beside.write_text(json.dumps(settings, indent=1)))


def read(out: Path) -> list[Result]:
    """All results in a folder."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.name != SETTINGS]


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(name, name): value for name, value in values.items()}


def trained(
    folder: Path, seed: int, make: Callable[[], tuple[Model, nn.Module | None]], corpus: Corpus, **options: Any
) -> tuple[Run, float]:
    """A model fitted to a corpus."""

    def work(out: Path, resume: bool) -> Run:
        torch.manual_seed(seed)
        return fit(*make(), corpus, out=out, resume=resume, seed=seed, **options)

    return finished(folder, work)


def finished(folder: Path, work: Callable[[Path, bool], Run]) -> tuple[Run, float]:
    """The run that ``work(folder, resume)`` fits, loaded if it is finished, and its training time in seconds.

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


def metric(result: Result, name: str, unit: str) -> float | None:
    """A metric of a result; without latents the bound is exact, and all bounds are equal."""
    value: float | None = _entry(result, name, unit).get("value")
    return value


def error(result: Result, name: str, unit: str) -> float | None:
    """The standard error of a metric over texts, if it has one."""
    value: float | None = _entry(result, name, unit).get("standard_error")
    return value


def _entry(result: Result, name: str, unit: str) -> dict[str, Any]:
    evaluation = result["evaluation"]
    measured = evaluation["metrics" if "metrics" in evaluation else "figures"]  # the key of older results
    metrics = _renamed(measured) | result.get("diversity", {})
    if name == "importance_weighted" and name not in metrics:
        name = "bound"
    entry: dict[str, Any] = metrics.get(name, {}).get("units", {}).get(unit, {})
    return entry


def cell(values: Sequence[float | None], digits: int, error: float | None = None) -> str:
    """A mean with its standard error over several values; a single value with its own error, if it has one."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if len(known) == 1:
        form = ".1e" if abs(known[0]) >= 1e5 else f".{digits}f"
        return f"{known[0]:{form}}" + ("" if error is None else f" ± {error:{form}}")
    return f"{np.mean(known):.{digits}f} ± {np.std(known, ddof=1) / len(known) ** 0.5:.{max(1, digits)}f}"
