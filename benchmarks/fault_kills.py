"""Kills at random moments of every phase: a resumed run ends at the bits of one that was not interrupted."""

import os
import random
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fault_machine import same_checkpoint
from fault_runner import TINY, Ending, Result, Workplace, alone, digest

from pyroformer.inference.cli.main import main
from pyroformer.inference.data import corpus
from pyroformer.inference.objectives.elbo import ELBO
from pyroformer.inference.training.lightning_module import Training

__all__ = ["kill_results"]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TEXTS = 8  # that are evaluated
# The calls that a phase consists of.
PHASES: dict[str, tuple[Any, str]] = {
    "preparing": (corpus, "build_corpus"),
    "training": (Training, "training_step"),
    "checkpointing": (torch, "save"),
    "validating": (Training, "validate"),
}
EVALUATING = ELBO, "trace_terms"  # once for each text, or once for all where nothing is latent


class Moment(NamedTuple):
    """A moment of a run: a share of the time of the ``count``-th call of a phase."""

    phase: str
    count: int
    share: float


def kill_results(place: Workplace, model: str, steps: int = 40, rounds: int = 1) -> Iterator[Result]:
    """Kills a run of a model in each phase, and an evaluation of it, at moments that a seed decides."""
    chance = random.Random(f"{model} {steps}")
    folder = place.root.parent
    fit = f"fit {model} --data {place.root}/good.txt --steps {steps} --validations 4 {TINY}"
    whole = folder / f"whole-{model}"
    calls = _counted(partial(main, [*shlex.split(fit), "--out", str(whole)]), folder / f"calls-{model}")
    for number in range(rounds):
        for index, phase in enumerate(PHASES):
            moment = Moment(phase, chance.randrange(max(1, len(calls[phase]) - 1)), chance.random())
            sent = SIGNALS[(index + number + len(model)) % len(SIGNALS)]
            cut = folder / f"cut-{model}-{phase}-{number}"
            arguments = [*shlex.split(fit), "--out", str(cut), "--resume"]
            seconds = calls[phase][moment.count] * moment.share
            first = alone(
                partial(main, arguments),
                lambda m=moment, s=seconds, n=sent: _arm(PHASES[m.phase], m.count, lambda: _send_later(s, n)),
            )
            second = alone(partial(main, arguments))
            yield _verdict(f"{model}, {phase}, {sent.name}", first, second, same_checkpoint(whole, cut), sent)
        yield _killed_evaluation(place, model, whole, chance, SIGNALS[(number + len(model)) % len(SIGNALS)])


def _verdict(name: str, first: Ending, second: Ending, same: bool, sent: signal.Signals) -> Result:
    detail = f"{first.code} {first.error[-200:]}, then {second.code} {second.error[-200:]}"
    if "Traceback" in first.error + second.error:
        return Result("kills", name, "traceback", detail)
    if first.code not in (-sent, 128 + sent):
        return Result("kills", name, "wrong", f"not interrupted: {detail}")
    return Result("kills", name, "right" if second.code == 0 and same else "lost", detail)


def _killed_evaluation(place: Workplace, model: str, run: Path, chance: random.Random, sent: signal.Signals) -> Result:
    """An evaluation that is killed leaves the run as it was, and the next one gives what one alone gives."""
    out = run.parent / f"metrics-{model}.json"
    arguments = ["evaluate", str(run), "--limit", str(TEXTS), "--num_particles", "8", "--json", str(out)]
    before = digest(run)
    expected = alone(partial(main, arguments))
    values, count = out.read_bytes(), 0 if model == "lm" else chance.randrange(TEXTS)
    first = alone(partial(main, arguments), lambda: _arm(EVALUATING, count, lambda: os.kill(os.getpid(), sent)))
    whole = out.read_bytes() == values  # the file of before, or a new one: never a part
    second = alone(partial(main, arguments))
    same = whole and second.out == expected.out and out.read_bytes() == values and digest(run) == before
    return _verdict(f"{model}, evaluating, {sent.name}", first, second, same, sent)


def _counted(act: Callable[[], int], file: Path) -> dict[str, list[float]]:
    """The seconds of each call of each phase in a run."""

    def setup() -> None:
        for phase in PHASES:
            _wrap(PHASES[phase], lambda call, phase=phase: _timed(call, phase, file))

    ending = alone(act, setup)
    if ending.code:
        raise RuntimeError(f"the run to compare with failed: {ending.error}")
    calls: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for line in file.read_text().splitlines():
        phase, seconds = line.split()
        calls[phase].append(float(seconds))
    return calls


def _timed(call: Callable[[], Any], phase: str, file: Path) -> Any:
    begin = time.monotonic()
    value = call()
    with file.open("a") as out:
        out.write(f"{phase} {time.monotonic() - begin}\n")
    return value


def _arm(phase: tuple[Any, str], count: int, send: Callable[[], object]) -> None:
    """Lets this process be killed during the call of a phase that comes after ``count`` others."""
    done = 0

    def counted(call: Callable[[], Any]) -> Any:
        nonlocal done
        done += 1
        if done == count + 1:
            send()
        return call()

    _wrap(phase, counted)


def _wrap(phase: tuple[Any, str], around: Callable[[Callable[[], Any]], Any]) -> None:
    owner, name = phase
    call = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(lambda: call(*args, **kwargs)))


def _send_later(seconds: float, sent: signal.Signals) -> None:
    """Starts a process that sends a signal to this one, wherever it then is."""
    target = os.getpid()
    if not os.fork():
        time.sleep(seconds)
        if os.getppid() == target:
            os.kill(target, sent)
        os._exit(0)
