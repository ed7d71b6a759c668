"""Command line: fit, fit-prior, evaluate, sample, reconstruct, interpolate, swap, edit, posterior, plot, look, demo."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import current_thread, main_thread

from ..utils.processes import rank
from ..utils.registry import imported
from .memory_limits import check_numbers, resource_message
from .typed import Flags, as_typed, typed
from .usage_errors import UsageError, check_typed
from .user_modules import LocalFinder, import_options, local_modules

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 if it failed, 2 if the arguments were not understood.

    Arguments:
        argv: The arguments, without the program's name; those of the process by default.

    Examples:
        >>> main(["fit", "nvea"])
        2
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with (
        typed(arguments),
        _silent_unless_first(arguments),
        _warnings_in_one_line({}),
        local_modules() as finder,
        _noted_interrupts() as interrupts,
    ):
        code, message = _outcome(arguments, finder, interrupts)
        if message is not None and _is_first(arguments):
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return code


def _outcome(arguments: list[str], finder: LocalFinder, interrupts: Sequence[int]) -> tuple[int, str | None]:
    """The exit code of a command and its error message; errors after Ctrl-C are attributed to it."""
    try:
        return _run(arguments, finder), None
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except Exception as error:
        return _interrupted(arguments) if interrupts else _explained(error, arguments)


def _interrupted(arguments: list[str]) -> tuple[int, str]:
    way_on = _way_on(arguments)
    return 130, f"interrupted; {way_on}" if way_on else "interrupted"


def _way_on(arguments: list[str]) -> str | None:
    """How to continue an interrupted training; None if the command trains nothing into a user's folder."""
    command = "".join(arguments[:1]).replace("_", "-")
    if command not in ("fit", "fit-prior"):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", nargs="?")
    out = parser.parse_known_args(arguments)[0].out
    if out and Path(out, "config.yaml").exists():
        return f"{command} goes on with --resume, from what was saved"
    return "the same command begins again, from what was prepared"


def _explained(failure: Exception, arguments: list[str]) -> tuple[int, str | None]:
    """The exit code and the message of an error that a user can do something about; others are raised again."""
    try:
        raise failure
    except UsageError as error:
        return 2, str(error)
    except ValueError as error:
        return 1, str(error)
    except BrokenPipeError:  # the reader of the output has closed it, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0, None
    except OSError as error:
        return 1, f"{error.filename or 'a file'}: {error.strerror or error}. {_way_out(error, arguments)}"
    except (MemoryError, OverflowError, RecursionError, RuntimeError) as error:
        if (message := resource_message(error, arguments)) is None:
            raise
        return 1, message


def _run(arguments: list[str], finder: LocalFinder) -> int:
    # Half a second, in which Ctrl-C ends in one line.
    from .parser import COMMANDS, flags, overview, parse, with_underscores

    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        from ... import __version__

        print(f"pyroformer {__version__}")
        return 0
    if sys.flags.optimize > 1:
        raise UsageError(
            "python runs without docstrings (-OO), which Pyro reads: unset PYTHONOPTIMIZE, or leave -OO out."
        )
    command, *rest = arguments
    command = command.replace("_", "-")
    check_typed("command", command, COMMANDS)
    try:
        values = parse(command, import_options([with_underscores(item) for item in rest], finder))
        check_numbers(values)
    except SystemExit as end:  # help or a configuration was printed
        return int(end.code or 0)
    known = flags(command, values)
    with _warnings_in_one_line(known):
        try:
            imported(COMMANDS[command])(**values)
        except ValueError as error:
            raise ValueError(as_typed(str(error), known)) from error
    return 0


def _way_out(error: OSError, arguments: list[str]) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"Nothing already written is lost: make room, then {_way_on(arguments) or 'give the command again'}."
    return "Check the path and its permissions."


def _is_first(arguments: list[str]) -> bool:
    """Whether this is the only process or the first of several; only ``fit`` trains in several."""
    if arguments[:1] != ["fit"]:
        return True
    try:
        return rank() == 0
    except ValueError:  # which the command itself raises: it is to be seen
        return True


@contextlib.contextmanager
def _silent_unless_first(arguments: list[str]) -> Iterator[None]:
    """No output from other processes than the first of several that train together."""
    with contextlib.ExitStack() as stack:
        if not _is_first(arguments):
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


@contextlib.contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """The signals of Ctrl-C: torch swallows the interrupt that arrives while it imports NumPy, which then fails."""
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or current_thread() is not main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _warnings_in_one_line(flags: Flags) -> Iterator[None]:
    """Warnings of pyroformer as one line that names options as they are typed, as its errors are; those of other
    packages with the place in their source.
    """
    before = warnings.formatwarning

    def one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is UserWarning and "pyroformer" in Path(filename).parts:
            return f"warning: {as_typed(' '.join(str(message).split()), flags)}\n"
        return before(message, category, filename, lineno, line)

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before
