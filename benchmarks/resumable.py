"""Resumable experiments of many runs: one JSON file per result; existing results are kept."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from reporting import argument_parser
from torch import nn

from pyroformer.inference.data.corpus import Corpus
from pyroformer.inference.evaluation.metrics.diversity import diversity
from pyroformer.inference.run import Run, load
from pyroformer.inference.training.fit import fit
from pyroformer.inference.utils.files import write_atomically
from pyroformer.models.base import Model

__all__ = [
    "FORMER",
    "FORMER_NVAE",
    "Result",
    "corpus_in",
    "error",
    "experiment_parser",
    "file_name",
    "finished",
    "grouped",
    "make_missing",
    "measured",
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


def experiment_parser(document: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options of an experiment on texts: ``--data``, ``--out``, ``--shard`` and those with defaults."""
    parser = argument_parser(document, **defaults)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--shard", default="0/1", help="part I of N of the work, as 0/2, for several processes")
    return parser


def make_missing(out: Path, tasks: Iterable[tuple[str, Callable[[], Result]]], shard: str = "0/1") -> None:
    """Run the tasks that have no result yet; of several processes each does its share ``i/n`` of them."""
    part, parts = map(int, shard.split("/"))
    out.mkdir(parents=True, exist_ok=True)
    for number, (name, work) in enumerate(tasks):
        path = out / f"{name}.json"
        if number % parts != part or path.exists():
            continue
        print(name, flush=True)
        _write(path, work())


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
    before = json.loads(path.read_text()) if path.exists() else settings
    for name in settings:
        if before.get(name) != settings[name]:
            raise SystemExit(
                f"{out} holds results with {name} = {before.get(name)}, not {settings[name]}: use that value, or "
                "choose another --out."
            )
    out.mkdir(parents=True, exist_ok=True)
    _write(path, settings)


def _write(path: Path, content: Result) -> None:
    text = json.dumps(content, indent=1)
    write_atomically(path, lambda beside: beside.write_text(text))


def read(out: Path) -> list[Result]:
    """All results in a folder."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json")) if path.name != SETTINGS]


def grouped(results: Iterable[Result], key: Callable[[Result], Any]) -> dict[Any, list[Result]]:
    """The results of each key, such as those of all seeds of a model."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def file_name(*parts: object) -> str:
    """The name of a result's file from what tells it from others.

    Examples:
        >>> file_name("llama, learned", "seed1"), file_name("Student's t", 0)
        ('llama-learned.seed1', 'Students-t.0')
    """
    return ".".join(map(str, parts)).replace(",", "").replace("'", "").replace(" ", "-")


def corpus_in(folder: Path, options: argparse.Namespace, **more: Any) -> Corpus:
    """The corpus of ``--data`` without texts over ``--max_length``, prepared in a folder once."""
    if folder.exists():
        return Corpus.load(folder)
    return Corpus.from_file(options.data, max_length=options.max_length, overlong="drop", folder=folder, **more)


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


def measured(run: Run, seconds: float, options: argparse.Namespace) -> Result:
    """The size and the metrics of a run, and some of its texts."""
    samples, test = run.sample(options.samples, seed=2), run.corpus.test
    variety = diversity(samples, test[: 10 * options.samples], seed=3)
    reconstructions = [] if run.guide is None else run.reconstruct(test[:10])
    return {
        "parameters": parameters(run.model, run.guide),
        "seconds": seconds,
        "step": run.step,
        "evaluation": run.evaluate(limit=options.texts, num_particles=options.num_particles, seed=1).as_dict(),
        "diversity": {key: value.as_dict() for key, value in variety.items()},
        "samples": samples[:10],
        "reconstructions": [(each.original, each.text) for each in reconstructions],
    }


def parameters(*modules: nn.Module | None) -> int:
    return sum(p.numel() for p in {p for module in modules if module is not None for p in module.parameters()})


def metric(result: Result, name: str, unit: str) -> float | None:
    """A metric of a result; without latents the bound is exact, and all bounds are equal."""
    return _entry(result, name, unit).get("value")


def error(result: Result, name: str, unit: str) -> float | None:
    """The standard error of a metric over texts, if it has one."""
    return _entry(result, name, unit).get("standard_error")


def _entry(result: Result, name: str, unit: str) -> dict[str, Any]:
    metrics = result["evaluation"]["metrics"] | result.get("diversity", {})
    if name == "importance_weighted" and name not in metrics:
        name = "bound"
    entry: dict[str, Any] = metrics.get(name, {}).get("units", {}).get(unit, {})
    return entry
