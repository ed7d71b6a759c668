"""Errors of usage in one line: the messages of jsonargparse, with the value, the rule and the way out.

Messages of an unknown form are passed on as they are, in one line.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ...models.utils.choices import check_choice

__all__ = ["UsageError", "check_typed", "type_members", "usage_message"]

Kinds = Mapping[str, Any]  # the type of each flag


class UsageError(ValueError):
    """Arguments that are not understood; :class:`ValueError` is for those that are understood and cannot be used."""


def check_typed(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises a UsageError unless a word that was typed is one of ``choices``.

    Examples:
        >>> check_typed("model", "nvea", ("lm", "nvae"))
        Traceback (most recent call last):
        pyroformer.inference.cli.usage_errors.UsageError: model is 'nvea': choose one of lm, nvae (did you mean nvae?).
    """
    try:
        check_choice(name, value, choices)
    except ValueError as error:
        raise UsageError(str(error)) from None


def usage_message(message: str, program: str, usage: str, kinds: Kinds) -> str:
    """One line for a message of jsonargparse.

    Arguments:
        message: The message, of one or more lines.
        program: The program and the command, such as ``pyroformer fit nvae``.
        usage: The usage of the command.
        kinds: The type of each flag.

    Examples:
        >>> usage_message("unrecognized arguments: --step 3", "pyroformer fit lm", "...", {"--steps": int})
        'pyroformer fit lm has no option --step: did you mean --steps? See pyroformer fit lm --help.'
        >>> usage_message("Something new:\\n  not known here.", "pyroformer plot", "...", {})
        'Something new: not known here. See pyroformer plot --help.'
    """
    if match := re.match(r'Parser key "([\w.]+)":(.*)', message, re.DOTALL):
        return _wrong_value(match[1], match[2], kinds)
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown_option(match[1].partition("=")[0], program, kinds)
    if match := re.match(r"Option '([\w.]+)' is not accepted", message):
        return _unknown_option(f"--{match[1]}", program, kinds)
    if match := re.match(r"argument (\S+): expected", message):
        return f"{match[1]} needs a value: give {_expected(kinds.get(match[1], str))}."
    if match := re.match(r"the following arguments are required: (\w+)", message):
        return f"{program} needs {match[1].upper()}: {usage}."
    if message.startswith("Problems parsing config"):
        return f"the file of --config is not YAML: {_one_line(message.partition(':')[2])}."
    if message.startswith("Unexpected config"):
        content = _one_line(message.partition(":")[2])
        return f"the file of --config must hold lines of the form 'option: value', not {content!r}."
    return f"{_one_line(message).rstrip('.') or 'the arguments are not understood'}. See {program} --help."


def type_members(kind: Any) -> list[Any]:
    """The members of a union without None, or the type itself."""
    members = get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,)
    return [member for member in members if member not in (None, NoneType)]


def _wrong_value(key: str, details: str, kinds: Kinds) -> str:
    if key == "config":
        return f"the file of --config cannot be read: {_one_line(details)}."
    flag = f"-{key}" if len(key) == 1 else f"--{key}"
    expected = _expected(kinds.get(flag, str))
    if match := re.search(r"given class_path '([^']+)':\s*(.*?)\s*(- Expected|Given value|$)", details, re.DOTALL):
        return _wrong_argument(flag, match[1], _one_line(match[2]).rstrip("."), expected)
    value = re.search(r"(?:Given|Got) value: (.*)", details)
    if value is None:
        return f"{flag} cannot be used ({_one_line(details).rstrip('.')}): give {expected}."
    if match := re.match(r"NestedArg\(key='([\w.]+)'", value[1]):
        return f"{flag}.{match[1]} is an argument of a class, and {flag} gives none: give {flag} {expected}."
    return f"{flag} is {value[1].strip()!r}: give {expected}."


def _wrong_argument(flag: str, path: str, reason: str, expected: str) -> str:
    """The message for a wrong argument of a class given by its import path, or for the class itself."""
    if match := re.match(r"Option '([\w.]+)' is not accepted", reason):
        return f"{flag}.{match[1]} cannot be set: {path} has no such argument, or the model gives it: leave it out."
    if match := re.match(r'Parser key "([\w.]+)": Expected an? (.+)\. Got value: (.*)', reason):
        kind = re.sub(r"typing\.Literal\[(.*)\]", lambda found: f"one of {found[1].replace(chr(39), '')}", match[2])
        kind = re.sub(r"<class '(\w+)'>", lambda found: _NAMED.get(found[1], found[1]), kind)
        return f"{flag}.{match[1]} is {match[3].strip()!r}: give {kind}."
    return f"{flag} {path} cannot be used ({reason}): give {expected}."


def _unknown_option(flag: str, program: str, kinds: Kinds) -> str:
    if not flag.startswith("-"):
        return f"{flag!r} is one argument too many for {program}. See {program} --help."
    near = get_close_matches("--" + flag.lstrip("-").replace("-", "_"), kinds, n=1)
    return f"{program} has no option {flag}{f': did you mean {near[0]}?' if near else '.'} See {program} --help."


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_NAMED = {kind.__name__: words for kind, words in _TYPE_NAMES.items()}


def _expected(kind: Any) -> str:
    """The values of a type, in words."""
    words = []
    for member in type_members(kind):
        if get_origin(member) is Literal:
            choices = ", ".join(map(str, get_args(member)))
            words.append(f"one of {choices}" if len(get_args(member)) > 1 else choices)
        elif isinstance(member, type):
            words.append(_TYPE_NAMES.get(member) or f"the import path of a {member.__name__}, as in my_module.MyPrior")
    return " or ".join(words) or "a value"


def _one_line(text: str) -> str:
    return " ".join(text.split())
