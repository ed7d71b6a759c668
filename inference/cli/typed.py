"""What was typed: the command that is running, and the flags by which messages of the library name its options."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

__all__ = ["Flag", "Flags", "as_typed", "typed", "typed_command"]

_arguments: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """Remembers the arguments of a command while it runs."""
    token = _arguments.set(tuple(arguments))
    try:
        yield
    finally:
        _arguments.reset(token)


def typed_command() -> str | None:
    """The command that is running, quoted for a shell; None outside of the command line.

    Examples:
        >>> with typed(["fit", "nvae", "--data", "my texts.txt"]):
        ...     typed_command()
        "pyroformer fit nvae --data 'my texts.txt'"
        >>> typed_command() is None
        True
    """
    arguments = _arguments.get()
    return shlex.join(["pyroformer", *arguments]) if arguments else None


class Flag(NamedTuple):
    """An option as it is typed, the words that it chooses among, and the value that was typed, or None."""

    name: str
    choices: tuple[str, ...] = ()
    value: Any = None


Flags = Mapping[str, Sequence[Flag]]  # the flags of each argument in Python: delta is --delta, or --model.delta


def as_typed(message: str, flags: Flags) -> str:
    """A message of the library that names the options as they were typed, or as they would be typed.

    An argument that several flags set is the one that was typed. Words that are also English are options only where
    messages name options: where a sentence begins (``width is 15``), beside the value that was typed, and in the way
    out (``leave beta out``, ``another width``, ``choose attention softmax``).

    Arguments:
        message: The message.
        flags: The flags of the command by argument; an alternative with another argument is left out.

    Examples:
        >>> flags = {"delta": [Flag("--delta"), Flag("--model.delta", value=0.1)], "greedy": [Flag("--greedy")]}
        >>> as_typed("delta is 0.1, and there is a weight_prior beside it: leave delta out.", flags)
        '--model.delta is 0.1, and there is a weight_prior beside it: leave --model.delta out.'
        >>> as_typed("give a positive number, or greedy=True.", {}), as_typed("or greedy=True", flags)
        ('give a positive number.', 'or --greedy')
    """
    message = re.sub(r"\btrust=\['([^']+)'\]", r"--trust \1", message)
    if "condition" in flags:
        message = message.replace("pairs (condition, text)", "the field of the conditions as condition=FIELD")
    message = re.sub(r", or (\w+)=(?:True|\d+)\b", lambda match: match[0] if match[1] in flags else "", message)
    for pattern, in_flags in _PLACES:
        message = pattern.sub(partial(_replaced, in_flags, flags), message)
    return message


def _replaced(in_flags: Callable[[re.Match[str], Flags], str | None], flags: Flags, match: re.Match[str]) -> str:
    return in_flags(match, flags) or match[0]


def _assigned(match: re.Match[str], flags: Flags) -> str | None:
    """``compile=blocks`` is ``--compile blocks``."""
    value = {"True": "", "False": " false"}.get(match[2], f" {match[2]}".replace("'", ""))
    return (name := _named(match[1], flags)) and name + value


def _chosen(match: re.Match[str], flags: Flags) -> str | None:
    """``choose the objective elbo`` is ``choose --objective elbo``, because that is one of its words."""
    known = match[3].strip("'") in {choice for flag in flags.get(match[2], ()) for choice in flag.choices}
    return f"{match[1]} {_named(match[2], flags)} {match[3]}" if known else None


def _begins(match: re.Match[str], flags: Flags) -> str | None:
    """``width is 15`` and ``width 15`` at the beginning."""
    return (name := _named(match[1], flags, match[3])) and name + match[2] + match[3]


def _short(match: re.Match[str], flags: Flags) -> str | None:
    """``--model.delta is 0.2`` at the beginning is ``--delta is 0.2``, if that was typed."""
    typed = [flag.name for flag in flags.get(match[1], ()) if flag.value is not None]
    return typed[0] if typed and match[0] not in typed else None


def _has_typed_value(match: re.Match[str], flags: Flags) -> str | None:
    """``and attention is softmax`` and ``heads = 3`` elsewhere, if just this was typed."""
    name = next((flag.name for flag in flags.get(match[1], ()) if _same(flag.value, match[3])), None)
    return name and name + match[2] + match[3]


def _to_change(match: re.Match[str], flags: Flags) -> str:
    """``leave beta at 1``, ``leave the condition out``, ``another width or heads``."""
    return re.sub(r"(?:the )?(\w+)", lambda each: _named(each[1], flags) or each[0], match[0])


def _whole(match: re.Match[str], flags: Flags) -> str | None:
    return _named(match[0], flags)


_FREE = r"(?<![\w./'\"=-])"  # neither a part of a path or a flag, nor quoted
_VALUE = r"'[^']*'|[\w+-]+(?:\.\w+)*"
_PLACES = (
    (re.compile(rf"{_FREE}(\w+)=({_VALUE})"), _assigned),
    (re.compile(r"\b(choose|give|or|take|with) (?:the )?(?!choose|give|take)(\w+) ('\w+'|\w+)"), _chosen),
    (re.compile(rf"^(\w+)( (?:is|needs) | (?=-?[\d.]+:))({_VALUE}|)"), _begins),
    (re.compile(r"^--\w+\.(\w+)"), _short),
    (re.compile(rf"{_FREE}(?<!the )(?<!its )\b(\w+)( is | are | = )({_VALUE})"), _has_typed_value),
    (re.compile(r"(?<=\bleave )(?:the )?\w+(?= (?:out|at)\b)"), _to_change),
    (re.compile(r"(?<=\banother )(?<!with another )\w+(?: or \w+)?|(?<=\bneeds )\w+(?=,)"), _to_change),
    (re.compile(r"(?<=\bfit anew with another )\w+"), _to_change),
    (re.compile(r"(?<=\ba larger )\w+(?: or \w+)?"), _to_change),
    (re.compile(rf"{_FREE}\w+_\w+(?![\w/'\"(=]|\.\w)"), _whole),  # no word of English has an underscore
)


def _named(argument: str, flags: Flags, value: str | None = None) -> str | None:
    """The flag of an argument: the one that was typed with this value, or typed, or the first; None if it has none."""
    known = flags.get(argument, ())
    typed = [flag for flag in known if flag.value is not None]
    same = [flag for flag in typed if _same(flag.value, value)]
    if typed and not same and None not in map(_number, (value, *(flag.value for flag in typed))):
        return None  # the argument of something else, such as a part of the model
    return next((flag.name for flag in (*same, *typed, *known)), None)


def _same(typed: Any, text: str | None) -> bool:
    """Whether a value that was typed is the one in a message."""
    if typed is None or text is None:
        return False
    one, other = _number(typed), _number(text)
    return str(typed) == text.strip("'") if one is None or other is None else one == other


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
