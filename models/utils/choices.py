"""The check of an option that takes one of a few names."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["check_choice"]


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
        ValueError: form is 'publshed': choose one of exact, published (did you mean published?)
    """
    choices = tuple(choices)
    if value in choices:
        return
    names = [str(choice) for choice in choices]
    close = get_close_matches(str(value).lower(), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{name} is {value!r}: choose one of {', '.join(names)}{hint}")
