"""Command line: fit, fit-prior, evaluate, sample, reconstruct, interpolate, swap, edit, posterior, plot, demo."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence

from ..utils.files import is_disk_full
from ..utils.processes import rank
from ..utils.registry import imported
from .parser import COMMANDS, overview, parse
from .usage_errors import UsageError

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
    with _silent_unless_first(), _local_modules():
        try:
            return _run(arguments)
        except UsageError as error:
            return _fail(str(error), 2)
        except ValueError as error:
            return _fail(str(error), 1)
        except KeyboardInterrupt:
            return _fail("interrupted; what was saved until now can be used, and fit goes on with --resume", 130)
        except BrokenPipeError:  # the reader of the output has closed it, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            return _fail(f"{error.filename or 'a file'}: {error.strerror or error}. {_way_out(error)}", 1)
        except RuntimeError as error:
            if (message := _resource_message(error)) is None:
                raise
            return _fail(message, 1)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        from ... import __version__

        print(f"pyroformer {__version__}")
        return 0
    command, *rest = arguments
    command = command.replace("_", "-")
    if command not in COMMANDS:
        raise UsageError(f"command {command!r} is unknown: choose one of {', '.join(COMMANDS)}.")
    try:
        values = parse(command, rest)
    except SystemExit as end:  # help or a configuration was printed
        return int(end.code or 0)
    imported(COMMANDS[command])(**values)
    return 0


def _fail(message: str, code: int) -> int:
    if rank() == 0:
        message = re.sub(r"\btrust=\['([^']+)'\]", r"--trust \1", " ".join(message.split()))
        print(f"error: {message}", file=sys.stderr)
    return code


def _way_out(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Nothing already written is lost: make room, then fit goes on with --resume."
    return "Check the path and its permissions."


def _resource_message(error: RuntimeError) -> str | None:
    """The message for torch's RuntimeErrors on a full disk and on a device without memory; None for others."""
    if is_disk_full(error):
        return f"a checkpoint could not be written. {_way_out(OSError(errno.ENOSPC, ''))}"
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "the device has no memory left: lower --batch_size and raise --accumulate_grad_batches, or take a smaller "
            "--size."
        )
    return None


@contextlib.contextmanager
def _silent_unless_first() -> Iterator[None]:
    """No output from other processes than the first of several that train together."""
    with contextlib.ExitStack() as stack:
        if rank() > 0:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


@contextlib.contextmanager
def _local_modules() -> Iterator[None]:
    """Imports from the current folder, as with ``python -m``, for classes that are named by import path."""
    before = list(sys.path)
    sys.path.append("")
    try:
        yield
    finally:
        sys.path[:] = before
