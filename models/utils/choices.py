"""The checks of names: of an option that takes one of a few, and of options."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

__all__ = ["check_choice", "check_known", "chosen"]

N = TypeVar("N", bound=str)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises unless ``value`` is one of ``choices``.

    Arguments:
        name: The option's name, for the message.
        value: The option's value.
        choices: All values that the option takes, in the order in which the message lists them.

    Raises:
        ValueError: If ``value`` is none of them; the message lists them and points out one that is spelled alike.

    Examples:
        >>> check_choice("form", "exact", ("exact", "published"))
        >>> check_choice("form", "publshed", ("exact", "published"))
        Traceback (most recent call last):
        ValueError: form is 'publshed': choose one of exact, published (did you mean published?).
    """
    choices = tuple(choices)
    if value in choices:
        return
    names = [str(choice) for choice in choices]
    close = get_close_matches(str(value).lower(), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{name} is {value!r}: choose one of {', '.join(names)}{hint}.")


def chosen(name: str, values: object, choices: Iterable[N]) -> tuple[N, ...]:
    """One of a few names, or several, as a tuple.

    Raises:
        ValueError: If one is none of ``choices``.

    Examples:
        >>> chosen("moves", "means", ("means", "weights")), chosen("moves", ["weights"], ("means", "weights"))
        (('means',), ('weights',))
    """
    given: tuple[Any, ...] = (
        tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)
    )
    for value in given:
        check_choice(name, value, choices)
    return given


def check_known(
    owner: str, names: Iterable[str], known: Iterable[str], rest: str, meant: Mapping[str, str] | None = None
) -> None:
    """Raises unless each of ``names`` is an option.

    Arguments:
        owner: Whose options they are, for the message.
        names: The names that were given.
        known: The names of all options.
        rest: The end of the message: where all are listed.
        meant: What is probably meant by names that are no options.

    Raises:
        ValueError: If one is unknown; the message points out what is meant, or one that is spelled alike.

    Examples:
        >>> check_known("fit", ["step"], ["seed", "steps"], "help(pyroformer.fit) lists all.")
        Traceback (most recent call last):
        ValueError: fit has no option step: did you mean steps? help(pyroformer.fit) lists all.
    """
    known = tuple(known)
    for name in names:
        if name not in known:
            close = [meant[name]] if meant and name in meant else get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"{owner} has no option {name}: {hint}{rest}")
