"""Faults, injected: bad inputs, damaged runs, full disks, hostile environments and kills, and what comes of them.

    python benchmarks/faults.py --page docs/robustness.md

prints one table: of each kind of fault how many were injected, and how many were refused in one line or gave a right
result. What is not so is listed below it, and the exit code is then 1.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import fault_commands
import fault_folders
import fault_kills
import fault_library
import fault_machine
import torch
from fault_runner import VERDICTS, Case, Result, Workplace, import_all, run_case, table

__all__ = ["main"]

Group = Callable[[Workplace], Iterable[Case | Result]]
GROUPS: dict[str, Group] = {  # the longest first
    **{f"kills of {m}": partial(fault_kills.kill_results, model=m) for m in ("nvae", "vae", "della", "lm")},
    "options": lambda place: fault_commands.option_cases(),
    "run folders": fault_folders.folder_cases,
    "environments": fault_machine.environment_results,
    "full disks": fault_machine.disk_results,
    "files": lambda place: fault_commands.file_cases(),
    "library": fault_library.library_cases,
    "texts": lambda place: fault_commands.text_cases(),
    "outputs": lambda place: fault_commands.path_cases(),
    "threads": fault_machine.thread_results,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Injects all faults, or those of some groups, and prints the table."""
    parser = argparse.ArgumentParser(description="Inject faults and count what comes of them.")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="Print each case as it ends.")
    parser.add_argument("--page", type=Path, help="A page of the documentation to write the table to.")
    parser.add_argument(
        "--keep", type=Path, help="A file to keep verdicts in; groups that have some are not run again."
    )
    options = parser.parse_args(arguments)
    if options.page is not None and not options.page.is_file():
        parser.error(f"--page {options.page} is no file: give the page that the table is in")
    start, kept = time.monotonic(), Kept(options.keep)
    import_all()
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace.make(Path(folder) / "place")
        groups = {name: GROUPS[name] for name in options.only if name not in kept.groups}
        for name, found in in_groups(groups, place, options.processes, options.verbose):
            kept.add(name, found)
    minutes = (time.monotonic() - start) / 60
    results = [result for name in GROUPS for result in kept.groups.get(name, [])]
    text = table(results)
    bad = [result for result in results if result.verdict in VERDICTS]
    print(f"\n{text}\n\n{len(bad)} of {len(results):,} are not as they should be; {minutes:.1f} minutes")
    if options.page is not None and len(kept.groups) == len(GROUPS):
        begin, mark, _ = options.page.read_text().partition("<!-- table -->\n")
        options.page.write_text(f"{begin}{mark}\n{text}\n")
    return 1 if bad else 0


class Kept:
    """The results of groups, in a file if there is one, so that groups can be run one by one."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.groups: dict[str, list[Result]] = {}
        if file is not None and file.exists():
            self.groups = {
                name: [Result(*each) for each in found] for name, found in json.loads(file.read_text()).items()
            }

    def add(self, name: str, results: list[Result]) -> None:
        self.groups[name] = results
        if self.file is not None:
            self.file.write_text(json.dumps(self.groups))


def in_groups(
    groups: dict[str, Group], place: Workplace, processes: int, verbose: bool = False
) -> Iterator[tuple[str, list[Result]]]:
    """The results of the groups, each in a process of its own, some at a time; printed as they come."""
    waiting, running, started = list(groups), {}, 0
    while waiting or running:
        while waiting and len(running) < processes:
            name = waiting.pop(0)
            started += 1
            file = place.root.parent / f"group-{started}.json"
            running[_start(groups[name], place, file, verbose)] = name, file
        child, status = os.wait()
        name, file = running.pop(child)
        crashed = [Result(name, "the whole group", "traceback", f"ended with {os.waitstatus_to_exitcode(status)}")]
        found = [Result(*each) for each in json.loads(file.read_text())] if file.exists() else crashed
        _report(name, found)
        yield name, found


def _report(name: str, results: Sequence[Result]) -> None:
    """The verdicts of a group in a line, and each fault that has no good end."""
    counts = Counter(result.verdict for result in results)
    seconds = sum(result.seconds for result in results)
    print(f"{name}: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}; {seconds:.0f} s", flush=True)
    for result in results:
        if result.verdict in VERDICTS:
            print(f"  {result.verdict}: {result.name}\n    {result.detail}", flush=True)


def _start(group: Group, place: Workplace, file: Path, verbose: bool) -> int:
    """The number of a process that works on a group and writes its results into a file."""
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    results: list[Result] = []
    try:
        own = file.with_suffix("")
        shutil.copytree(place.root, own / "place")
        here = Workplace(own / "place", own / "place")
        cases = iter(group(here))
        begin = _cpu_seconds()
        while (case := next(cases, None)) is not None:
            result = case if isinstance(case, Result) else run_case(case, here)
            begin, seconds = (now := _cpu_seconds()), now - begin
            results.append(result._replace(seconds=seconds))
            if verbose:
                print(f"{seconds:.2f}", *result[:4], file=sys.stderr, flush=True)
    except BaseException:
        results.append(Result("runner", "the whole group", "traceback", traceback.format_exc()[-800:]))
    finally:
        file.write_text(json.dumps(results))
        os._exit(0)


def _cpu_seconds() -> float:
    """Of this process and of the children that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    raise SystemExit(main())
