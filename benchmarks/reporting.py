"""Utilities of the experiments: a mean with its standard error, a markdown table, peak memory, a command line."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

__all__ = ["Scores", "add", "argument_parser", "command_line", "evenly", "profiled_peak", "table"]

Scores = dict[str, dict[str, list[float]]]
"""Row, column, one score per seed."""


def add(scores: Scores, row: str, **columns: float) -> None:
    """One seed's scores of one method."""
    for column, value in columns.items():
        scores.setdefault(row, {}).setdefault(column, []).append(value)


def table(scores: Mapping[str, Mapping[str, Sequence[float]]], digits: int = 3) -> str:
    """Means over seeds with their standard errors."""
    columns = list(dict.fromkeys(column for row in scores.values() for column in row))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(_cell(row.get(c), digits) for c in columns)} |" for name, row in scores.items()]
    return "\n".join(lines) + "\n"


def argument_parser(document: str | None) -> argparse.ArgumentParser:
    """A parser whose help is a script's docstring, in its own lines."""
    return argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)


def command_line(report: Callable[[int], str], document: str | None, seeds: int) -> None:
    """Print ``report(seeds)``, with the options ``--seeds`` and ``--out``."""
    parser = argparse.ArgumentParser(description=(document or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--out", type=Path, help="file to write the tables to as well")
    options = parser.parse_args()
    text = report(options.seeds)
    print(text)
    if options.out is not None:
        options.out.write_text(text)


def evenly(texts: Sequence[str], n: int) -> list[str]:
    """At most ``n`` of the texts, evenly spaced: neighbors are often pieces of one text."""
    indices = np.linspace(0, len(texts) - 1, min(n, len(texts))).round().astype(int)
    return [texts[int(index)] for index in indices]


def profiled_peak(step: Callable[[], object]) -> int:
    """Peak memory of a step on the CPU in bytes, beyond what was allocated before it, by the profiler."""
    with torch.autograd.profiler.profile(profile_memory=True) as record:
        step()
    assert record.kineto_results is not None
    events = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _cell(values: Sequence[float] | None, digits: int) -> str:
    if not values:
        return "–"
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"
