"""From a large file of text to the first step of training: seconds and memory of ``pyroformer fit``.

    python benchmarks/preparing.py [--megabytes 1000] [--kill_after 120] [--folder FOLDER]

The file has one sentence a line, made of words of the built-in corpus at their frequencies; two words in a hundred are
halves of two words, as real texts always have words that are new. With ``--kill_after`` a preparation is killed after
so many seconds, and the one that is measured then goes on from it. Seconds are of the clock and of all processors,
those of ``wc -w`` beside them; memory is the sum over the processes of a command, of pages that processes share each
its part.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from reporting import argument_parser, markdown

import pyroformer as pf

PART = 200_000  # words at a time
NEW = 0.02  # share of the words that are halves of two


class Measured(NamedTuple):
    """Seconds of the clock and of processors, MB at the most, and the exit status."""

    seconds: float
    cpu: float
    peak: float
    status: int


def write(path: Path, megabytes: float, seed: int = 0) -> int:
    """Writes the file; returns the number of its lines."""
    corpus = pf.Corpus.builtin()
    texts = corpus.train[:]
    counts = Counter(word for text in texts for word in text.split())
    words, numbers = np.array(list(counts), dtype=object), np.array(list(counts.values()), dtype=float)
    lengths = np.array([max(1, len(text.split())) for text in texts])
    generator, lines = np.random.default_rng(seed), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < 1e6 * megabytes:
            drawn = generator.choice(words, PART, p=numbers / numbers.sum())
            for place in np.flatnonzero(generator.random(PART) < NEW):
                one, other = drawn[place], drawn[place - 1]
                drawn[place] = one[: len(one) // 2 + 1] + other[len(other) // 2 :]
            ends = np.cumsum(generator.choice(lengths, PART // int(lengths.mean())))
            for part in np.split(drawn, ends[ends < PART]):
                file.write(" ".join(part) + "\n")
                lines += 1
    return lines


def measured(command: list[str], kill_after: float | None = None) -> Measured:
    """Runs a command, and kills all of its processes after some seconds if it has not ended by then."""
    before, begin, peak = _cpu(), time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, sum(map(_memory, _tree(process.pid))))
        if kill_after is not None and time.monotonic() - begin > kill_after:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.2)
    return Measured(time.monotonic() - begin, _cpu() - before, peak / 1e6, process.returncode)


def report(folder: Path, megabytes: float, kill_after: float | None) -> str:
    """The table."""
    path, out = folder / "texts.txt", folder / "run"
    lines = write(path, megabytes)
    size = path.stat().st_size / 1e9
    fit = [sys.executable, "-m", "pyroformer", "fit", "lm", "--data", str(path), "--out", str(out), "--steps", "1"]
    rows = {"wc -w": measured(["wc", "-w", str(path)])}
    if kill_after is not None:
        rows[f"fit, killed after {kill_after:g} s"] = measured(fit, kill_after)
    rows["fit, to the first step" if kill_after is None else "the same command again"] = measured(fit)
    table = [
        [f"`{name}`", *(f"{x:.0f}" for x in (row.seconds, row.cpu, row.seconds / size, row.peak)), row.status]
        for name, row in rows.items()
    ]
    head = ["command", "s", "CPU s", "s a GB", "MB at the most", "exit status"]
    return f"{size:.2f} GB, {lines:,} texts\n\n{markdown(head, table)}"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(root: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    found = [root]
    for process in found:
        try:
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        except OSError:  # it has ended
            continue
        found += map(int, children)
    return found


def _memory(process: int) -> int:
    """Bytes of a process in memory, of shared pages its part."""
    try:
        entries = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(entry.split()[1]) for entry in entries if entry.startswith("Pss:"))


def main() -> None:
    parser = argument_parser(__doc__, megabytes=1000.0)
    parser.add_argument("--kill_after", type=float)
    parser.add_argument("--folder", type=Path, help="where to write; what is written is deleted at the end")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        print(report(folder, options.megabytes, options.kill_after))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
