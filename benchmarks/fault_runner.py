"""Runner of injected faults: a bad input is refused in one line, or the result is right; files stay as they are."""

import contextlib
import hashlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any, NamedTuple

import pyroformer
from pyroformer.inference.cli.main import main

__all__ = [
    "TINY",
    "VERDICTS",
    "Case",
    "Ending",
    "Result",
    "Workplace",
    "alone",
    "digest",
    "fresh",
    "import_all",
    "in_process",
    "judge",
    "run_case",
    "table",
]

TINY = "--model.width 8 --model.layers 2 --model.heads 2 --vocabulary 270 --max_length 32 --batch_size 8"
VERDICTS = {"traceback": "tracebacks", "wrong": "silent wrong results", "lost": "lost files", "hung": "hangs"}
SECONDS = 60  # of the processor, after which a case hangs; ten times as many by the clock, on a busy machine
ENTRY = "from pyroformer.inference.cli.main import main; raise SystemExit(main())"
TEXTS = [f"Number {i} is {'even' if i % 2 == 0 else 'odd'}, the next is {i + 1}." for i in range(120)]


class Ending(NamedTuple):
    """How a command or a call ended."""

    code: int
    out: str = ""
    error: str = ""


class Case(NamedTuple):
    """One fault and what is right then.

    Arguments:
        kind: The row of the table.
        name: What is wrong, for the report.
        act: A command line with the fields of a workplace, ``{root}``, ``{run}`` and ``{new}``, or a call that gets
            the workplace.
        works: None if it must be refused; otherwise a test of an accepted result.
        must_work: Whether it may not be refused.
        damage: Applied to a copy of a run, which is then ``{run}``.
        model: The model of that run.
    """

    kind: str
    name: str
    act: "str | Callable[[Workplace], Any]"
    works: "Callable[[Ending, Workplace], bool] | None" = None
    must_work: bool = False
    damage: Callable[[Path], object] | None = None
    model: str = "nvae"


class Result(NamedTuple):
    """The verdict on a case: ``refused`` and ``right`` are what it should be."""

    kind: str
    name: str
    verdict: str
    detail: str = ""
    seconds: float = 0.0


class Workplace(NamedTuple):
    """Files and small runs under ``root``, shared by the cases, and a folder of the case's own."""

    root: Path
    own: Path
    model: str = "nvae"

    @property
    def run(self) -> Path:
        copy = self.own / "run"
        return copy if copy.exists() else self.root / self.model

    @property
    def new(self) -> Path:
        return self.own / "new"

    def fill(self, command: str) -> list[str]:
        return [part.format(root=self.root, run=self.run, new=self.new, own=self.own) for part in shlex.split(command)]

    @classmethod
    def make(cls, root: Path, models: Iterable[str] = ("nvae", "vae", "della", "lm")) -> "Workplace":
        """Writes the texts and trains the runs, each in a process of its own."""
        root.mkdir(parents=True, exist_ok=True)
        (root / "good.txt").write_text("\n".join(TEXTS))
        (root / "other.txt").write_text("\n".join(text[::-1] for text in TEXTS))
        for model in models:
            command = f"fit {model} --data {root}/good.txt --out {root}/{model} --steps 3 --validations 1 {TINY}"
            if (ending := alone(partial(main, shlex.split(command)))).code:
                raise SystemExit(f"a run to damage could not be made: {ending.error}")
        return cls(root, root)


def import_all() -> None:
    """Imports whatever a command imports, once for all children of this process."""
    ours = [each.name for each in walk_packages(pyroformer.__path__, "pyroformer.")]
    for module in ("torch._dynamo", "arviz", *ours):
        if not module.endswith("__main__"):
            import_module(module)


def run_case(case: Case, place: Workplace) -> Result:
    """Injects one fault and judges what comes."""
    own = Path(tempfile.mkdtemp(dir=place.root.parent))
    place = Workplace(place.root, own, case.model)
    try:
        if case.damage is not None:
            shutil.copytree(place.root / case.model, own / "run")
            case.damage(own / "run")
        before = digest(place.root), digest(own / "run")
        ending = in_process(lambda: _act(case, place))
        lost = before != (digest(place.root), digest(own / "run"))
        return judge(case, ending, place, lost)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def judge(case: Case, ending: Ending, place: Workplace, lost: bool = False) -> Result:
    """The verdict on an ending: one line for what is refused, a right result for what is accepted."""
    said = [line for line in ending.error.splitlines() if not line.startswith(("warning: ", "left out: "))]
    detail = f"code {ending.code}: {' / '.join(said)[-400:]}"
    if lost:
        verdict = "lost"
    elif ending.code == -signal.SIGALRM:
        verdict = "hung"
    elif ending.code == 0:
        right = case.works is not None and case.works(ending, place)
        verdict, detail = ("right" if right else "wrong"), f"accepted: {ending.out[-200:]} {detail}"
    elif ending.code in (1, 2) and len(said) == 1 and said[0].startswith("error: "):
        verdict = "wrong" if case.must_work else "refused"
    else:
        verdict = "traceback"
    return Result(case.kind, case.name, verdict, "" if verdict in ("refused", "right") else detail)


def in_process(act: Callable[[], int]) -> Ending:
    """The ending of a command in this process."""
    out, error = io.StringIO(), io.StringIO()
    handlers = [(number, signal.signal(number, _too_long)) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(10 * SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = act()
    except _Hangs:
        code = -signal.SIGALRM
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        code = 70
        error.write(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in handlers:
            signal.signal(number, handler)
    return Ending(code, out.getvalue(), error.getvalue())


def alone(act: Callable[[], int], setup: Callable[[], object] = lambda: None) -> Ending:
    """The ending of a command in a child process, which has everything imported already."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = os.fork()
        if not child:
            _become(act, setup, out.fileno(), error.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Ending(os.waitstatus_to_exitcode(status), *texts)


def fresh(arguments: Iterable[str], environment: Mapping[str, str | None], folder: Path) -> Ending:
    """The ending of a command in a new interpreter; variables that are None are removed."""
    values = {**os.environ, **environment}
    kept = {name: value for name, value in values.items() if value is not None}
    try:
        process = subprocess.run(
            [sys.executable, "-c", ENTRY, *arguments], env=kept, cwd=folder, capture_output=True, timeout=10 * SECONDS
        )
    except subprocess.TimeoutExpired:
        return Ending(-signal.SIGALRM)
    return Ending(process.returncode, *(text.decode(errors="replace") for text in (process.stdout, process.stderr)))


def digest(folder: Path) -> str:
    """A hash of the names and contents of all files in a folder; pipes and devices by their names alone."""
    total = hashlib.blake2b()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode())
        if path.is_file() and not path.is_symlink():
            total.update(path.read_bytes())
    return total.hexdigest()


def table(results: Sequence[Result]) -> str:
    """One row a kind, and their sums."""
    head = ["kind of fault", "injected", "refused in one line", "right results", *VERDICTS.values(), "CPU seconds"]
    kinds = list(dict.fromkeys(result.kind for result in results))
    rows = []
    for kind in [*kinds, *(["all"] if len(kinds) > 1 else [])]:
        those = [result for result in results if kind in (result.kind, "all")]
        counts = Counter(result.verdict for result in those)
        numbers = [counts.total(), *(counts[v] for v in ("refused", "right", *VERDICTS))]
        rows.append([kind, *(f"{n:,}" for n in (*numbers, round(sum(result.seconds for result in those))))])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows])


class _Hangs(BaseException):
    pass


def _too_long(*_: object) -> None:
    raise _Hangs


def _act(case: Case, place: Workplace) -> int:
    if isinstance(case.act, str):
        with contextlib.chdir(place.own):
            return main(place.fill(case.act))
    try:
        case.act(place)
    except (ValueError, TypeError) as error:  # what the library refuses, as the command line would
        if len(str(error).splitlines()) != 1 or not _of_library(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _of_library(error: BaseException) -> bool:
    """Whether an error was raised by the library, and not by what it calls."""
    frames: Iterator[Any] = traceback.walk_tb(error.__traceback__)
    *_, (last, _) = frames
    return (
        isinstance(error, TypeError)
        or "pyroformer" in Path(last.f_code.co_filename).resolve().parts
        or any(part in Path(last.f_code.co_filename).parts for part in ("models", "guides", "inference"))
    )


def _become(act: Callable[[], int], setup: Callable[[], object], out: int, error: int) -> None:
    """Turns a forked child into the process of a command; does not return."""
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(error, 2)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", closefd=False)
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts with &
        setup()
        code = act()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
